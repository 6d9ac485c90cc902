package engine

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"strake/internal/remote"
	"strake/internal/rootfs"
	"strake/internal/store"
)

// OpenOptions say what an Env works on.
type OpenOptions struct {
	Root    string       // the store's directory; "" is the default one
	Config  string       // the directory of docker's config.json; "" is the default one
	Version string       // Strake's, as registries are told
	Log     *slog.Logger // told what registries are asked and answer; nil drops it
	NoStore bool         // leave Env.Store nil, for verbs that need none: Login and Logout
	// Insecure lists registries that may be spoken to without verified TLS.
	Insecure []string
}

// Open opens the store. Registries are not contacted, and none of their
// configuration is read, before a verb needs them.
func Open(ctx context.Context, opts OpenOptions) (*Env, error) {
	config := &remote.Config{Dir: opts.Config}
	env := &Env{Credentials: config, Version: opts.Version, Log: opts.Log}
	registries := remote.Options{Credentials: config.Get, UserAgent: "strake/" + opts.Version, Insecure: opts.Insecure, Log: opts.Log}
	if !opts.NoStore {
		var err error
		if env.Settings, err = readSettings(); err != nil {
			return nil, err
		}
		options := store.Options{Root: opts.Root, UndoWindow: env.Settings.UndoWindow, MaxSize: env.Settings.MaxSize}
		if env.Store, err = store.Open(ctx, options); err != nil {
			return nil, err
		}
		registries.Uploads = env.Store
	}
	env.Remote = remote.NewClient(registries)
	return env, nil
}

// Close closes what Open opened. Verbs must have returned.
func Close(env *Env) error {
	env.Remote.Close()
	if env.Store == nil {
		return nil
	}
	return env.Store.Close()
}

// HasUnpacked reports whether a store holds files of containers as such: root
// file systems that were unpacked, and cache mounts; "" is the default one.
func HasUnpacked(root string) bool {
	if root == "" {
		root = store.DefaultRoot()
	}
	return holds(unpackedDir(root)) || holds(filepath.Join(root, "cachemounts"))
}

// NamespaceDir is where processes of a store note that they are in its user namespace, for userns.Enter; root "" is the default store.
func NamespaceDir(root string) string {
	if root == "" {
		root = store.DefaultRoot()
	}
	return filepath.Join(root, "userns")
}

func holds(dir string) bool {
	list, err := os.ReadDir(dir)
	return err == nil && slices.ContainsFunc(list, func(e os.DirEntry) bool { return e.Name() != rootfs.MountPoints })
}

func unpackedDir(root string) string { return filepath.Join(root, "rootfs", "unpacked") }
