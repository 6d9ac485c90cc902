package engine

import (
	"context"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/build"
)

// labelDockerfile names the Dockerfile of an image, from the top of its repository, as buildx does.
const labelDockerfile = "com.docker.image.source.entrypoint"

// A checkout is the work tree of git that a build's context is in.
type checkout struct {
	top      string // absolute, without symbolic links
	revision string // the commit; "" where there is none yet
	source   string // address of the remote repository, without credentials; "" where there is none
}

// gitFlag is what a variable that buildx has, too, says of what is asked of git.
func gitFlag(name string, otherwise bool) bool {
	if on, err := strconv.ParseBool(os.Getenv(name)); err == nil {
		return on
	}
	return otherwise
}

// wantsGitLabels reports whether images are to have labels of where they are from.
func wantsGitLabels() bool {
	const older = "full"
	return os.Getenv("BUILDX_GIT_LABELS") == older || gitFlag("BUILDX_GIT_LABELS", false)
}

// findCheckout finds the work tree that a directory is in; nil where it is in none, or git is not there.
func findCheckout(ctx context.Context, dir string) *checkout {
	out, err := askGit(ctx, dir, "rev-parse", "--show-toplevel", "HEAD") // without a commit the first line alone is right
	top, revision, _ := strings.Cut(out, "\n")
	if !filepath.IsAbs(top) {
		return nil
	}
	c := &checkout{top: top}
	if err == nil {
		c.revision = revision
		if gitFlag("BUILDX_GIT_CHECK_DIRTY", false) {
			if changed, err := askGit(ctx, dir, "status", "--porcelain", "--ignored"); err != nil || changed != "" {
				c.revision += "-dirty"
			}
		}
	}
	c.source = remoteOf(ctx, dir)
	return c
}

// remoteOf is the address of the repository that the branch follows, or of the one that is named as by custom.
func remoteOf(ctx context.Context, dir string) string {
	names := []string{"origin", "upstream"}
	if branch, err := askGit(ctx, dir, "symbolic-ref", "-q", "HEAD"); err == nil {
		if name, err := askGit(ctx, dir, "for-each-ref", "--format=%(upstream:remotename)", branch); err == nil && name != "" {
			names = append([]string{name}, names...)
		}
	}
	for _, name := range names {
		if address, err := askGit(ctx, dir, "remote", "get-url", "--", name); err == nil && address != "" {
			address, _, _ = strings.Cut(address, "\n")
			return build.Redact(address)
		}
	}
	return ""
}

// askGit returns what git says in a directory, which may be something although it fails. It takes no lock, and asks no monitor that the
// repository names.
func askGit(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "core.fsmonitor=false"}, args...)...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GIT_OPTIONAL_LOCKS=0")
	out, err := cmd.Output()
	return strings.TrimSuffix(string(out), "\n"), err
}

// within is where in the work tree a directory is: "." is its top, "" stands for one that is elsewhere, or is none.
func (c *checkout) within(dir string) string {
	if dir == "" {
		return ""
	}
	abs, err := filepath.Abs(dir)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	rel, relErr := filepath.Rel(c.top, abs)
	if err != nil || relErr != nil || !filepath.IsLocal(rel) {
		return ""
	}
	return rel
}

// labels are those of an image whose Dockerfile is a file here; "" is one that is elsewhere.
func (c *checkout) labels(file string) map[string]string {
	labels := map[string]string{ocispec.AnnotationRevision: c.revision, ocispec.AnnotationSource: c.source}
	if dir := c.within(filepath.Dir(file)); file != "" && dir != "" {
		labels[labelDockerfile] = filepath.Join(dir, filepath.Base(file))
	}
	maps.DeleteFunc(labels, func(_, value string) bool { return value == "" })
	return labels
}

// facts are what a provenance says: what the work tree is of, and where in it the directories are that the build reads.
func (c *checkout) facts(dirs map[string]string) map[string]string {
	facts := map[string]string{"revision": c.revision, "source": c.source}
	for name, dir := range dirs {
		facts["localdir:"+name] = c.within(dir)
	}
	maps.DeleteFunc(facts, func(_, value string) bool { return value == "" })
	return facts
}

// addGitLabels labels the image with where it is from, if that is asked for.
func (b *building) addGitLabels(ctx context.Context) error {
	if !wantsGitLabels() {
		return nil
	}
	if !isDir(b.opts.Context) {
		return nil // an address tells by itself
	}
	step := b.solver.Begin("[internal] load git information")
	c := findCheckout(ctx, b.opts.Context)
	if c == nil {
		step.Warn("BUILDX_GIT_LABELS: %s is in no work tree of git, or git is not there: the image has no labels of it\n", b.opts.Context)
		return step.End(ctx, nil)
	}
	file := localFile(b.opts.Dockerfile)
	if b.opts.Dockerfile == "" {
		file = filepath.Join(b.opts.Context, "Dockerfile")
	}
	labels := maps.Clone(b.opts.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, c.labels(file))
	b.opts.Labels = labels
	return step.End(ctx, nil)
}

// gitFacts is what a provenance says of the work tree that the context is in, which is one of the directories that are read, by name.
func gitFacts(ctx context.Context, dirs map[string]string) map[string]string {
	dir, ok := dirs["context"]
	if !ok || !gitFlag("BUILDX_GIT_INFO", true) {
		return nil
	}
	if c := findCheckout(ctx, dir); c != nil {
		return c.facts(dirs)
	}
	return nil
}
