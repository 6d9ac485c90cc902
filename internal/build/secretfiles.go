package build

import (
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// maxLook is how much of a file is looked at for secrets, in bytes.
const maxLook = 64 << 10

// maxTold bounds the files that one step tells of.
const maxTold = 5

// secretFile says which files of a name, or of the end of one, hold a secret: those with the text in them.
type secretFile struct {
	dir  string                // the directory must be called so; "" is any
	text func() *regexp.Regexp // nil: any text
	what string
}

func text(pattern string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(pattern) })
}

var (
	privateKey = secretFile{"", text(`-----BEGIN [A-Z ]*PRIVATE KEY( BLOCK)?-----|PuTTY-User-Key-File`), "a private key"}
	npmToken   = secretFile{"", text(`(?i)_authToken\s*["=:]|_auth\s*=|_password\s*=|npmAuth(Token|Ident)\s*:`), "a token of npm"}
	netrc      = secretFile{"", text(`(?i)\bpassword\s+\S`), "passwords"}
	pypi       = secretFile{"", text(`(?im)^\s*password\s*[=:]|://[^/\s:@]+:[^/\s@]+@`), "passwords of a package index"}
	registries = secretFile{"", text(`"(auth|identitytoken|password)"\s*:\s*"[^"]`), "passwords of registries"}
	aws        = secretFile{".aws", text(`(?i)aws_secret_access_key\s*=|aws_session_token\s*=`), "keys of AWS"}
	cluster    = secretFile{"", text(`(?m)^\s*-?\s*(token|client-key-data|password)\s*:\s*\S`), "credentials of a cluster"}
	google     = secretFile{"", text(`"(private_key|refresh_token)"\s*:\s*"[^"]`), "credentials of Google's cloud"}
	variables  = secretFile{"", nil, "variables that are not for everybody"}
)

// in is a secretFile that counts in a directory of this name only.
func (f secretFile) in(dir string) secretFile {
	f.dir = dir
	return f
}

// secretNames are the files that people copy into images and should not, secretEnds those of which the end of the name is enough.
var (
	secretNames = map[string][]secretFile{
		"id_rsa": {privateKey}, "id_dsa": {privateKey}, "id_ecdsa": {privateKey}, "id_ed25519": {privateKey},
		".npmrc": {npmToken}, ".yarnrc": {npmToken}, ".yarnrc.yml": {npmToken},
		".netrc": {netrc}, "_netrc": {netrc}, ".pypirc": {pypi}, "pip.conf": {pypi},
		".git-credentials": {{"", nil, "passwords of git"}},
		"config.json":      {registries.in(".docker")}, ".dockercfg": {registries}, ".dockerconfigjson": {registries},
		"credentials": {aws}, "config": {aws, cluster.in(".kube")}, "kubeconfig": {cluster},
		"application_default_credentials.json": {google}, "service-account.json": {google},
		"settings.xml": {{"", text(`<(password|passphrase)>[^<$]`), "passwords of Maven"}},
		".pgpass":      {{"", nil, "passwords of a database"}},
	}
	secretEnds = map[string]secretFile{
		".pem": privateKey, ".key": privateKey, ".ppk": privateKey, ".asc": privateKey, ".p8": privateKey,
	}
)

// secretsNamed are what a file of this name may hold.
func secretsNamed(name string) []secretFile {
	base := path.Base(name)
	if rest, ok := strings.CutPrefix(base, ".env"); ok {
		switch rest {
		case ".example", ".sample", ".template", ".dist", ".defaults", ".schema":
			return nil // made to be shared
		}
		if rest == "" || rest[0] == '.' {
			return []secretFile{variables}
		}
	}
	found := secretNames[base]
	if f, ok := secretEnds[path.Ext(base)]; ok {
		found = append(found, f)
	}
	return slices.DeleteFunc(slices.Clone(found), func(f secretFile) bool { return f.dir != "" && f.dir != path.Base(path.Dir(name)) })
}

// SecretFileError tells that files with secrets are copied into the image.
type SecretFileError struct{ Files []string }

func (e *SecretFileError) Error() string {
	return "secrets are copied into the image: " + strings.Join(e.Files, ", ") +
		": leave them out by .dockerignore, and give them to RUN by --mount=type=secret"
}

// secretsCopied tells of files of the context that hold secrets; it fails where builds are strict.
func (w *Work) secretsCopied(o *opened) error {
	found := &SecretFileError{}
	more := 0
	for _, m := range o.matches {
		resolved, err := follow(o.tree.lstat, m)
		if err != nil {
			return err
		}
		err = o.tree.walk(resolved, func(n node) error {
			what, err := secretIn(o.tree, n)
			switch {
			case err != nil || what == "":
			case len(found.Files) == maxTold:
				more++
			default:
				found.Files = append(found.Files, fmt.Sprintf("%s (%s)", n.path, what))
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	if more > 0 {
		found.Files = append(found.Files, fmt.Sprintf("%d more", more))
	}
	switch {
	case len(found.Files) == 0:
		return nil
	case w.solver.opts.Strict:
		return found
	}
	if p, ok := w.Log.(*Reporter); ok {
		p.Warn("%v\n", found)
	}
	return nil
}

// secretIn says what secret a file holds; "" is none that is known.
func secretIn(t tree, n node) (string, error) {
	if !n.mode.IsRegular() || n.size == 0 {
		return "", nil
	}
	for _, f := range secretsNamed(n.path) {
		if f.text == nil {
			return f.what, nil
		}
		has, err := contains(t, n, f.text())
		if has || err != nil {
			return f.what, err
		}
	}
	return "", nil
}

func contains(t tree, n node, text *regexp.Regexp) (has bool, err error) {
	f, err := t.open(n.path)
	if err != nil {
		return false, fmt.Errorf("read %q: %w", n.path, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b, err := io.ReadAll(io.LimitReader(f, maxLook))
	return text.Match(b), err
}
