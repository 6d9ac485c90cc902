//go:build linux

package main

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// buildkitTool is the pinned BuildKit of tools/buildkit, whose programs are in bin: a buildkitd with its own worker, which finds
// the base image in the registry. What it has in its store is an export of type image.
func buildkitTool(bin string) *tool {
	daemon, ctl := filepath.Join(bin, "buildkitd"), filepath.Join(bin, "buildctl")
	return &tool{
		name: "buildkit", note: "standalone, OCI worker, overlayfs; the base image comes from the registry", needRoot: true,
		timed: []string{"build", "archive", "push"},
		find:  func(context.Context) (string, error) { return moduleVersion(daemon, "github.com/moby/buildkit") },
		open: func(ctx context.Context, at place) (*client, error) {
			address := "unix://" + filepath.Join(at.run, "b.sock")
			d, err := startBuildkit(ctx, daemon, ctl, address, at)
			if err != nil {
				return nil, err
			}
			k := &buildkit{ctl: []string{ctl, "--addr", address}, meta: filepath.Join(at.run, "meta.json"), contexts: map[string]string{}}
			return &client{argv: k.argv, hide: []string{ctl + " --addr " + address, "buildctl", " --metadata-file " + k.meta, ""}, daemon: d}, nil
		},
	}
}

func startBuildkit(ctx context.Context, daemon, ctl, address string, at place) (*daemon, error) {
	config := filepath.Join(at.run, "buildkitd.toml")
	text := fmt.Sprintf("root = %q\n[grpc]\naddress = [%q]\n[worker.oci]\nnetworkMode = \"host\"\nsnapshotter = \"overlayfs\"\ngc = false\n"+
		"[worker.containerd]\nenabled = false\n[registry.\"localhost\"]\nmirrors = [%[3]q]\n[registry.%[3]q]\nhttp = true\n",
		filepath.Join(at.store, "buildkit"), address, at.registry.addr)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return startDaemon(ctx, []string{daemon, "--config", config}, nil, func() error {
		return exec.CommandContext(ctx, ctl, "--addr", address, "debug", "workers").Run() // #nosec G204 -- the tool under test
	})
}

// buildkit spells verbs for buildctl.
type buildkit struct {
	ctl []string
	// meta is what a build writes of its result.
	meta string
	// contexts are the contexts by the names of what was built from them: an export is a build again.
	contexts map[string]string
}

func (k *buildkit) argv(verb string, args []string) []string {
	switch verb {
	case "build": // -t NAME DIR
		k.contexts[args[1]] = args[2]
		return k.build(args[2], "type=image,name="+args[1])
	case "solve": // the same, but nothing is exported
		k.contexts[args[1]] = args[2]
		return k.build(args[2], "")
	case "archive": // FILE NAME DIR
		return k.build(args[2], "type=oci,name="+args[1]+",dest="+args[0])
	case "save": // FILE NAME
		return k.build(k.contexts[args[1]], "type=docker,name="+args[1]+",dest="+args[0])
	case "push": // NAME
		return k.build(k.contexts[args[0]], "type=image,push=true,registry.insecure=true,name="+args[0])
	case "id": // of what was built last
		return []string{"sed", "-n", `s/.*"containerimage.config.digest": "\(.*\)".*/\1/p`, k.meta}
	}
	return nil
}

func (k *buildkit) build(dir, output string) []string {
	argv := append(k.ctl[:len(k.ctl):len(k.ctl)], "build", "--frontend", "dockerfile.v0", "--local", "context="+dir, "--local", "dockerfile="+dir,
		"--metadata-file", k.meta)
	if output != "" {
		argv = append(argv, "--output", output)
	}
	return argv
}

// moduleVersion is the version of the module that a Go program was built from.
func moduleVersion(program, module string) (string, error) {
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		return "", err
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == module {
			return m.Version, nil
		}
	}
	return "", errors.New(program + " is not made of " + module)
}
