package main_test

import (
	"bufio"
	"bytes"
	"net"
	"strings"
	"syscall"
	"testing"
)

// mergeFile has a step whose result tells who ran it.
const mergeFile = "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /id; echo begun; sleep 1\nRUN cp /id /again\n"

// TestSameStepOnce: of builds that begin at once, each with the same steps, one runs each step and the others take its layer.
func TestSameStepOnce(t *testing.T) {
	w := newWorld(t)
	w.busybox("a")
	w.write("app/Dockerfile", mergeFile)
	outs := make([]bytes.Buffer, 3)
	var ended []func() error
	for i := range outs {
		cmd := w.command(t.Context(), "a", "build", "--progress", "plain", "-t", "app"+string(rune('0'+i)), "app")
		cmd.Stderr = &outs[i]
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended = append(ended, cmd.Wait)
	}
	ran := 0
	for i, wait := range ended {
		if err := wait(); err != nil {
			t.Errorf("build %d: %v", i, err)
		}
		ran += strings.Count(outs[i].String(), " begun\n")
		if id := w.id("a", "app"+string(rune('0'+i))); id != w.id("a", "app0") {
			t.Errorf("build %d made another image", i)
		}
	}
	if ran != 1 {
		t.Errorf("the step ran %d times:\n%s\n%s\n%s", ran, &outs[0], &outs[1], &outs[2])
	}
	w.clean("a")
	if report, err := w.try("a", "store", "check"); err != nil || strings.Contains(report, "Left:") {
		t.Errorf("%v\n%s", err, report)
	}
}

// TestSameStepOfTheDead: a build that waits for another's step runs it when that one is killed.
func TestSameStepOfTheDead(t *testing.T) {
	w := newWorld(t)
	w.busybox("a")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	w.write("app/Dockerfile", "FROM busybox\nRUN nc 127.0.0.1 "+port+" < /dev/null && echo ran\n") // until the connection is closed
	first := w.command(t.Context(), "a", "build", "app")
	first.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Accept(); err != nil {
		t.Fatal(err)
	}
	second := w.command(t.Context(), "a", "build", "--progress", "plain", "-t", "app", "app")
	told, err := second.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Start(); err != nil {
		t.Fatal(err)
	}
	ran := false
	for lines := bufio.NewScanner(told); lines.Scan(); {
		ran = ran || strings.HasSuffix(lines.Text(), " ran")
		if !strings.Contains(lines.Text(), "another build runs this step") {
			continue
		}
		if err := syscall.Kill(-first.Process.Pid, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
		go func() {
			if conn, err := l.Accept(); err == nil {
				conn.Close()
			}
		}()
	}
	if err := second.Wait(); err != nil || !ran {
		t.Errorf("the second build: %v, ran the step: %v", err, ran)
	}
	if err := first.Wait(); err == nil {
		t.Error("the first build was not killed")
	}
}
