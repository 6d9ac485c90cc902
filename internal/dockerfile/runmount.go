package dockerfile

import (
	"errors"
	"fmt"
	"io/fs"
	"path"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"strake/internal/build"
)

// The permissions of what a mount makes, unless it says otherwise.
const (
	cacheMode  fs.FileMode = 0o755
	secretMode fs.FileMode = 0o400
	socketMode fs.FileMode = 0o600
)

// mountStages are the stages and images that the mounts of a RUN are from.
func (c *stageList) mountStages(in *instructions.RunCommand) []*stage {
	mounts := instructions.GetMounts(in)
	from := make([]*stage, len(mounts))
	for i, m := range mounts {
		switch {
		case m.From != "":
			from[i] = c.named(m.From, in.Location())
		case m.Type == instructions.MountTypeBind:
			from[i] = c.context
		}
	}
	return from
}

// runMounts takes the mounts over. It returns what they are from, the inputs of the step after its parent.
func (cmd command) runMounts(opts *Options, s *stage, in *instructions.RunCommand, op *build.Run) ([]*build.Vertex, error) {
	var from []*build.Vertex
	sockets := 0
	for i, m := range instructions.GetMounts(in) {
		mount := build.Mount{
			Type: string(m.Type), Target: m.Target, ReadOnly: m.ReadOnly, Source: m.Source, ID: m.CacheID, Required: m.Required,
			Size: m.SizeLimit,
		}
		var err error
		switch m.Type {
		case instructions.MountTypeSecret:
			err = secretMount(&mount, m)
		case instructions.MountTypeSSH:
			err = sshMount(&mount, m, sockets)
			sockets++
		default:
			if source := cmd.mounts[i]; source != nil && m.Type != instructions.MountTypeTmpfs {
				if !source.dispatched {
					return nil, fmt.Errorf("cannot mount from stage %q to %q, stage needs to be defined before current command", m.From, m.Target)
				}
				from = append(from, source.whole())
				mount.Stage = len(from)
			}
			opts.fileMount(&mount, m)
		}
		if err != nil {
			return nil, err
		}
		if mount.Target != "" || mount.Type != build.MountSecret {
			if mount.Target = absolute(s.image.Config.WorkingDir, mount.Target); mount.Target == "/" {
				return nil, fmt.Errorf("invalid mount target %q", mount.Target)
			}
		}
		if sockets == 1 && m.Type == instructions.MountTypeSSH {
			if _, set := s.env.Get("SSH_AUTH_SOCK"); !set {
				op.Env = append(op.Env, "SSH_AUTH_SOCK="+mount.Target)
			}
		}
		op.Mounts = append(op.Mounts, mount)
	}
	return from, nil
}

// fileMount completes a mount of type bind, cache or tmpfs.
func (o *Options) fileMount(mount *build.Mount, m *instructions.Mount) {
	switch m.Type {
	case instructions.MountTypeBind:
		if mount.Stage > 0 {
			return
		}
		mount.Context = noContext
		if o.Context != nil {
			mount.Context = o.Context.Load
			o.Context.Want(build.LiteralPath(path.Join("/", m.Source)))
		}
	case instructions.MountTypeCache:
		mount.Sharing = string(instructions.MountSharingShared)
		if m.CacheSharing != "" {
			mount.Sharing = string(m.CacheSharing)
		}
		if mount.ID == "" {
			mount.ID = path.Clean(m.Target)
		}
		mount.ID = o.BuildArgs["BUILDKIT_CACHE_MOUNT_NS"] + "/" + mount.ID
		own(mount, m, cacheMode)
	}
}

// own takes over who owns what a mount makes.
func own(mount *build.Mount, m *instructions.Mount, mode fs.FileMode) {
	mount.Owned = m.UID != nil || m.GID != nil || m.Mode != nil
	mount.Mode = mode
	if m.UID != nil {
		mount.UID = int(*m.UID)
	}
	if m.GID != nil {
		mount.GID = int(*m.GID)
	}
	if m.Mode != nil {
		mount.Mode = fs.FileMode(*m.Mode) & fs.ModePerm
	}
}

// secretMount completes a mount of type secret.
func secretMount(mount *build.Mount, m *instructions.Mount) error {
	if m.Source != "" {
		mount.ID, mount.Source = m.Source, ""
	}
	if mount.ID == "" {
		if m.Target == "" {
			return errors.New("one of source, target required")
		}
		mount.ID = path.Base(m.Target)
	}
	own(mount, m, secretMode)
	switch {
	case m.Env != nil:
		mount.Env = *m.Env
	case m.Target == "":
		mount.Target = "/run/secrets/" + path.Base(mount.ID)
	}
	return nil
}

// sshMount completes the n-th mount of type ssh.
func sshMount(mount *build.Mount, m *instructions.Mount, n int) error {
	if m.Source != "" {
		return errors.New("ssh does not support source")
	}
	if mount.ID == "" {
		mount.ID = "default"
	}
	if m.Target == "" {
		mount.Target = fmt.Sprintf("/run/buildkit/ssh_agent.%d", n)
	}
	own(mount, m, socketMode)
	return nil
}

// masked is the stage's variables, and **** for those that hold a secret.
func (s *stage) masked(op *build.Run) *envList {
	env := s.env.clone()
	for _, m := range op.Mounts {
		if m.Env != "" {
			env.set(m.Env, "****")
		}
	}
	return &env
}
