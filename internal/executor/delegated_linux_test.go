package executor

import "testing"

func TestOwnCgroup(t *testing.T) {
	for text, want := range map[string]string{
		"0::/user.slice/user-1000.slice/session-1.scope\n": "/user.slice/user-1000.slice/session-1.scope",
		"8:pids:/a\n1:name=systemd:/b\n0::/c\n":            "/c",
		"0::/\n":                                           "/",
		"0::/..\n":                                         "",
		"0::/../a\n":                                       "",
		"8:pids:/a\n":                                      "",
		"0::relative\n":                                    "",
		"":                                                 "",
	} {
		if got := ownCgroup(text); got != want {
			t.Errorf("own cgroup of %q: %q, want %q", text, got, want)
		}
	}
}

func TestContainerCgroup(t *testing.T) {
	for text, want := range map[string]string{
		"0::/strake-ABC-id\n": "/strake-ABC-id",
		"0::/user.slice/a.service/strake-ABC-id/init.scope\n": "/user.slice/a.service/strake-ABC-id",
		"0::/user.slice/a.service/strake\n":                   "",
		"0::/../strake-ABC-id\n":                              "",
		"0::/\n":                                              "",
	} {
		if got := containerCgroup(text); got != want {
			t.Errorf("container's cgroup of %q: %q, want %q", text, got, want)
		}
	}
}
