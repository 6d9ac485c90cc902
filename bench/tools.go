//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A tool is one program under test.
type tool struct {
	name string
	// note says how the tool is set up, for the report.
	note string
	// baseline marks a lower bound that is not a peer.
	baseline bool
	// versions are the commands whose first lines name the tool's versions. The tool is missing when one fails.
	versions [][]string
	version  string
	needRoot bool
	// timed are the verbs that are measured with this tool, nil for all. It may need others for checks.
	timed []string
	// find says the version of a tool that no command tells it of.
	find func(ctx context.Context) (string, error)
	// open readies the tool to work.
	open func(ctx context.Context, at place) (*client, error)
}

// A place is where a tool works: store is on the volume, run is for sockets and state that need no volume, and the registry has
// the base image; network asks for bridges.
type place struct {
	store, run string
	registry   *registry
	network    bool
}

// A client runs one tool's commands on one store.
type client struct {
	// argv spells a verb's command line, nil when the tool lacks the verb. Verbs and their arguments:
	// import TAR NAME, pull REF, push REF, build -t NAME DIR, solve -t NAME DIR (a build whose result need not be an image yet),
	// archive FILE NAME DIR (of what DIR was built to), images, save FILE NAME, load FILE, id NAME (prints the image ID);
	// run NAME ARG... in the host's network, run-bridge on the default bridge, run-limits with a limit of memory and processes;
	// start CONTAINER NAME ARG... to stay, publish with a port, exec CONTAINER ARG..., remove CONTAINER..., remove-port the same of
	// those that publish one, ps (prints IDs of all containers).
	argv func(verb string, args []string) []string
	env  []string
	// hide are the machine's paths, old and new in turn, that display replaces.
	hide   []string
	daemon *daemon
	// undo takes back what the tool needed of the machine; nil for nothing.
	undo func() error
}

// measures reports whether the verb's time belongs in the report.
func (t *tool) measures(verb string) bool { return t.timed == nil || slices.Contains(t.timed, verb) }

func (c *client) has(verb string) bool { return c.argv(verb, []string{"x", "y", "z"}) != nil }

// command makes the command for a verb the tool has. Cancelling ctx kills its process group.
func (c *client) command(ctx context.Context, verb string, args ...string) *exec.Cmd {
	argv := c.argv(verb, args)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...) // #nosec G204 -- the tool under test
	cmd.Env = append(os.Environ(), c.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// output runs an untimed command and returns what it printed.
func (c *client) output(ctx context.Context, verb string, args ...string) (string, error) {
	if !c.has(verb) {
		return "", fmt.Errorf("no command for %s", verb)
	}
	cmd := c.command(ctx, verb, args...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", c.display(verb, args), err, lastLines(stderr.String()))
	}
	return strings.TrimSpace(stdout.String()), nil
}

// imageID is the ID the tool shows for an image, with its algorithm.
func (c *client) imageID(ctx context.Context, name string) (string, error) {
	id, err := c.output(ctx, "id", name)
	if err != nil {
		return "", err
	}
	return "sha256:" + strings.TrimPrefix(id, "sha256:"), nil
}

// display is the command line as the report shows it.
func (c *client) display(verb string, args []string) string {
	return strings.NewReplacer(c.hide...).Replace(strings.Join(c.argv(verb, args), " "))
}

// usage is what the daemon has used; reset starts its memory peak anew. Without a daemon it is zero.
func (c *client) usage(reset bool) (usage, error) {
	if c.daemon == nil {
		return usage{}, nil
	}
	return c.daemon.usage(reset)
}

// Close stops the daemon.
func (c *client) Close() error {
	var errs []error
	if c.daemon != nil {
		errs = append(errs, c.daemon.Close())
	}
	if c.undo != nil {
		errs = append(errs, c.undo())
	}
	return errors.Join(errs...)
}

// findVersion fills t.version, or says why the tool cannot be used here.
func (t *tool) findVersion(ctx context.Context) error {
	if t.needRoot && os.Geteuid() != 0 {
		return errors.New("needs root")
	}
	if t.find != nil {
		var err error
		t.version, err = t.find(ctx)
		return err
	}
	var versions []string
	for _, argv := range t.versions {
		out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).Output() // #nosec G204 -- fixed commands
		if err != nil {
			return fmt.Errorf("%s: %w", strings.Join(argv, " "), err)
		}
		first, _, _ := strings.Cut(string(out), "\n")
		versions = append(versions, strings.TrimSpace(first))
	}
	t.version = strings.Join(versions, "; ")
	return nil
}

