package layer

import (
	"os"
	"testing"
	"time"
)

func TestSmoke(t *testing.T) {
	f, err := os.Open(os.Getenv("SMOKE"))
	if err != nil {
		t.Skip()
	}
	idx, _ := os.Create(os.Getenv("SMOKE") + ".idx")
	side, _ := os.Create(os.Getenv("SMOKE") + ".side")
	b := time.Now()
	info, err := WriteIndex(t.Context(), f, idx, side)
	t.Log(info, err, time.Since(b))
}
