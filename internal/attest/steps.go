package attest

import ocispec "github.com/opencontainers/image-spec/specs-go/v1"

// Step is a step of a build as BuildKit's provenance has it: an operation of its LLB, with the names of LLB's fields. Environments are left
// out, and so is the content of files.
type Step struct {
	ID     string   `json:"id"`
	Op     Op       `json:"op"`
	Inputs []string `json:"inputs,omitempty"` // "step0:0", the parent first

	Lines []int `json:"-"` // of the Dockerfile
}

// Op is what a step does: one of the fields of Op.
type Op struct {
	Op struct {
		Exec   *ExecOp   `json:"exec,omitempty"`
		Source *SourceOp `json:"source,omitempty"`
		File   *FileOp   `json:"file,omitempty"`
		Merge  *struct{} `json:"merge,omitempty"` // of the inputs
	} `json:"Op"`
	Platform *StepPlatform `json:"platform,omitempty"`
}

// StepPlatform is a platform.
type StepPlatform struct {
	Architecture string `json:"Architecture,omitempty"`
	OS           string `json:"OS,omitempty"`
	Variant      string `json:"Variant,omitempty"`
}

// NewStepPlatform is p; nil where it is not known.
func NewStepPlatform(p ocispec.Platform) *StepPlatform {
	if p.OS == "" {
		return nil
	}
	return &StepPlatform{Architecture: p.Architecture, OS: p.OS, Variant: p.Variant}
}

// ExecOp runs a command.
type ExecOp struct {
	Meta struct {
		Args []string `json:"args"`
		Cwd  string   `json:"cwd,omitempty"`
		User string   `json:"user,omitempty"`
	} `json:"meta"`
	Mounts     []ExecMount `json:"mounts,omitempty"`
	Network    int         `json:"network,omitempty"`  // NetworkNone; 0 is the usual
	Security   int         `json:"security,omitempty"` // SecurityInsecure; 0 is confined
	SecretEnv  []ID        `json:"secretenv,omitempty"`
	CDIDevices []ID        `json:"cdiDevices,omitempty"`
}

// LLB's numbers.
const (
	NetworkNone      = 2
	SecurityInsecure = 1

	MountBind   = 0
	MountSecret = 1
	MountSSH    = 2
	MountCache  = 3
	MountTmpfs  = 4
)

// ExecMount is something that a command sees; one of MountBind is of an input of the step.
type ExecMount struct {
	Input    int    `json:"input,omitempty"`    // -1: nothing
	Selector string `json:"selector,omitempty"` // path in the input
	Dest     string `json:"dest"`
	Readonly bool   `json:"readonly,omitempty"`
	Type     int    `json:"mountType,omitempty"`
	Cache    *ID    `json:"cacheOpt,omitempty"`
	Secret   *ID    `json:"secretOpt,omitempty"`
	SSH      *ID    `json:"SSHOpt,omitempty"`
}

// ID names a cache, a secret or an agent; of a secret in the environment the variable too, and a device by its name alone.
type ID struct {
	ID   string `json:"ID,omitempty"`
	Name string `json:"name,omitempty"`
}

// SourceOp takes something from elsewhere.
type SourceOp struct {
	Identifier string            `json:"identifier"`
	Attrs      map[string]string `json:"attrs,omitempty"`
}

// FileOp makes files.
type FileOp struct {
	Actions []FileAction `json:"actions"`
}

// FileAction makes some; inputs are numbers of the step's inputs.
type FileAction struct {
	Input     int `json:"input"`          // -1: nothing; behind the inputs the actions before this one
	Secondary int `json:"secondaryInput"` // -1: none
	Output    int `json:"output"`         // -1: for the next action alone
	Action    struct {
		Copy   *FileCopy `json:"copy,omitempty"`
		Mkfile *FileMake `json:"mkfile,omitempty"`
		Mkdir  *FileMake `json:"mkdir,omitempty"`
	} `json:"Action"`
}

// FileCopy copies.
type FileCopy struct {
	Src  string `json:"src"`
	Dest string `json:"dest"`
}

// FileMake makes a file or a directory.
type FileMake struct {
	Path string `json:"path"`
}

// buildConfig is the steps of a build.
type buildConfig struct {
	Definition []Step `json:"llbDefinition"`
}

// lines is a range of lines, as BuildKit's provenance has them.
type location struct {
	Ranges []lineRange `json:"ranges"`
}

type lineRange struct {
	Start position `json:"start"`
	End   position `json:"end"`
}

type position struct {
	Line int `json:"line"`
}

type locations struct {
	Locations []location `json:"locations"`
}

// addSteps adds the steps and where in the Dockerfile they are, without secrets.
func (p *predicate) addSteps(steps []Step, secrets []string) {
	clean := func(text *string) { *text = string(cleanSource([]byte(*text), secrets)) }
	at := map[string]locations{}
	for i := range steps {
		op := steps[i].Op.Op
		if e := op.Exec; e != nil {
			clean(&e.Meta.Cwd)
			clean(&e.Meta.User)
			for j := range e.Meta.Args {
				clean(&e.Meta.Args[j])
			}
			for j := range e.Mounts {
				clean(&e.Mounts[j].Dest)
				clean(&e.Mounts[j].Selector)
				for _, id := range []*ID{e.Mounts[j].Cache, e.Mounts[j].Secret, e.Mounts[j].SSH} {
					if id != nil {
						clean(&id.ID)
					}
				}
			}
		}
		if s := op.Source; s != nil {
			s.Identifier = cleanURI(s.Identifier)
			clean(&s.Identifier)
		}
		if f := op.File; f != nil {
			for j := range f.Actions {
				a := f.Actions[j].Action
				if a.Copy != nil {
					clean(&a.Copy.Src)
					clean(&a.Copy.Dest)
				}
				for _, made := range []*FileMake{a.Mkfile, a.Mkdir} {
					if made != nil {
						clean(&made.Path)
					}
				}
			}
		}
		if lines := steps[i].Lines; len(lines) > 0 {
			r := lineRange{position{lines[0]}, position{lines[len(lines)-1]}}
			at[steps[i].ID] = locations{[]location{{[]lineRange{r}}}}
		}
	}
	if len(steps) == 0 {
		return
	}
	p.BuildDefinition.InternalParameters.BuildConfig = &buildConfig{steps}
	p.RunDetails.Metadata.BuildKit.Source.Locations = at
}
