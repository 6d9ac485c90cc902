package bakefile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/consts"
	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/schema"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/docker/go-units"

	"strake/internal/bake"
)

// isCompose tells whether a file is one of compose, and why it is none.
func isCompose(f bake.File, req bake.Request) (bool, error) {
	name := strings.ToLower(f.Name)
	if strings.HasSuffix(name, ".json") || strings.HasSuffix(name, ".hcl") {
		return false, nil
	}
	env, err := composeEnv(req.Vars)
	if err == nil {
		_, err = loadCompose([]types.ConfigFile{{Content: f.Data}}, env, req.Foreign, func(o *loader.Options) {
			o.SkipConsistencyCheck = true // several files may make sense together
		})
	}
	return err == nil || strings.HasSuffix(name, ".yml") || strings.HasSuffix(name, ".yaml"), err
}

// composeEnv are the variables of compose files: those of the environment before those of
// .env.
func composeEnv(vars map[string]string) (map[string]string, error) {
	env := map[string]string{}
	if environment() {
		for _, pair := range os.Environ() {
			key, value, _ := strings.Cut(pair, "=")
			env[key] = value
		}
	}
	const name = ".env"
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) || err == nil && info.IsDir():
	case err != nil:
		return nil, err
	default:
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		more, err := dotenv.UnmarshalBytesWithLookup(b, func(k string) (string, bool) {
			v, ok := env[k]
			return v, ok
		})
		if err != nil {
			return nil, err
		}
		for k, v := range more {
			if _, ok := env[k]; !ok {
				env[k] = v
			}
		}
	}
	maps.Copy(env, vars)
	return env, nil
}

// noFiles has the compose files of others name no files of this machine.
type noFiles struct{}

// Accept is loader.ResourceLoader's.
func (noFiles) Accept(string) bool { return true }

// Load is loader.ResourceLoader's.
func (noFiles) Load(_ context.Context, path string) (string, error) { return "", refusedFile(path) }

// Dir is loader.ResourceLoader's.
func (noFiles) Dir(path string) string { return path }

func refusedFile(path string) error {
	return fmt.Errorf("%s: compose files of a repository or a server name no other files", path)
}

// loadCompose reads what builds need of compose files. Foreign ones are another's: no file of this machine is read for them.
func loadCompose(files []types.ConfigFile, env map[string]string, foreign bool, options ...func(*loader.Options)) (*types.Project, error) {
	details := types.ConfigDetails{ConfigFiles: files, Environment: env}
	raw, err := loader.LoadModelWithContext(context.Background(), details, append([]func(*loader.Options){func(o *loader.Options) {
		name := env[consts.ComposeProjectName]
		if name == "" {
			name = "bake"
		}
		o.SetProjectName(name, false)
		o.SkipNormalization, o.SkipValidation = true, true
		if foreign {
			o.ResourceLoaders = append(o.ResourceLoaders, noFiles{})
		}
	}}, options...)...)
	if err != nil {
		return nil, err
	}
	model := map[string]any{}
	if services, ok := raw["services"].(map[string]any); ok {
		kept := map[string]any{}
		for name, service := range services {
			fields := map[string]any{}
			all, isMap := service.(map[string]any)
			if service != nil && !isMap {
				continue
			}
			if _, ok := all["env_file"]; ok && foreign {
				return nil, refusedFile("env_file of " + name)
			}
			for _, field := range []string{"image", "build", "environment", "env_file"} {
				if v, ok := all[field]; ok {
					fields[field] = v
				}
			}
			kept[name] = fields
		}
		model["services"] = kept
	}
	if v, ok := raw["secrets"]; ok {
		model["secrets"] = v
	}
	if len(model) == 0 {
		return nil, errors.New("empty compose file")
	}
	if err := schema.Validate(model); err != nil {
		return nil, err
	}
	return loader.ModelToProject(model, loader.ToOptions(&details, append([]func(*loader.Options){func(o *loader.Options) {
		o.SkipNormalization = true
		o.Profiles = []string{"*"}
	}}, options...)), details)
}

