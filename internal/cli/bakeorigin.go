package cli

import (
	"cmp"
	"context"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"strake/internal/bake"
	"strake/internal/engine"
	"strake/internal/progress"
)

// bakeFrom is where the definition is, and what it is given as the context of the command.
type bakeFrom struct {
	address string         // of a repository, of an archive or of a file; "" is the working directory
	context string         // BAKE_CMD_CONTEXT
	at      *engine.GitRef // that the address stood for when the definition was read, if it is a repository's
}

// bakeOrigin takes the addresses from the arguments: that of the definition, and that of the context.
func bakeOrigin(args []string) (from bakeFrom, targets []string) {
	from = bakeFrom{context: bake.Here}
	for _, to := range []*string{&from.address, &from.context} {
		if len(args) == 0 || !engine.IsRemote(args[0]) {
			break
		}
		*to, args = args[0], args[1:]
	}
	return from, args
}

// fileNames are those of --file, or of the environment.
func (o bakeOptions) fileNames() (names []string) {
	named, ok := os.LookupEnv("BUILDX_BAKE_FILE")
	if !ok || len(o.files) > 0 {
		return o.files
	}
	for _, name := range strings.Split(named, cmp.Or(os.Getenv("BUILDX_BAKE_PATH_SEPARATOR"), string(filepath.ListSeparator))) {
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// define adds the files to the request: those at the address, and those of this machine.
func (o bakeOptions) define(ctx context.Context, s *session, from *bakeFrom, req *bake.Request) error {
	var local, remote []string
	for _, name := range o.fileNames() {
		if at, ok := strings.CutPrefix(name, bake.Here); ok || from.address == "" {
			local = append(local, at)
		} else {
			remote = append(remote, name)
		}
	}
	if from.address != "" {
		if err := o.fetch(ctx, s, from, remote, req); err != nil {
			return err
		}
	}
	if from.address == "" || len(local) > 0 {
		files, err := bake.ReadFiles(local, s.input(ctx))
		if err != nil {
			return err
		}
		req.Files = append(req.Files, files...)
	}
	if len(req.Files) == 0 {
		return errors.New("couldn't find a bake definition")
	}
	return nil
}

// fetch adds the files of these names at the address, or those of the usual names. The session is contained.
func (o bakeOptions) fetch(ctx context.Context, s *session, from *bakeFrom, names []string, req *bake.Request) error {
	env, err := s.contained(ctx)
	if err != nil {
		return err
	}
	opts := engine.RemoteFilesOptions{
		Address: from.address, Names: names, Some: len(names) == 0, Limit: bake.MaxFile, Secrets: gitSecrets(from.address), Agent: os.Getenv("BUILDX_BAKE_GIT_SSH"),
	}
	if opts.Some {
		opts.Names = bake.DefaultFiles
	}
	show, err := progress.New(progress.Options{Out: s.Err, Mode: o.progress})
	if err != nil {
		return err
	}
	opts.Progress = show.Handle
	files, err := engine.ReadRemoteFiles(ctx, env, opts)
	if closeErr := show.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	for _, f := range files.List {
		req.Files = append(req.Files, bake.File{Name: f.Name, Data: f.Data})
	}
	req.Foreign, from.at = true, files.At
	if files.Tree {
		req.Origin = from.address
	}
	return nil
}

// gitSecrets are what the environment has for the server of a repository.
func gitSecrets(address string) (secrets []engine.Secret) {
	host := gitHost(address)
	if host == "" {
		return nil
	}
	for _, kind := range []string{"TOKEN", "HEADER"} {
		if variable := "BUILDX_BAKE_GIT_AUTH_" + kind; os.Getenv(variable) != "" {
			secrets = append(secrets, engine.Secret{ID: "GIT_AUTH_" + kind + "." + host, Env: variable})
		}
	}
	return secrets
}

// gitHost is the host, with its port, of the address of a repository that is fetched by HTTP; "" is none.
func gitHost(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" {
		return ""
	}
	return u.Host
}
