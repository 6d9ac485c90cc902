package s3cache

import (
	"cmp"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
	"github.com/containerd/errdefs"
)

// errNoProfile says that there is no such profile.
var errNoProfile = errors.New("no credentials of AWS")

// maxFile bounds a file of credentials, or with a token, in bytes.
const maxFile = 1 << 20

// finder finds the credentials that AWS's programs would take on this machine.
type finder struct {
	http   *http.Client
	region string
}

// provider gives the credentials of the options or, where they have none, those of the machine, again when they expire.
func provider(opts Options, client *http.Client) aws.CredentialsProvider {
	if opts.AccessKeyID != "" {
		given := aws.Credentials{AccessKeyID: opts.AccessKeyID, SecretAccessKey: opts.SecretAccessKey, SessionToken: opts.SessionToken}
		return aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return given, nil })
	}
	f := finder{client, opts.Region}
	return aws.NewCredentialsCache(aws.CredentialsProviderFunc(f.find))
}

// find asks, in the order of AWS's programs: the profile that AWS_PROFILE names, the environment, a role for the holder
// of a token (web identity), the default profile, the role of this machine in EC2.
func (f finder) find(ctx context.Context) (aws.Credentials, error) {
	if profile := os.Getenv("AWS_PROFILE"); profile != "" {
		return profileCredentials(profile)
	}
	found := aws.Credentials{
		AccessKeyID: os.Getenv("AWS_ACCESS_KEY_ID"), SecretAccessKey: os.Getenv("AWS_SECRET_ACCESS_KEY"), SessionToken: os.Getenv("AWS_SESSION_TOKEN"),
	}
	if found.HasKeys() {
		return found, nil
	}
	if token := os.Getenv("AWS_WEB_IDENTITY_TOKEN_FILE"); token != "" {
		return f.assume(ctx, token)
	}
	found, err := profileCredentials("default")
	if !errors.Is(err, errNoProfile) {
		return found, err
	}
	found, roleErr := ec2rolecreds.New().Retrieve(ctx)
	if roleErr != nil {
		return found, fmt.Errorf("%w, nor have access_key_id, AWS_ACCESS_KEY_ID and AWS_WEB_IDENTITY_TOKEN_FILE; the role of this machine: %w", err, roleErr)
	}
	return found, nil
}

// profileCredentials reads the keys of a profile from the file that AWS's programs share. It fails with
// errNoProfile where there is no such profile.
func profileCredentials(profile string) (found aws.Credentials, err error) {
	path := os.Getenv("AWS_SHARED_CREDENTIALS_FILE")
	if path == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return found, fmt.Errorf("%w: %w", errNoProfile, err)
		}
		path = filepath.Join(home, ".aws", "credentials")
	}
	b, err := readSmall(path)
	if errors.Is(err, fs.ErrNotExist) {
		return found, fmt.Errorf("%w: %s is not there", errNoProfile, path)
	}
	if err != nil {
		return found, err
	}
	keys := section(string(b), profile)
	found = aws.Credentials{AccessKeyID: keys["aws_access_key_id"], SecretAccessKey: keys["aws_secret_access_key"], SessionToken: keys["aws_session_token"]}
	switch {
	case keys == nil:
		return found, fmt.Errorf("%w: %s has no profile %q", errNoProfile, path, profile)
	case !found.HasKeys():
		return found, fmt.Errorf("profile %q of %s has no aws_access_key_id and aws_secret_access_key: %w", profile, path, errdefs.ErrInvalidArgument)
	}
	return found, nil
}

// section reads the fields of a section of such a file; nil: it has none of that name.
func section(text, name string) (fields map[string]string) {
	within := false
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		for _, mark := range []string{" #", " ;", "\t#", "\t;"} {
			line, _, _ = strings.Cut(line, mark)
		}
		key, value, assigns := strings.Cut(line, "=")
		switch {
		case line == "" || line[0] == '#' || line[0] == ';':
		case line[0] == '[':
			if within = strings.TrimSpace(strings.Trim(strings.TrimSpace(line), "[]")) == name; within && fields == nil {
				fields = map[string]string{}
			}
		case within && assigns:
			fields[strings.ToLower(strings.TrimSpace(key))] = strings.TrimSpace(value)
		}
	}
	return fields
}

// assume takes on the role that AWS_ROLE_ARN names, by the token in a file (AssumeRoleWithWebIdentity of STS).
func (f finder) assume(ctx context.Context, tokenFile string) (found aws.Credentials, err error) {
	role := os.Getenv("AWS_ROLE_ARN")
	if role == "" {
		return found, fmt.Errorf("AWS_WEB_IDENTITY_TOKEN_FILE wants AWS_ROLE_ARN: %w", errdefs.ErrInvalidArgument)
	}
	token, err := readSmall(tokenFile)
	if err != nil {
		return found, err
	}
	form := url.Values{
		"Action": {"AssumeRoleWithWebIdentity"}, "Version": {"2011-06-15"}, "RoleArn": {role}, "WebIdentityToken": {strings.TrimSpace(string(token))},
		"RoleSessionName": {cmp.Or(os.Getenv("AWS_ROLE_SESSION_NAME"), "strake")},
	}
	endpoint := cmp.Or(os.Getenv("AWS_ENDPOINT_URL_STS"), "https://sts."+f.region+".amazonaws.com/")
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode())) //nolint:gosec // the user names the server
	if err != nil {
		return found, fmt.Errorf("role %s: %w", role, err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	res, err := f.http.Do(req) //nolint:gosec // the same
	if err != nil {
		return found, fmt.Errorf("role %s: %w", role, err)
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return found, fmt.Errorf("role %s: %w", role, err)
	}
	var answer struct {
		Code    string `xml:"Error>Code"`
		Message string `xml:"Error>Message"`
		Keys    struct {
			AccessKeyID     string `xml:"AccessKeyId"`
			SecretAccessKey string
			SessionToken    string
			Expiration      time.Time
		} `xml:"AssumeRoleWithWebIdentityResult>Credentials"`
	}
	if err := xml.Unmarshal(b, &answer); err != nil || res.StatusCode != http.StatusOK {
		return found, fmt.Errorf("role %s: STS: %s: %.100s: %.500s: %w", role, res.Status, answer.Code, answer.Message, kind(res.StatusCode))
	}
	found = aws.Credentials{
		AccessKeyID: answer.Keys.AccessKeyID, SecretAccessKey: answer.Keys.SecretAccessKey, SessionToken: answer.Keys.SessionToken,
		CanExpire: true, Expires: answer.Keys.Expiration,
	}
	if !found.HasKeys() {
		return found, fmt.Errorf("role %s: STS gave no keys: %w", role, errdefs.ErrUnavailable)
	}
	return found, nil
}

// readSmall reads a file, which changes now and then.
func readSmall(path string) (b []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b, err = io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes: %w", path, maxFile, errdefs.ErrInvalidArgument)
	}
	return b, err
}
