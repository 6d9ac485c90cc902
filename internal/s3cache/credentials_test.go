package s3cache

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// nowhere has an environment without credentials, in which shared is the file of profiles.
func nowhere(t *testing.T, shared string) {
	t.Helper()
	for _, name := range []string{"AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN"} {
		t.Setenv(name, "")
	}
	path := filepath.Join(t.TempDir(), "credentials")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", path)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	if shared == "" {
		return
	}
	if err := os.WriteFile(path, []byte(shared), 0o600); err != nil {
		t.Fatal(err)
	}
}

// found is what is found for a bucket, as text; or the error.
func found(t *testing.T) string {
	t.Helper()
	c, err := New(Options{Name: "b", Region: "us-east-1"})
	if err != nil {
		t.Fatal(err)
	}
	creds, err := c.creds.Retrieve(t.Context())
	if err != nil {
		return "error: " + strings.TrimPrefix(err.Error(), "failed to refresh cached credentials, ")
	}
	return strings.Join([]string{creds.AccessKeyID, creds.SecretAccessKey, creds.SessionToken}, " ")
}

func TestCredentialsOfProfiles(t *testing.T) {
	nowhere(t, `# made by aws configure
[default]
aws_access_key_id = id
aws_secret_access_key=secret=+/ # of the default
region = eu-west-1

[ other ]
AWS_ACCESS_KEY_ID = other-id
aws_secret_access_key = other-secret
; none
aws_session_token = token
[role]
role_arn = arn:aws:iam::1:role/x
source_profile = default
`)
	path := os.Getenv("AWS_SHARED_CREDENTIALS_FILE")
	got := map[string]string{"": found(t)}
	for _, profile := range []string{"other", "role", "none"} {
		t.Setenv("AWS_PROFILE", profile)
		got[profile] = found(t)
	}
	want := map[string]string{
		"": "id secret=+/ ", "other": "other-id other-secret token",
		"role": `error: profile "role" of ` + path + " has no aws_access_key_id and aws_secret_access_key: invalid argument",
		"none": "error: no credentials of AWS: " + path + ` has no profile "none"`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	t.Setenv("AWS_PROFILE", "")
	t.Setenv("AWS_ACCESS_KEY_ID", "env")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "env-secret")
	if got := found(t); got != "env env-secret " {
		t.Errorf("the environment has none: %s", got)
	}
}

// TestCredentialsOfIdentity: a token in a file gets the keys of a role, from STS, and again when they expire.
func TestCredentialsOfIdentity(t *testing.T) {
	nowhere(t, "")
	asked, answer, status := 0, "", http.StatusOK
	sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if r.Method != http.MethodPost || r.FormValue("Action") != "AssumeRoleWithWebIdentity" || r.FormValue("WebIdentityToken") != "the token" || r.FormValue("RoleArn") != "arn:role" {
			t.Errorf("%s %v", r.Method, r.Form)
		}
		w.WriteHeader(status)
		if _, err := w.Write([]byte(answer)); err != nil {
			t.Error(err)
		}
	}))
	defer sts.Close()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("the token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", token)
	if got := found(t); !strings.Contains(got, "wants AWS_ROLE_ARN") {
		t.Error(got)
	}
	t.Setenv("AWS_ROLE_ARN", "arn:role")
	t.Setenv("AWS_ENDPOINT_URL_STS", sts.URL)
	for _, c := range []struct {
		status       int
		answer, want string
	}{
		{http.StatusOK, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>id</AccessKeyId><SecretAccessKey>key</SecretAccessKey><SessionToken>token</SessionToken><Expiration>2020-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, "id key token"},
		{http.StatusForbidden, `<ErrorResponse><Error><Code>AccessDenied</Code><Message>Not you</Message></Error></ErrorResponse>`, "error: role arn:role: STS: 403 Forbidden: AccessDenied: Not you: permission denied"},
		{http.StatusOK, `<x/>`, "error: role arn:role: STS gave no keys: unavailable"},
	} {
		status, answer = c.status, c.answer
		if got := found(t); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
	}
	for expires, want := range map[string]int{"2020": 2, "9999": 1} {
		status, asked = http.StatusOK, 0
		answer = `<r><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>id</AccessKeyId><SecretAccessKey>key</SecretAccessKey><Expiration>` + expires + `-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult></r>`
		c, err := New(Options{Name: "b", Region: "us-east-1"})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := c.creds.Retrieve(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if asked != want {
			t.Errorf("keys that expire in %s were asked for %d times, want %d", expires, asked, want)
		}
	}
}

// TestCredentialsOfMachine: a machine of EC2 has a role; without one the error says where keys were looked for.
func TestCredentialsOfMachine(t *testing.T) {
	nowhere(t, "")
	if got := found(t); !strings.HasPrefix(got, "error: no credentials of AWS: "+os.Getenv("AWS_SHARED_CREDENTIALS_FILE")+" is not there") {
		t.Error(got)
	}
	metadata := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text := map[string]string{
			"/latest/api/token": "session", "/latest/meta-data/iam/security-credentials/": "role",
			"/latest/meta-data/iam/security-credentials/role": `{"Code": "Success", "AccessKeyId": "id", "SecretAccessKey": "key", "Token": "token", "Expiration": "9999-01-01T00:00:00Z"}`,
		}[r.URL.Path]
		if w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "60"); text == "" {
			w.WriteHeader(http.StatusNotFound)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Error(err)
		}
	}))
	defer metadata.Close()
	t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.URL)
	if got := found(t); got != "id key token" {
		t.Error(got)
	}
}