// allTools lists every tool the harness knows; buildkit is the directory of its programs.
func allTools(strake, buildkit string, root bool) []*tool {
	return []*tool{
		strakeTool(strake),
		buildkitTool(buildkit),
		dockerTool("dockerd", "embedded BuildKit, overlay2", "DOCKER_BUILDKIT=1", nil),
		dockerTool("dockerd-legacy", "legacy builder, overlay2", "DOCKER_BUILDKIT=0", []string{"build"}),
		podmanTool(),
		podmanCrunTool(root),
		buildahTool(),
		skopeoTool(),
		bareTool("runc", root),
		bareTool("crun", root),
	}
}

func strakeTool(binary string) *tool {
	return &tool{
		name: "strake", versions: [][]string{{binary, "--version"}},
		open: func(_ context.Context, at place) (*client, error) {
			abs, err := filepath.Abs(binary)
			if err != nil {
				return nil, err
			}
			return &client{
				argv: func(verb string, args []string) []string {
					if verb == "archive" {
						return []string{abs, "build", "--network", "host", "-o", "type=oci,name=" + args[1] + ",dest=" + args[0], args[2]}
					}
					return append([]string{abs}, dockerWords(verb, args)...)
				},
				env:  []string{"STRAKE_ROOT=" + filepath.Join(at.store, "strake"), "DOCKER_CONFIG=" + filepath.Join(at.run, "cfg")},
				hide: []string{abs, "strake"},
			}, nil
		},
	}
}

// dockerWords spells a verb as docker and everything like it does.
func dockerWords(verb string, args []string) []string {
	switch verb {
	case "build", "solve":
		return append([]string{"build", "--network", "host"}, args...)
	case "archive":
		return nil
	case "save":
		return append([]string{"save", "-o"}, args...)
	case "load":
		return append([]string{"load", "-i"}, args...)
	case "run":
		return append([]string{"run", "--rm", "--network", "host"}, args...)
	case "run-bridge":
		return append([]string{"run", "--rm"}, args...)
	case "run-limits":
		return append([]string{"run", "--rm", "--network", "host", "-m", "64m", "--pids-limit", "100"}, args...)
	case "start":
		return append([]string{"run", "-d", "--network", "host", "--name"}, args...)
	case "publish":
		return append([]string{"run", "-d", "-p", "127.0.0.1::80", "--name"}, args...)
	case "remove", "remove-port":
		return append([]string{"rm", "-f"}, args...)
	case "ps":
		return []string{"ps", "-a", "-q", "--no-trunc"}
	case "id":
		return append([]string{"images", "--no-trunc", "-q"}, args...)
	default:
		return append([]string{verb}, args...)
	}
}

// podmanFlags are the global flags that give podman and buildah a store of their own.
func podmanFlags(at place) []string {
	return []string{
		"--root", filepath.Join(at.store, "c"), "--runroot", filepath.Join(at.run, "run"), "--storage-driver", "overlay",
		"--cgroup-manager", "cgroupfs",
	}
}

// podmanOwn are the flags that keep the rest of podman's state to itself.
func podmanOwn(at place) []string {
	return []string{"--tmpdir", filepath.Join(at.run, "tmp"), "--network-config-dir", filepath.Join(at.run, "net")}
}

