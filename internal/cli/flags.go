package cli

import (
	"errors"
	"strings"

	"github.com/containerd/platforms"
	"github.com/spf13/pflag"
)

// listFlag is a flag that may be given many times.
type listFlag struct {
	values *[]string
	kind   string             // what the help calls a value
	check  func(string) error // nil takes all
}

func (f listFlag) String() string { return "" }

func (f listFlag) Type() string { return f.kind }

func (f listFlag) Set(value string) error {
	if f.check != nil {
		if err := f.check(value); err != nil {
			return err
		}
	}
	*f.values = append(*f.values, value)
	return nil
}

func list(flags *pflag.FlagSet, values *[]string, name, short, about string) {
	flags.VarP(listFlag{values: values, kind: "list"}, name, short, about)
}

func filters(flags *pflag.FlagSet, values *[]string, about string) {
	flags.VarP(listFlag{values, "filter", checkFilter}, "filter", "f", about)
}

func checkFilter(value string) error {
	if !strings.Contains(value, "=") {
		return errors.New("bad format of filter (expected name=value)")
	}
	return nil
}

// obsolete takes a flag that docker still takes and that does nothing.
func obsolete(flags *pflag.FlagSet, name string) {
	flags.Bool(name, true, "")
	flags.Lookup(name).Hidden = true
}

// ignored takes a flag with a value that means nothing without a daemon.
func ignored(flags *pflag.FlagSet, name string) {
	flags.String(name, "", "")
	flags.Lookup(name).Hidden = true
}

// checkPlatforms fails for a platform that does not parse.
func checkPlatforms(list []string) error {
	for _, p := range list {
		if _, err := platforms.Parse(p); err != nil {
			return err
		}
	}
	return nil
}

// platformFlag adds the flag that docker reads DOCKER_DEFAULT_PLATFORM for.
func platformFlag(flags *pflag.FlagSet, platform *string) {
	flags.StringVar(platform, "platform", defaultPlatform(), "Set platform if server is multi-platform capable")
}
