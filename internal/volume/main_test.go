package volume

import (
	"os"
	"testing"

	"strake/internal/usertest"
)

func TestMain(m *testing.M) { os.Exit(usertest.Run(m)) }
