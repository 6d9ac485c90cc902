package content

import (
	"bytes"
	"crypto/sha256"
	"io"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// TestPartLosesItsEnd: where others took the room that a part lent, it says what it holds, and goes on behind that.
func TestPartLosesItsEnd(t *testing.T) {
	fd, err := unix.MemfdCreate("part", unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "part")
	d := &Dir{Full: func() bool {
		if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_GROW); err != nil {
			t.Error(err)
		}
		return true
	}}
	p := &part{dir: d, name: "part", file: f, hash: sha256.New()}
	data := bytes.Repeat([]byte("data"), lent)
	if _, err := p.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := p.makeRoom(); err == nil {
		t.Fatal("the end was written back")
	}
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	held := info.Size()
	if held >= int64(len(data)) || p.Offset() != held || p.Digest() != digest.FromBytes(data[:held]) {
		t.Errorf("the part says %d bytes, %s, and holds %d of %d", p.Offset(), p.Digest(), held, len(data))
	}
	if at, err := f.Seek(0, io.SeekCurrent); err != nil || at != held {
		t.Errorf("goes on at %d: %v", at, err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}