func podmanArgv(at place, runtime string) func(verb string, args []string) []string {
	podman := slices.Concat([]string{"podman", "--runtime", runtime}, podmanOwn(at), podmanFlags(at))
	return func(verb string, args []string) []string {
		words := dockerWords(verb, args)
		switch verb {
		case "build", "solve":
			words = append([]string{"build", "--network", "host", "--layers"}, args...)
		case "archive":
			words = []string{"push", args[1], "oci-archive:" + args[0]}
		case "pull", "push":
			words = append([]string{verb, "--tls-verify=false"}, args...)
		case "remove", "remove-port":
			words = append([]string{"rm", "-f", "-t", "0"}, args...)
		}
		if words[0] == "run" {
			words = append([]string{"run", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"}, words[1:]...)
		}
		return append(podman[:len(podman):len(podman)], words...)
	}
}

// hideFlags keeps the report's command lines short: $STORE are the flags of podmanFlags.
func hideFlags(at place) []string {
	return []string{strings.Join(podmanFlags(at), " "), "$STORE", " " + strings.Join(podmanOwn(at), " "), ""}
}

func podmanTool() *tool {
	return &tool{
		name: "podman", note: "$STORE: --root --runroot --storage-driver overlay --cgroup-manager cgroupfs", versions: [][]string{{"podman", "--version"}},
		open: func(_ context.Context, at place) (*client, error) {
			return &client{argv: podmanArgv(at, "runc"), hide: hideFlags(at)}, nil
		},
	}
}

func podmanCrunTool(root bool) *tool {
	return &tool{
		name: "podman-crun", note: "the same $STORE; hybrid cgroups hidden from crun", needRoot: root,
		versions: [][]string{{"podman", "--version"}, {"crun", "--version"}},
		open: func(_ context.Context, at place) (*client, error) {
			undo, err := hideHybrid()
			return &client{argv: podmanArgv(at, "crun"), hide: hideFlags(at), undo: undo}, err
		},
	}
}

// buildahTool shares podman's store for what buildah has no command for.
func buildahTool() *tool {
	return &tool{
		name: "buildah", note: "the same $STORE", timed: []string{"build", "push", "archive"},
		versions: [][]string{{"buildah", "--version"}, {"podman", "--version"}},
		open: func(_ context.Context, at place) (*client, error) {
			podman := podmanArgv(at, "runc")
			buildah := append([]string{"buildah"}, podmanFlags(at)...)
			argv := func(verb string, args []string) []string {
				words := append([]string{verb}, args...)
				switch verb {
				case "build", "solve":
					words = append([]string{"build", "--network", "host", "--isolation", "oci", "--runtime", "runc", "--layers"}, args...)
				case "archive":
					words = []string{"push", args[1], "oci-archive:" + args[0]}
				case "push":
					words = append([]string{verb, "--tls-verify=false"}, args...)
				case "import", "save", "id":
					return podman(verb, args)
				}
				return append(buildah[:len(buildah):len(buildah)], words...)
			}
			return &client{argv: argv, hide: hideFlags(at)}, nil
		},
	}
}

func skopeoTool() *tool {
	return &tool{
		name: "skopeo", note: "to containers-storage, overlay", needRoot: true, timed: []string{"pull"},
		versions: [][]string{{"skopeo", "--version"}, {"podman", "--version"}},
		open: func(_ context.Context, at place) (*client, error) {
			podman := podmanArgv(at, "runc")
			argv := func(verb string, args []string) []string {
				switch verb {
				case "pull":
					store := "containers-storage:[overlay@" + filepath.Join(at.store, "c") + "+" + filepath.Join(at.run, "run") + "]"
					return []string{"skopeo", "copy", "--src-tls-verify=false", "docker://" + args[0], store + args[0]}
				case "id": // for the check
					return podman(verb, args)
				}
				return nil
			}
			return &client{argv: argv, hide: hideFlags(at)}, nil
		},
	}
}
