//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// runGroup runs the smallest container.
func runGroup() group {
	return group{
		name: "run", tools: []string{"strake", "dockerd", "podman", "runc"}, peerRounds: 4, prepare: importBase,
		steps: []step{{
			name: "run", title: "run --rm true", verb: "run", repeat: 5,
			args:  func(*session) []string { return []string{baseName, "true"} },
			goals: []goal{bareGoal(1.5)},
		}},
	}
}

// makeBundle makes an OCI bundle that runs a command in the host's network on a root file system.
func makeBundle(ctx context.Context, dir, root string, args ...string) error {
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.MkdirAll(root, 0o755)); err != nil { // #nosec G301 -- a root file system
		return err
	}
	cmd := exec.CommandContext(ctx, "runc", "spec")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("runc spec: %w: %s", err, out)
	}
	name := filepath.Join(dir, "config.json")
	b, err := os.ReadFile(name) // #nosec G304 -- just written
	if err != nil {
		return err
	}
	var spec struct {
		OCIVersion string                     `json:"ociVersion"`
		Process    map[string]any             `json:"process"`
		Root       map[string]any             `json:"root"`
		Hostname   string                     `json:"hostname"`
		Mounts     []map[string]any           `json:"mounts"`
		Linux      map[string]json.RawMessage `json:"linux"`
	}
	if err := json.Unmarshal(b, &spec); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	spec.Process["terminal"] = false
	spec.Process["args"], spec.Root["path"] = args, root
	spec.Linux["namespaces"] = json.RawMessage(`[{"type":"pid"},{"type":"ipc"},{"type":"uts"},{"type":"mount"}]`)
	if b, err = json.Marshal(spec); err != nil {
		return err
	}
	return os.WriteFile(name, b, 0o600)
}