// parseCompose makes a target of each service that is built, and a group of all.
func parseCompose(files []bake.File, req bake.Request) (*config, error) {
	env, err := composeEnv(req.Vars)
	if err != nil {
		return nil, err
	}
	var given []types.ConfigFile
	for _, f := range files {
		given = append(given, types.ConfigFile{Filename: f.Name, Content: f.Data})
	}
	project, err := loadCompose(given, env, req.Foreign)
	if err != nil {
		return nil, err
	}
	c := &config{}
	if len(project.Services) == 0 {
		return c, nil
	}
	all := &group{Name: "default"}
	for _, name := range slices.Sorted(maps.Keys(project.Services)) {
		s := project.Services[name]
		if s.Build == nil {
			continue
		}
		t, err := serviceTarget(project, s)
		if err != nil {
			return nil, err
		}
		all.Targets, c.Targets = append(all.Targets, t.Name), append(c.Targets, t)
	}
	c.Groups = []*group{all}
	return c, nil
}

// baseOn has the paths of services be relative to the first of their files.
func (c *config) baseOn(file string) {
	base := fileDir(file)
	if base == "" {
		return
	}
	for _, t := range c.Targets {
		t.base.implied = &base
		if t.Context != nil {
			t.base.context = &base
		}
		for k := range t.Contexts {
			t.base.set(k, base)
		}
	}
}

// given is a text that is said, or nil.
func given(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func serviceTarget(project *types.Project, s types.ServiceConfig) (t *target, err error) {
	b := s.Build
	name := sanitize(s.Name)
	if err := checkName(name); err != nil {
		return nil, fmt.Errorf("invalid service name %q: %w", name, err)
	}
	t = &target{
		Name: name, Context: given(b.Context), Dockerfile: given(b.Dockerfile), DockerfileInline: given(b.DockerfileInline),
		Tags: b.Tags, NetworkMode: given(b.Network), Platforms: b.Platforms, Target: given(b.Target),
		Contexts: serviceContexts(b.AdditionalContexts), Labels: map[string]*string{}, ExtraHosts: map[string]*string{},
	}
	for k, v := range b.Labels {
		t.Labels[k] = &v
	}
	for k, v := range b.ExtraHosts {
		addresses := strings.Join(v, ",")
		t.ExtraHosts[k] = &addresses
	}
	if b.ShmSize > 0 {
		t.ShmSize = given(units.BytesSize(float64(b.ShmSize)))
	}
	for _, n := range slices.Sorted(maps.Keys(b.Ulimits)) {
		u := b.Ulimits[n]
		if u.Single != 0 {
			u.Soft, u.Hard = u.Single, u.Single
		}
		limit, err := units.ParseUlimit(fmt.Sprintf("%s=%d:%d", n, u.Soft, u.Hard))
		if err != nil {
			return nil, err
		}
		t.Ulimits = append(t.Ulimits, limit.String())
	}
	if b.NoCache {
		t.NoCache = &b.NoCache
	}
	if b.Pull {
		t.Pull = &b.Pull
	}
	put(&t.Args, b.Args.Resolve(func(name string) (string, bool) {
		if v, ok := s.Environment[name]; ok && v != nil {
			return *v, true
		}
		v, ok := project.Environment[name]
		return v, ok
	}))
	if err := t.fromService(project, b); err != nil {
		return nil, err
	}
	if err := t.extend(b.Extensions["x-bake"]); err != nil {
		return nil, err
	}
	if len(t.Tags) == 0 && s.Image != "" {
		t.Tags = []string{s.Image}
	}
	return t, nil
}

// fromService adds the entries of a service.
func (t *target) fromService(project *types.Project, b *types.BuildConfig) (err error) {
	for _, k := range b.SSH {
		one := &sshKey{ID: k.ID}
		if k.Path != "" {
			one.Paths = []string{k.Path}
		}
		t.SSH = append(t.SSH, one)
	}
	t.SSH.sort()
	for _, s := range b.Secrets {
		of := project.Secrets[s.Source]
		if of.External {
			return fmt.Errorf("unsupported external secret %s", of.Name)
		}
		t.Secrets = append(t.Secrets, &secret{ID: s.Source, File: of.File, Env: of.Environment})
	}
	if t.CacheFrom, err = parseCaches(b.CacheFrom); err != nil {
		return err
	}
	if t.CacheTo, err = parseCaches(b.CacheTo); err != nil {
		return err
	}
	for _, flag := range [][2]string{{"sbom", b.SBOM}, {"provenance", b.Provenance}} {
		if flag[1] == "" {
			continue
		}
		a, err := parseAttest(attestation(flag[0], flag[1]))
		if err != nil {
			return err
		}
		t.Attest = append(t.Attest, a)
	}
	return nil
}

// serviceContexts has services be targets.
func serviceContexts(m map[string]string) map[string]string {
	if m == nil {
		return nil
	}
	out := map[string]string{}
	for k, v := range m {
		for _, scheme := range []string{"service:", "target:"} {
			if name, ok := strings.CutPrefix(v, scheme); ok {
				v = "target:" + sanitize(name)
				break
			}
		}
		out[k] = v
	}
	return out
}

// words are a list of texts, or one text of words.
func words(v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return strings.Fields(v), nil
	case []any:
		var list []string
		for _, e := range v {
			list = append(list, fmt.Sprint(e))
		}
		return list, nil
	}
	return nil, fmt.Errorf("x-bake: %v is neither a text nor a list", v)
}

