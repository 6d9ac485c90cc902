package engine

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"strake/internal/executor"
	"strake/internal/mount"
	"strake/internal/network"
	"strake/internal/userns"
)

// An Ability is one thing that a machine allows a user, or not.
type Ability struct {
	Name   string
	OK     bool
	Detail string // in which way, or why not
	Unlock string // what would allow it, or more of it; "" if nothing is missing
}

// Doctor tries what Strake needs of the machine. What is missing is an Ability and no error.
func Doctor(ctx context.Context, env *Env) ([]Ability, error) {
	ids, err := idsAbility()
	if err != nil {
		return nil, err
	}
	return []Ability{
		{Name: "images", OK: true, Detail: "pull, push, inspect and build without RUN, in " + env.Store.Root()},
		runtimeAbility(ctx),
		containersAbility(ctx),
		ids,
		networksAbility(),
		limitsAbility(),
		rootfsAbility(ctx, env),
		programAbility("git", "contexts and ADD from git repositories"),
	}, nil
}

func runtimeAbility(ctx context.Context) Ability {
	f := Ability{Name: "runtime", Unlock: "install crun or runc, or name one in " + executor.RuntimeVariable}
	path, err := executor.FindRuntime()
	if err == nil {
		f.Detail, err = executor.Version(ctx, path)
	}
	if err != nil {
		f.Detail = err.Error()
		return f
	}
	return Ability{Name: f.Name, OK: true, Detail: path + ", " + f.Detail}
}

func containersAbility(ctx context.Context) Ability {
	f := Ability{Name: "containers"}
	ns, err := mount.New(ctx)
	if err == nil {
		err = ns.Close()
	}
	switch {
	case err != nil:
		f.Detail, f.Unlock = err.Error(), namespacesUnlock()
	case userns.IDs() > 0:
		f.OK, f.Detail = true, "RUN and run, in a user namespace"
	default:
		f.OK, f.Detail = true, "RUN and run, as root"
	}
	return f
}

// namespacesUnlock names the settings that keep user namespaces from ordinary users.
func namespacesUnlock() string {
	var list []string
	for _, s := range []struct{ file, locked, unlock string }{
		{"/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"},
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl kernel.apparmor_restrict_unprivileged_userns=0"},
		{"/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"},
	} {
		if text, err := os.ReadFile(s.file); err == nil && strings.TrimSpace(string(text)) == s.locked {
			list = append(list, s.unlock)
		}
	}
	if len(list) == 0 {
		return "run as root, or outside of a container that forbids namespaces"
	}
	return strings.Join(list, "; ")
}

func idsAbility() (Ability, error) {
	f := Ability{Name: "owners", OK: true, Detail: "files of any user and group"}
	if userns.IsRoot() {
		return f, nil
	}
	plan, err := userns.NewPlan()
	if err != nil {
		return f, err
	}
	if plan.Missing == "" {
		f.Detail = fmt.Sprintf("RUN and run have %d users and groups", plan.IDs())
		return f, nil
	}
	return Ability{
		Name: f.Name, Unlock: plan.Missing,
		Detail: "RUN and run have root alone: USER must be root; layers keep the owners that they have",
	}, nil
}

func networksAbility() Ability {
	f := Ability{Name: "networks", OK: true, Detail: "bridges of the host"}
	if userns.IsRoot() {
		return f
	}
	f.Detail = "bridges in a network namespace of the user"
	if err := network.Usable(); err != nil {
		f.OK, f.Detail = false, err.Error()+": run shares the host's network"
		f.Unlock = "install passt (or slirp4netns); chmod 666 /dev/net/tun"
	} else if err := userns.CanJoin(); err != nil {
		f.OK, f.Detail, f.Unlock = false, fmt.Sprintf("one container at a time has a network: %v", err), "install util-linux"
	}
	return f
}

func limitsAbility() Ability {
	f := Ability{Name: "limits", OK: readKernelLimits().any(), Detail: "of memory, processors and processes, and pause, by cgroups"}
	if executor.MayDelegate() {
		f.Detail = "of memory, processors and processes, by cgroups that the user's systemd gives to containers that have limits; pause of those"
	}
	if !f.OK {
		f.Detail, f.Unlock = "none, and no pause: this user may make no cgroups; stats adds up processes", "root"
		if executor.UnifiedCgroups() {
			f.Unlock = "root, or cgroups that systemd delegates (docs/rootless.md)"
		}
	}
	return f
}

func rootfsAbility(ctx context.Context, env *Env) Ability {
	f := Ability{Name: "root file systems"}
	name, reason := driver(ctx, env)
	f.OK, f.Detail = name == "erofs", name+": "+reason
	switch {
	case f.OK:
	case userns.IsRoot():
		f.Unlock = "a kernel with EROFS (CONFIG_EROFS_FS), from files since Linux 6.12; without, each layer is unpacked once"
	default:
		f.Unlock = "root; without, each layer is unpacked once"
	}
	return f
}

func programAbility(name, use string) Ability {
	if path, err := exec.LookPath(name); err == nil {
		return Ability{Name: name, OK: true, Detail: path}
	}
	return Ability{Name: name, Detail: "not in PATH: no " + use, Unlock: "install " + name}
}
