package executor

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
)

// TestFaultFilter: whatever the pieces, everything is passed on but a last line that is the runtime's.
func TestFaultFilter(t *testing.T) {
	for _, test := range []struct{ in, started, failed string }{
		{"", "", ""},
		{"a\nb", "a\nb", "a\nb"},
		{"runc run failed: x\n", "runc run failed: x\n", ""},
		{"a\nrunc run failed: x", "a\nrunc run failed: x", "a\n"},
		{"runc run failed: x\nmore\n", "runc run failed: x\nmore\n", "runc run failed: x\nmore\n"},
		{"a runc run failed: x\n", "a runc run failed: x\n", "a runc run failed: x\n"},
		{"runc run failed: x\nrunc run failed: y\n", "runc run failed: x\nrunc run failed: y\n", "runc run failed: x\n"},
		{"ru\nrunc\n\nr", "ru\nrunc\n\nr", "ru\nrunc\n\n"},
	} {
		for size := 1; size <= len(test.in)+1; size++ {
			for _, started := range []bool{true, false} {
				want := test.failed
				if started {
					want = test.started
				}
				var out bytes.Buffer
				f := &faultFilter{w: &out, faults: []string{"no fault", runcFailed}}
				for rest := []byte(test.in); len(rest) > 0; {
					n := min(size, len(rest))
					if wrote, err := f.Write(rest[:n]); wrote != n || err != nil {
						t.Fatal(wrote, err)
					}
					rest = rest[n:]
				}
				if err := f.End(started); err != nil || out.String() != want {
					t.Errorf("%q by %d, started %v: got %q, %v; want %q", test.in, size, started, out.String(), err, want)
				}
			}
		}
	}
}

func TestReadFault(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	if message, err := readFault(log); message != "" || err != nil {
		t.Errorf("no log: %q, %v", message, err)
	}
	text := `{"level":"warning","msg":"w"}` + "\nnoise\n" + `{"level":"error","msg":"runc run failed: x","time":"now"}` + "\n"
	if err := os.WriteFile(log, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if message, err := readFault(log); message != "runc run failed: x" || err != nil {
		t.Errorf("got %q, %v", message, err)
	}
}

func TestStartError(t *testing.T) {
	for message, want := range map[string]struct {
		code int
		kind error
	}{
		`runc run failed: unable to start container process: exec: "x": executable file not found in $PATH`:     {CodeNotFound, errdefs.ErrNotFound},
		`runc run failed: unable to start container process: exec: "/x": stat /x: no such file or directory`:    {CodeNotFound, errdefs.ErrNotFound},
		"executable file `x` not found in $PATH: No such file or directory":                                     {CodeNotFound, errdefs.ErrNotFound},
		`runc run failed: unable to start container process: exec: "/etc/passwd": permission denied`:            {CodeNotExecutable, errdefs.ErrPermissionDenied},
		`runc run failed: unable to start container process: exec: "/etc": is a directory`:                      {CodeNotExecutable, errdefs.ErrPermissionDenied},
		"open executable: Operation not permitted":                                                              {CodeNotExecutable, errdefs.ErrPermissionDenied},
		`runc run failed: unable to start container process: unable to apply cgroup configuration: out of luck`: {CodeFailed, errdefs.ErrUnknown},
	} {
		if e := newStartError(message); e.Code != want.code || !errors.Is(e, want.kind) || e.Message != message {
			t.Errorf("%q: got %+v", message, e)
		}
	}
}

func TestCommandFault(t *testing.T) {
	const failed = "crun run failed: unable to start container process: exec: "
	for _, test := range []struct{ message, command, want string }{
		{"executable file `x` not found in $PATH: No such file or directory", "x", failed + `"x": executable file not found in $PATH`},
		{"executable file `/x` not found: No such file or directory", "/x", failed + `"/x": stat /x: no such file or directory`},
		{"open executable: Operation not permitted", "/etc", failed + `"/etc": permission denied`},
		{"open executable: Permission denied", "./x", failed + `"./x": permission denied`},
		{"exec container process `/x`: Exec format error", "/x", failed + `"/x": exec format error`},
		{"mount `x`: No such file or directory", "/x", "mount `x`: No such file or directory"},
	} {
		if got := commandFault(test.message, test.command); got != test.want {
			t.Errorf("%q: got %q", test.message, got)
		}
	}
}
