package auth_test

import (
	"os"
	"testing"

	"strake/internal/auth"
	"strake/internal/conformance"
)

func TestMain(m *testing.M) {
	auth.PostgreSQL = conformance.PostgreSQL
	os.Exit(m.Run())
}