// extend adds the extension x-bake of compose files.
func (t *target) extend(ext any) error {
	fields, ok := ext.(map[string]any)
	if !ok {
		return nil
	}
	lists := map[string][]string{}
	for _, name := range []string{"tags", "cache-from", "cache-to", "secret", "ssh", "platforms", "output", "no-cache-filter"} {
		var err error
		if lists[name], err = words(fields[name]); err != nil {
			return err
		}
	}
	if err := t.extendEntries(lists); err != nil {
		return err
	}
	t.Tags = extended(t.Tags, lists["tags"])
	t.Platforms = extended(t.Platforms, lists["platforms"])
	t.NoCacheFilter = extended(t.NoCacheFilter, lists["no-cache-filter"])
	for name, field := range map[string]**bool{"pull": &t.Pull, "no-cache": &t.NoCache} {
		switch v := fields[name].(type) {
		case nil:
		case bool:
			*field = &v
		default:
			return fmt.Errorf("x-bake: %s is no boolean", name)
		}
	}
	contexts, _ := fields["contexts"].(map[string]any)
	more := map[string]string{}
	for k, v := range contexts {
		more[k] = fmt.Sprint(v)
	}
	for k, v := range serviceContexts(more) {
		if t.Contexts == nil {
			t.Contexts = map[string]string{}
		}
		if _, ok := t.Contexts[k]; !ok {
			t.Contexts[k] = v
		}
	}
	return nil
}

func extended(list, more []string) []string {
	if len(more) == 0 {
		return list
	}
	return dedup(append(list, more...))
}

func (t *target) extendEntries(lists map[string][]string) error {
	from, err := parseCaches(lists["cache-from"])
	if err != nil {
		return err
	}
	to, err := parseCaches(lists["cache-to"])
	if err != nil {
		return err
	}
	given, err := parseSecrets(lists["secret"])
	if err != nil {
		return err
	}
	out, err := parseOutputs(lists["output"])
	if err != nil {
		return err
	}
	t.CacheFrom, t.CacheTo = t.CacheFrom.merge(from), t.CacheTo.merge(to)
	t.Secrets, t.Outputs = t.Secrets.merge(given), t.Outputs.merge(out)
	if keys := lists["ssh"]; len(keys) > 0 {
		t.SSH = t.SSH.merge(parseSSHs(keys))
		t.SSH.sort()
	}
	return nil
}
