package secret

import (
	"encoding/base64"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestVariable(t *testing.T) {
	for name, want := range map[string]bool{
		"API_TOKEN": true, "password": true, "MY_SECRETS": true, "AWS_ACCESS_KEY_ID": true, "NPM_AUTH": true, "APIKEY": true,
		"KEYBOARD": false, "AUTHOR": false, "MONKEY": false, "VERSION": false, "TOKENIZER": false,
	} {
		if got := Variable(name); got != want {
			t.Errorf("Variable(%q) = %v", name, got)
		}
	}
}

const (
	digits = "0123456789"
	upper  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	letter = upper + "abcdefghijklmnopqrstuvwxyz"
	alnum  = letter + digits
)

// chars makes n characters of an alphabet, always the same. No secret stands in this file, so that nobody's scanner finds one.
func chars(n int, alphabet string) string {
	r := rand.New(rand.NewPCG(uint64(n), 7))
	b := make([]byte, n)
	for i := range b {
		b[i] = alphabet[r.IntN(len(alphabet))]
	}
	return string(b)
}

func rules(list []Finding) string {
	names := []string{}
	for _, f := range list {
		names = append(names, f.Rule)
	}
	return strings.Join(names, " ")
}

// Each shape is found, in the middle of other text, on its line, and nothing of it but its first characters is told.
func TestShapes(t *testing.T) {
	jwt := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	for rule, list := range map[string][]string{
		"aws-key":              {"aws_secret_access_key = " + chars(40, alnum+"/+"), `"AwsSecretKey": "` + chars(40, alnum) + `"`},
		"aws-key-id":           {"AKIA" + chars(16, upper+"234567")},
		"github-token":         {"ghp_" + chars(36, alnum), "ghs_" + chars(36, alnum), "github_pat_" + chars(22, alnum) + "_" + chars(59, alnum)},
		"gitlab-token":         {"glpat-" + chars(20, alnum)},
		"slack-token":          {"xoxb-" + chars(12, digits) + "-" + chars(12, digits) + "-" + chars(24, alnum)},
		"slack-webhook":        {"https://hooks.slack.com/services/T" + chars(9, upper) + "/B" + chars(9, upper) + "/" + chars(24, alnum)},
		"stripe-key":           {"sk_live_" + chars(24, alnum), "whsec_" + chars(32, alnum)},
		"google-key":           {"AIza" + chars(35, alnum), "GOCSPX-" + chars(28, alnum)},
		"npm-token":            {"npm_" + chars(36, alnum)},
		"npm-credentials":      {"//registry.npmjs.org/:_authToken=" + chars(36, "0123456789abcdef-")},
		"pypi-token":           {"pypi-AgEIcHlwaS5vcmc" + chars(80, alnum)},
		"rubygems-key":         {"rubygems_" + chars(48, "0123456789abcdef")},
		"docker-token":         {"dckr_pat_" + chars(27, alnum)},
		"sendgrid-key":         {"SG." + chars(22, alnum) + "." + chars(43, alnum)},
		"openai-key":           {"sk-proj-" + chars(40, alnum) + "T3BlbkFJ" + chars(40, alnum)},
		"anthropic-key":        {"sk-ant-api03-" + chars(93, alnum)},
		"huggingface-token":    {"hf_" + chars(34, letter)},
		"digitalocean-token":   {"dop_v1_" + chars(64, "0123456789abcdef")},
		"vault-token":          {"hvs." + chars(95, alnum)},
		"azure-key":            {"AccountName=x;AccountKey=" + chars(86, alnum) + "=="},
		"jwt":                  {jwt(`{"alg":"HS256","typ":"JWT"}`) + "." + jwt(`{"sub":"joe","admin":true}`) + "." + chars(43, alnum)},
		"registry-credentials": {`{"auths": {"ghcr.io": {"auth": "` + base64.StdEncoding.EncodeToString([]byte("joe:"+chars(20, alnum))) + `"}}}`},
		"password-in-url":      {"postgres://joe:" + chars(14, alnum) + "@db.internal/x"},
		"private-key": {
			"-----BEGIN OPENSSH PRIVATE KEY-----\n" + chars(70, alnum) + "\n", "PuTTY-User-Key-File-3: ssh-ed25519\r\n",
			"-----BEGIN RSA " + "PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n" + chars(64, alnum), "AGE-SECRET-KEY-1" + chars(58, "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L"),
			`{"key": "-----BEGIN PRIVATE KEY-----\n` + chars(64, alnum) + `"}`,
		},
	} {
		for _, text := range list {
			got := Text([]byte("one\ntwo: " + text + "\nthree\n"))
			if rules(got) != rule || got[0].Line != 2 || got[0].What == "" {
				t.Errorf("%s: %+v", text, got)
				continue
			}
			if plain, _, _ := strings.Cut(got[0].Excerpt, "*"); len(plain) > 37 || rule != "private-key" && len(plain) > 16 || !strings.Contains(got[0].Excerpt, "****") {
				t.Errorf("%s is shown as %q", rule, got[0].Excerpt)
			}
			if got := Text([]byte(strings.NewReplacer("AKIA", "AKIB", "aws_", "sws_", "AwsS", "SwsS", "eyJ", "eyK", "_", "", "-", "", "SG.", "SF.", "hvs.", "hvx.", "AccountKey", "Account", "slack", "slick", "AIza", "AIzb", "auth", "path", "://", "//").Replace(text))); len(got) > 0 {
				t.Errorf("%s: not the shape, but %+v", text, got)
			}
		}
	}
}

// What manuals, examples and other texts say is no secret.
func TestHarmless(t *testing.T) {
	for _, text := range []string{
		"AKIAIOSFODNN7EXAMPLE", "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "http://user:password@example.com/", "https://joe:xxxx@host.org",
		"ghp_" + strings.Repeat("x", 36), "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----\n", "the token_type = \"bearer\"", "password = getpass.getpass()",
		"secret_key_base: <%= ENV[\"SECRET_KEY_BASE_VALUE_1\"] %>", "api_key = os.environ['SOME_API_KEY_12345']", "password_file=/run/secrets/db_password_2024x",
		"token: ${{ secrets.GITHUB_TOKEN123 }}", "key = 1.2.3.4.5.6.7.8", "sha256-token: sha256:" + chars(64, "0123456789abcdef"), "passwd: files systemd", "secret: abcdefghijklm123",
		"git://host:8080/user@example.com", "xoxb-test", "eyJhbGciOiJIUzI1NiJ9", "sk_test_" + chars(24, alnum), "integrity: sha512-" + chars(86, alnum) + "==",
	} {
		if got := Config([]byte(text)); len(got) > 0 {
			t.Errorf("%s: %+v", text, got)
		}
	}
}

func TestConfig(t *testing.T) {
	value := chars(24, alnum)
	for _, text := range []string{"db_password=" + value, `"clientSecret": "` + value + `",`, "API-KEY: '" + value + "'", "token => \"" + value + "\""} {
		got := Config([]byte("# x\n\n" + text + "\n"))
		if rules(got) != "assigned-secret" || got[0].Line != 3 || strings.Contains(fmt.Sprint(got), value[:3]) {
			t.Errorf("%s: %+v", text, got)
		}
		if got := Text([]byte(text)); len(got) > 0 {
			t.Errorf("%s is no shape: %+v", text, got)
		}
	}
	if got := Value("DB_PASSWORD", value); rules(got) != "assigned-secret" || got[0].Line != 0 {
		t.Errorf("%+v", got)
	}
	if got := Value("PATH", "ghp_"+chars(36, alnum)); rules(got) != "github-token" {
		t.Errorf("%+v", got)
	}
	for name, value := range map[string]string{"DB_PASSWORD": "", "GPG_KEY": "x", "HASH": value, "TOKEN_FILE": "/run/secrets/the_token_1a2b3c"} {
		if got := Value(name, value); len(got) > 0 {
			t.Errorf("%s=%s: %+v", name, value, got)
		}
	}
}

func TestInFile(t *testing.T) {
	key := "-----BEGIN EC PRIVATE KEY-----\n" + chars(64, alnum) + "\n"
	auths := `{"auths": {"https://index.docker.io/v1/": {"identitytoken": "` + chars(20, alnum) + `"}}}`
	for _, c := range []struct{ name, text, want string }{
		{"root/.npmrc", "registry=x\n_password = joe\n", "npm-credentials"},
		{"root/.netrc", "machine x login y password z\n", "netrc"},
		{"root/.pypirc", "[pypi]\npassword = joe\n", "pypi-credentials"},
		{"root/.docker/config.json", auths, "registry-credentials"},
		{"root/.aws/credentials", "aws_secret_access_key = short\n", "aws-credentials"},
		{"app/.env", "X=1\n", "environment-file"},
		{"app/.env.example", "X=1\n", ""},
		{"app/.env", " \n", ""},
		{"etc/ssl/server.key", key, "private-key"},
		{"etc/ssl/server.key", "-----BEGIN EC PRIVATE KEY-----\n", ""},
		{"app/main.py", "password = '" + chars(20, alnum) + "'", ""},
		{"app/main.yaml", "password: '" + chars(24, alnum) + "'", "assigned-secret"},
		{"usr/lib/python3.11/test/keycert.pem", key, ""},
		{"usr/share/doc/x/examples/key.pem", key, ""},
		{"app/node_modules/tls/test/fixtures/key.pem", key, ""},
		{"app/node_modules/tls/key.pem", key, "private-key"},
		{"usr/share/doc/x", "ghp_" + chars(36, alnum), "github-token"},
	} {
		if got := rules(InFile(c.name, []byte(c.text))); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// A text full of secrets, or of what looks like the beginning of one, takes neither long nor much.
func TestBounds(t *testing.T) {
	if got := Config([]byte(strings.Repeat("ghp_"+chars(36, alnum)+"\n", 10_000))); len(got) != maxFindings {
		t.Errorf("%d findings", len(got))
	}
	for _, text := range []string{"-----BEGIN RSA PRIVATE KEY-----", "eyJ", `"auth":"abc`, "a://b:c", "password=x", "\x00", "aws_key"} {
		Config([]byte(strings.Repeat(text, (1<<18)/len(text))))
	}
}

// Nothing is found in a system that has no secrets: what Debian's packages that are installed here bring to /etc and /usr/share and
// for Perl and Python.
func TestDebian(t *testing.T) {
	out, err := exec.Command("dpkg", "-L", "base-files", "perl-base", "libpam-runtime", "debconf", "login", "passwd", "apt", "dpkg", "bash", "util-linux", "openssl", "git", "python3-minimal", "libpython3-stdlib", "ca-certificates", "podman").Output()
	if err != nil && len(out) == 0 {
		t.Skip("needs dpkg: ", err)
	}
	files := 0
	for name := range strings.Lines(string(out)) {
		name = strings.TrimSuffix(name, "\n")
		info, err := os.Lstat(name)
		if err != nil || !info.Mode().IsRegular() || info.Size() > 4<<20 {
			continue
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		files++
		if slices.Contains(b[:min(len(b), 512)], 0) {
			continue
		}
		for _, f := range InFile(strings.TrimPrefix(name, "/"), b) {
			t.Errorf("%s: %+v", name, f)
		}
	}
	if files < 500 {
		t.Errorf("only %d files were looked at", files)
	}
}

func FuzzInFile(f *testing.F) {
	f.Add("root/.npmrc", []byte("_authToken=x"))
	f.Add("x.json", []byte(`{"auths": {"x": {"auth": "yyyyyyyyyyyy"}}, "password": "aB3dE5gH7jK9"}`))
	f.Fuzz(func(t *testing.T, name string, text []byte) {
		if !fs.ValidPath(filepath.ToSlash(name)) {
			return
		}
		for _, found := range InFile(name, text) {
			if found.Rule == "" || found.What == "" || found.Line < 1 || found.Line > 1+strings.Count(string(text), "\n") || strings.ContainsAny(found.Excerpt, "\n\x00\x1b") {
				t.Errorf("%+v", found)
			}
		}
	})
}
