package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// sent is what our flags and docker's client make of the same command line: the body of a request, or a message.
type sent struct {
	body    map[string]any
	message string
}

// readOurs reads the flags as run and create do.
func readOurs(t *testing.T, args []string) sent {
	t.Helper()
	flags := pflag.NewFlagSet("create", pflag.ContinueOnError)
	flags.SetInterspersed(false)
	flags.SetOutput(io.Discard)
	f := newContainerFlags(flags)
	err := flags.Parse(args)
	if err != nil {
		return sent{message: err.Error()}
	}
	c, err := f.read(flags, flags.Arg(0), flags.Args()[1:])
	if err != nil {
		return sent{message: err.Error()}
	}
	return sent{body: asBody(t, struct {
		Config     any
		HostConfig any
		Networks   any
	}{c.config, c.host, c.networks})}
}

func asBody(t *testing.T, v any) map[string]any {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var body map[string]any
	if err := json.Unmarshal(text, &body); err != nil {
		t.Fatal(err)
	}
	return body
}

// readDockers runs docker's client against a server that takes the request down.
func readDockers(t *testing.T, docker string, args []string) sent {
	t.Helper()
	var got map[string]any
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.50")
		w.Header().Set("Ostype", "linux")
		if strings.HasSuffix(r.URL.Path, "/containers/create") {
			if err := json.NewDecoder(r.Body).Decode(&got); err != nil {
				t.Error(err)
			}
			_, _ = io.WriteString(w, `{"Id":"abc"}`)
		}
	}))
	defer server.Close()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), docker, append([]string{"create"}, args...)...)
	cmd.Env = append(os.Environ(), "DOCKER_HOST=tcp://"+server.Listener.Addr().String(), "DOCKER_CONFIG="+t.TempDir())
	cmd.Stderr = &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		text, _, _ := strings.Cut(stderr.String(), "\n\n")
		if code := exit.ExitCode(); code != exitUsage {
			t.Errorf("docker %q: exit code %d: %s", args, code, text)
		}
		return sent{message: strings.TrimPrefix(text, "docker: ")}
	}
	if err != nil {
		t.Fatal(err)
	}
	host, networks := got["HostConfig"], got["NetworkingConfig"]
	delete(got, "HostConfig")
	delete(got, "NetworkingConfig")
	return sent{body: map[string]any{"Config": any(got), "HostConfig": host, "Networks": networks}}
}

// sameness drops what differs between releases of docker's types and says nothing.
func sameness(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for key, value := range v {
			switch value = sameness(value); {
			case value == nil, key == "OnBuild", key == "ArgsEscaped", key == "ConsoleSize":
			default:
				out[key] = value
			}
		}
		if len(out) == 0 {
			return nil
		}
		return out
	case []any:
		if len(v) == 0 {
			return nil
		}
		out := make([]any, len(v))
		for i := range v {
			out[i] = sameness(v[i])
		}
		slices.SortFunc(out, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) }) // the client's lists are maps
		return out
	case string:
		if v == "" {
			return nil
		}
	case bool:
		if !v {
			return nil
		}
	case float64:
		if v == 0 {
			return nil
		}
	}
	return v
}

// TestFlagsAsDocker compares with the client of the machine.
func TestFlagsAsDocker(t *testing.T) {
	docker, err := exec.LookPath("docker")
	if err != nil {
		t.Skip("docker is not installed")
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"env": "\xef\xbb\xbf# comment\nA=1\n  B = 2\n", "good": "A=1\nHOME\nNOTSET\n\tC= x \n",
		"profile.json": `{ "defaultAction" : "SCMP_ACT_ALLOW" }`, "broken.json": `{ "defaultAction" `,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("FROM_HOST", "yes")
	words := strings.NewReplacer("Invalid --sec", "invalid --sec", "unexpected key 'foo' in 'foo=bar'", "unknown option 'foo' in 'foo=bar'",
		"invalid env file", "--env-file: invalid env file", "open "+dir+"/none", "--env-file: open "+dir+"/none")
	lines, err := os.ReadFile("testdata/containerflags.json")
	if err != nil {
		t.Fatal(err)
	}
	var table [][]string
	if err := json.Unmarshal(bytes.ReplaceAll(lines, []byte("$DIR"), []byte(dir)), &table); err != nil {
		t.Fatal(err)
	}
	for _, line := range table {
		want, got := readDockers(t, docker, line), readOurs(t, line)
		want.message = words.Replace(want.message)
		if got.message != want.message {
			t.Errorf("%q: we say %q, docker %q", line, got.message, want.message)
		}
		if diff := cmp.Diff(sameness(want.body), sameness(got.body)); diff != "" {
			t.Errorf("%q: docker (-) and we (+) differ:\n%s", line, diff)
		}
	}
}

// TestFlagsAsNewerDocker has what the client of the machine, which is older, reads in another way.
func TestFlagsAsNewerDocker(t *testing.T) {
	for _, c := range []struct{ flag, value, want string }{
		{"--ip", "x", `failed to parse IP: "x"`},
		{"-v", "aa::b", "invalid spec: aa::b: empty section between colons"},
		{"--mount", "", "value is empty"},
		{"--mount", "type=bind,ro=maybe", `invalid value for 'ro': invalid boolean value ("maybe"): must be one of "true", "1", "false", or "0" (default "true")`},
		{"--mount", "type= bind,target=/x", "invalid value for 'type' in 'type= bind': value should not have whitespace"},
		{"--mount", "type=,target=/x", "invalid value for 'type': value is empty"},
		{"--umask", "9", "invalid syntax"},
		{"--cpu-count", "2", "only supported on Windows"},
		{"--use-api-socket", "", "there is no daemon"},
		{"--cpus", "1e999999999", "as a rational number"},
	} {
		line := []string{c.flag, c.value, "bb"}
		if c.value == "" && c.flag != "--mount" {
			line = []string{c.flag, "bb"}
		}
		if got := readOurs(t, line).message; !strings.Contains(got, c.want) {
			t.Errorf("%q: %q, want %q", line, got, c.want)
		}
	}
}

// TestFlagsOfDocker looks for flags that docker has and we have not.
func TestFlagsOfDocker(t *testing.T) {
	docker, err := exec.LookPath("docker")
	if err != nil {
		t.Skip("docker is not installed")
	}
	help, err := exec.CommandContext(t.Context(), docker, "create", "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	flags := pflag.NewFlagSet("create", pflag.ContinueOnError)
	newContainerFlags(flags)
	ours := strings.Fields(flags.FlagUsages())
	for _, word := range strings.Fields(string(help)) {
		if strings.HasPrefix(word, "--") && !slices.Contains(ours, word) {
			switch word {
			case "--help'", "--help", "--cpu-count", "--cpu-percent", "--io-maxbandwidth", "--io-maxiops", "--kernel-memory", "--name", "--platform", "--pull", "--quiet", "--use-api-socket", "--disable-content-trust":
			default:
				t.Errorf("docker has %s", word)
			}
		}
	}
}
