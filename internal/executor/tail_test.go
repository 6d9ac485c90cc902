package executor_test

import (
	"bytes"
	"io"
	"os"
	"testing"
	"time"

	"strake/internal/executor"
)

// What a process wrote is read to the end however slowly, and who holds its stream after its end is not waited for.
func TestTail(t *testing.T) {
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = write.Close() }()
	defer func() { _ = read.Close() }()
	tail := executor.NewTail(read, 20*time.Millisecond)
	if _, err := write.WriteString("one"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 3)
	if n, err := tail.Read(buf); n != 3 || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	time.AfterFunc(10*time.Millisecond, tail.End) // while it is read
	if n, err := tail.Read(buf); n != 0 || !os.IsTimeout(err) {
		t.Fatalf("%d, %v", n, err)
	}
	if _, err := write.Write(make([]byte, 60000)); err != nil {
		t.Fatal(err)
	}
	time.Sleep(30 * time.Millisecond) // longer than its time
	var rest bytes.Buffer
	if n, err := io.Copy(&rest, tail); n != 60000 || !os.IsTimeout(err) {
		t.Errorf("%d, %v", n, err)
	}
	go func() {
		for { // for ever, if it is read
			if _, err := write.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	}()
	if n, err := io.Copy(io.Discard, tail); n < 900_000 || n > 2<<20 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
}
