package container

import (
	"syscall"
	"testing"
)

func TestCheckName(t *testing.T) {
	for name, want := range map[string]bool{"web-1.x_y": true, "a": false, "-a": false, "a b": false, "a/b": false, "": false} {
		if (CheckName(name) == nil) != want {
			t.Errorf("CheckName(%q) = %v", name, !want)
		}
	}
	for try := range 20 {
		if err := CheckName(RandomName(try)); err != nil {
			t.Error(err)
		}
	}
}

func TestParseSignal(t *testing.T) {
	for text, want := range map[string]syscall.Signal{
		"TERM": syscall.SIGTERM, "SIGKILL": syscall.SIGKILL, "hup": syscall.SIGHUP, "9": syscall.SIGKILL, "RTMIN+3": 37, "SIGRTMAX-1": 63,
		"": 0, "0": 0, "65": 0, "NOPE": 0, "RTMIN+99": 0, "-1": 0,
	} {
		got, err := ParseSignal(text)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("ParseSignal(%q) = %d, %v", text, got, err)
		}
	}
}

func TestParseLogOptions(t *testing.T) {
	for text, want := range map[string]int64{"": 0, "-1": 0, "2k": 2000, "10m": 10e6, "xyz": -1, "0": -1, "-2": -1} {
		got, files, err := ParseLogOptions(map[string]string{"max-size": text})
		if (err != nil) != (want < 0) || err == nil && (got != want || files != 1) {
			t.Errorf("max-size %q: %d, %d files, %v", text, got, files, err)
		}
	}
	for text, want := range map[string]int{"3": 3, "0": 0, "x": 0} {
		if _, files, err := ParseLogOptions(map[string]string{"max-file": text}); files != want || (err == nil) != (want > 0) {
			t.Errorf("max-file %q: %d, %v", text, files, err)
		}
	}
}
