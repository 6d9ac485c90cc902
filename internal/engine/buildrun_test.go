package engine

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"strake/internal/executor"
)

// TestStrict: what the checks say of ARG and ENV fails a strict build, and no other.
func TestStrict(t *testing.T) {
	warnings := []Warning{
		{Rule: "StageNameCasing", Detail: "x"},
		{Rule: "SecretsUsedInArgOrEnv", Detail: `Do not use ARG or ENV instructions for sensitive data (ENV "API_KEY")`},
	}
	for strict, want := range map[bool]string{
		false: "",
		true:  `Do not use ARG or ENV instructions for sensitive data (ENV "API_KEY"): give it to RUN by --mount=type=secret`,
	} {
		got := ""
		if err := (openedRun{BuildRun: BuildRun{Strict: strict}}).check(warnings); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("strict %v: %q", strict, got)
		}
	}
}

func TestExtraHosts(t *testing.T) {
	got, err := extraHosts([]string{"a:1.2.3.4", "b=1.2.3.5", "c:[fd00::1]", "d=fd00::2", "e:host-gateway"})
	want := []executor.Host{{Name: "a", IP: "1.2.3.4"}, {Name: "b", IP: "1.2.3.5"}, {Name: "c", IP: "fd00::1"}, {Name: "d", IP: "fd00::2"}, {Name: "e", IP: "127.0.0.1"}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	for _, bad := range []string{"", "a", "a:", ":1.2.3.4", "a b:1.2.3.4", "a:1.2.3", "a\n1.1.1.1 evil:1.2.3.4"} {
		if hosts, err := extraHosts([]string{bad}); err == nil {
			t.Errorf("%q: %v", bad, hosts)
		}
	}
}
