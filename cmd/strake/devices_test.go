package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"strake/internal/usertest"
)

// cdiSpec describes two devices: a node, a mount, variables and a hook.
const cdiSpec = `cdiVersion: "0.6.0"
kind: strake.test/zero
annotations:
  org.mobyproject.buildkit.device.class: nothings
containerEdits:
  env: [ALL_ZEROS=yes]
devices:
- name: one
  containerEdits:
    deviceNodes: [{path: /dev/zero-one, hostPath: /dev/loop-control, permissions: r}]
    mounts: [{hostPath: DIR/lib, containerPath: /usr/lib/zero, options: [ro, bind]}]
    env: [ONE=1]
    hooks: [{hookName: createRuntime, path: /bin/sh, args: [sh, -c, cat >DIR/hooked]}]
- name: two
  containerEdits: {env: [TWO=2]}
- name: free
  annotations: {org.mobyproject.buildkit.device.autoallow: "true"}
  containerEdits: {env: [FREE=3]}
`

// RUN --device gives a step the devices of CDI that the build is allowed; without one an optional device is passed over.
func TestDevices(t *testing.T) {
	usertest.NeedRoot(t, "to write to /var/run/cdi")
	w := newWorld(t)
	w.busybox("s")
	const spec = "/var/run/cdi/strake-test.yaml"
	if err := os.MkdirAll(filepath.Dir(spec), 0o755); err != nil {
		t.Fatal(err)
	}
	w.write("lib/libzero", "library")
	if err := os.WriteFile(spec, []byte(strings.ReplaceAll(cdiSpec, "DIR", w.dir)), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(spec) })
	// Without the device its cgroup lets nobody open /dev/loop-control, with it for reading alone.
	const show = `echo "one=$ONE two=$TWO free=$FREE all=$ALL_ZEROS lib=$(cat /usr/lib/zero/libzero) read=$(true 2>/dev/null </dev/zero-one && echo yes) ` +
		`written=$(true 2>/dev/null >/dev/zero-one && echo yes)"`
	for name, tc := range map[string]struct {
		flag  string
		args  []string
		says  string
		fails string
	}{
		"one":         {"strake.test/zero=one,required", []string{"--allow", "device=strake.test/zero=one"}, "one=1 two= free= all=yes lib=library read=yes written=\n", ""},
		"all allowed": {"strake.test/zero=*", []string{"--allow", "device"}, "one=1 two=2 free=3 all=yes lib=library", ""},
		"class":       {"nothings", []string{"--allow", "device=nothings"}, "one=1 two=2 free=3", ""},
		"first":       {"strake.test/zero", []string{"--allow", "device=strake.test/zero=free"}, "one= two= free=3", ""},
		"free":        {"strake.test/zero=free", nil, "one= two= free=3 all=yes", ""},
		"alias":       {"name=gpu,required", []string{"--allow", "device=strake.test/zero=two,alias=gpu"}, "one= two=2 free=", ""},
		"absent":      {"strake.test/zero=three", nil, "one= two= free= all= ", ""},
		"not allowed": {"strake.test/zero=one", nil, "", "device strake.test/zero=one is requested by the build but not allowed"},
		"both":        {"strake.test/zero=*", nil, "", "devices strake.test/zero=one, strake.test/zero=two are requested by the build but not allowed"},
		"required":    {"strake.test/zero=three,required", []string{"--allow", "device"}, "", `required device "strake.test/zero=three" is not registered`},
		"config":      {"x", []string{"--allow", "device=x,name=y"}, "", `unknown device config key "name"`},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{T: t, dir: w.dir}
			_ = os.Remove(filepath.Join(w.dir, "hooked"))
			w.write("ctx/Dockerfile", "FROM busybox\nRUN --device="+tc.flag+" "+show+"\n")
			out, err := w.try("s", append(append([]string{"build", "--progress", "plain", "--no-cache", "-t", "out"}, tc.args...), "ctx")...)
			if tc.fails != "" {
				if err == nil || !strings.Contains(out, tc.fails) {
					t.Errorf("%v\n%s", err, tail(out))
				}
				return
			}
			if err != nil || !strings.Contains(out, " "+tc.says) {
				t.Errorf("%v\n%s", err, out)
			}
			_, hooked := os.Stat(filepath.Join(w.dir, "hooked"))
			if one := strings.Contains(tc.says, "one=1"); one != (hooked == nil) {
				t.Errorf("hook ran: %v", hooked == nil)
			}
			if left := w.strake("s", "image", "diff", "busybox", "out"); strings.Contains(left, "zero") {
				t.Errorf("left in the image: %s", left)
			}
		})
	}
	w.write("ctx/Dockerfile", "FROM busybox\nRUN --device=strake.test/zero=three,required true\n")
	w.strake("s", "build", "--check", "ctx")
}
