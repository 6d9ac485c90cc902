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

// gpuSpec describes two GPUs, as a vendor's tool does.
const gpuSpec = `cdiVersion: "0.6.0"
kind: amd.com/gpu
devices:
- {name: "0", containerEdits: {env: [GPU_0=yes]}}
- {name: "1", containerEdits: {env: [GPU_1=yes]}}
- {name: all, containerEdits: {env: [GPU_ALL=yes]}}
`

// RUN --device gives a step the devices of CDI that the build is allowed; without one an optional device is passed over.
func TestDevices(t *testing.T) {
	usertest.NeedRoot(t, "to write to /var/run/cdi")
	w := newWorld(t)
	w.busybox("s")
	w.write("lib/libzero", "library")
	w.describeDevices("strake-test.yaml", strings.ReplaceAll(cdiSpec, "DIR", w.dir))
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
			w.write("ctx/Dockerfile", "FROM busybox\nRUN --device="+tc.flag+" "+showDevices+"\n")
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

// showDevices tells which devices of cdiSpec a process has. Without the first its cgroup lets nobody open /dev/loop-control, with it for
// reading alone.
const showDevices = `echo "one=$ONE two=$TWO free=$FREE all=$ALL_ZEROS lib=$(cat /usr/lib/zero/libzero) read=$(true 2>/dev/null </dev/zero-one && echo yes) ` +
	`written=$(true 2>/dev/null >/dev/zero-one && echo yes)"`

// describeDevices writes a specification of CDI.
func (w *world) describeDevices(name, text string) {
	w.Helper()
	spec := filepath.Join("/var/run/cdi", name)
	err := os.MkdirAll(filepath.Dir(spec), 0o755)
	if err == nil {
		err = os.WriteFile(spec, []byte(text), 0o644)
	}
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { _ = os.Remove(spec) })
}

// Containers have the devices of CDI that --device and --gpus name, also when they start again.
func TestDevicesOfContainers(t *testing.T) {
	usertest.NeedRoot(t, "to write to /var/run/cdi")
	w := newWorld(t)
	w.busybox("s")
	w.write("lib/libzero", "library")
	run := func(flags ...string) (string, error) {
		return w.try("s", append(append([]string{"run", "--rm"}, flags...), "busybox", "sh", "-c", `echo "gpus=$GPU_0$GPU_1 every=$GPU_ALL"; `+showDevices)...)
	}
	const none = `could not select device driver "" with capabilities: [[gpu]]`
	if out, err := run("--gpus", "all"); err == nil || !strings.Contains(out+err.Error(), none) {
		t.Errorf("no GPU: %v\n%s", err, out)
	}
	w.describeDevices("strake-test.yaml", strings.ReplaceAll(cdiSpec, "DIR", w.dir))
	w.describeDevices("strake-test-gpu.yaml", gpuSpec)
	for _, tc := range []struct {
		flags       []string
		says, fails string
	}{
		{[]string{"--device", "strake.test/zero=one"}, "gpus= every=\none=1 two= free= all=yes lib=library read=yes written=\n", ""},
		{[]string{"--device", "strake.test/zero=two", "--device", "/dev/null:/dev/other"}, "gpus= every=\none= two=2 free= all=yes", ""},
		{[]string{"--gpus", "all"}, "gpus= every=yes\n", ""},
		{[]string{"--gpus", "2"}, "gpus=yesyes every=\n", ""},
		{[]string{"--gpus", `"device=1"`, "--device", "strake.test/zero=free"}, "gpus=yes every=\none= two= free=3", ""},
		{[]string{"--gpus", "driver=nvidia,count=1"}, "", `could not select device driver "nvidia" with capabilities: [[gpu]]`},
		{[]string{"--gpus", "3"}, "", "CDI device injection failed: unresolvable CDI devices amd.com/gpu=2"},
		{[]string{"--device", "strake.test/zero=three"}, "", "CDI device injection failed: unresolvable CDI devices strake.test/zero=three"},
	} {
		out, err := run(tc.flags...)
		if tc.fails != "" && (err == nil || !strings.Contains(err.Error(), tc.fails)) || tc.fails == "" && (err != nil || !strings.HasPrefix(out, tc.says)) {
			t.Errorf("%q: %v\n%s", tc.flags, err, out)
		}
	}
	if left := w.strake("s", "ps", "-aq"); left != "" {
		t.Errorf("left: %s", left)
	}
	w.strake("s", "create", "--name", "again", "--gpus", "all", "busybox", "sh", "-c", "echo every=$GPU_ALL")
	for range 2 {
		if out := w.strake("s", "start", "-a", "again"); out != "every=yes" {
			t.Errorf("started: %q", out)
		}
	}
}
