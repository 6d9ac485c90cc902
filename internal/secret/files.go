package secret

import (
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// File is a kind of file that holds secrets.
type File struct {
	ID   string // of the rule, as "npm-token"
	What string // as "a token of npm"

	dir  string                // the directory must be called so; "" is any
	text func() *regexp.Regexp // nil: any text
}

// Holds tells whether a file of this kind, of which b is the beginning, has a secret in it.
func (f *File) Holds(b []byte) bool { return f.text == nil || f.text().Match(b) }

func lazy(pattern string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(pattern) })
}

func file(id, what, pattern string) File {
	if pattern == "" {
		return File{ID: id, What: what}
	}
	return File{ID: id, What: what, text: lazy(pattern)}
}

var (
	privateKey = file("private-key", "a private key", `-----BEGIN [A-Z ]*PRIVATE KEY( BLOCK)?-----|PuTTY-User-Key-File`)
	npmToken   = file("npm-credentials", "a token of npm", `(?i)_authToken\s*["=:]|_auth\s*=|_password\s*=|npmAuth(Token|Ident)\s*:`)
	netrc      = file("netrc", "passwords", `(?i)\bpassword\s+\S`)
	pypi       = file("pypi-credentials", "passwords of a package index", `(?im)^\s*password\s*[=:]|://[^/\s:@]+:[^/\s@]+@`)
	registries = file("registry-credentials", "passwords of registries", `"(auth|identitytoken|password)"\s*:\s*"[^"]`)
	aws        = file("aws-credentials", "keys of AWS", `(?i)aws_secret_access_key\s*=|aws_session_token\s*=`).in(".aws")
	cluster    = file("kubernetes-credentials", "credentials of a cluster", `(?m)^\s*-?\s*(token|client-key-data|password)\s*:\s*\S`)
	google     = file("google-credentials", "credentials of Google's cloud", `"(private_key|refresh_token)"\s*:\s*"[^"]`)
	variables  = file("environment-file", "variables that are not for everybody", "")
	git        = file("git-credentials", "passwords of git", "")
	maven      = file("maven-credentials", "passwords of Maven", `<(password|passphrase)>[^<$]`)
	database   = file("database-password", "passwords of a database", "")
)

// in is a File that counts in a directory of this name only.
func (f File) in(dir string) File {
	f.dir = dir
	return f
}

// names are the files that people copy into images and should not, ends those of which the end of the name is enough.
var (
	names = map[string][]File{
		"id_rsa": {privateKey}, "id_dsa": {privateKey}, "id_ecdsa": {privateKey}, "id_ed25519": {privateKey},
		".npmrc": {npmToken}, ".yarnrc": {npmToken}, ".yarnrc.yml": {npmToken},
		".netrc": {netrc}, "_netrc": {netrc}, ".pypirc": {pypi}, "pip.conf": {pypi}, ".git-credentials": {git},
		"config.json": {registries.in(".docker")}, ".dockercfg": {registries}, ".dockerconfigjson": {registries},
		"credentials": {aws}, "config": {aws, cluster.in(".kube")}, "kubeconfig": {cluster},
		"application_default_credentials.json": {google}, "service-account.json": {google},
		"settings.xml": {maven}, ".pgpass": {database},
	}
	ends = map[string]File{
		".pem": privateKey, ".key": privateKey, ".ppk": privateKey, ".asc": privateKey, ".p8": privateKey,
	}
)

// Named are the kinds that a file of this name, with the directory that it is in, may be of.
func Named(name string) []File {
	base := path.Base(name)
	if rest, ok := strings.CutPrefix(base, ".env"); ok {
		switch rest {
		case ".example", ".sample", ".template", ".dist", ".defaults", ".schema":
			return nil // made to be shared
		}
		if rest == "" || rest[0] == '.' {
			return []File{variables}
		}
	}
	found := names[base]
	if f, ok := ends[path.Ext(base)]; ok {
		found = append(slices.Clip(found), f)
	}
	return slices.DeleteFunc(slices.Clone(found), func(f File) bool { return f.dir != "" && f.dir != path.Base(path.Dir(name)) })
}
