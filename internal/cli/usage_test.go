package cli

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"strake/internal/engine"
)

// operate does that many random operations on containers of the image, from a seed: SEED COUNT IMAGE. After each the sum of what
// df tells is what du tells of the store. Some fail, as for a name that is taken, but none every time.
func operate(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: operate SEED COUNT IMAGE")
	}
	seed, err := strconv.ParseUint(args[0], 10, 64)
	ts.Check(err)
	count, err := strconv.Atoi(args[1])
	ts.Check(err)
	r := rand.New(rand.NewPCG(seed, seed))
	did := map[string]bool{}
	for range count {
		op, line := randomOperation(r, args[2])
		did[op] = ts.Exec("strake", line...) == nil || did[op]
		ts.Check(usageIsDu(ts.Getenv("STRAKE_ROOT"), op))
	}
	for op, ok := range did {
		if !ok {
			ts.Fatalf("no %s of %d operations from seed %d succeeded", op, count, seed)
		}
	}
}

// randomOperation is an operation on one of three containers and two volumes, and its command line.
func randomOperation(r *rand.Rand, image string) (op string, line []string) {
	name, volume := fmt.Sprint("box", r.IntN(3)), fmt.Sprint("volume", r.IntN(2))
	write := fmt.Sprintf("echo $RANDOM; busybox dd if=/dev/zero of=/own%d bs=1k count=%d; busybox dd if=/dev/zero of=/data/%d bs=1k count=%d",
		r.IntN(3), r.IntN(300), r.IntN(3), r.IntN(300))
	operations := []struct {
		op   string
		line []string
	}{
		{"run", []string{"run", "--network", "none", "--name", name, "-v", volume + ":/data", image, "sh", "-c", write}},
		{"run -d", []string{"run", "-d", "--network", "none", "--name", name, "-v", "/data", image, "sh", "-c", write + "; sleep 1000"}},
		{"exec", []string{"exec", name, "sh", "-c", write}},
		{"create", []string{"create", "--name", name, image, "true"}},
		{"commit", []string{"commit", name, "copy:" + strconv.Itoa(r.IntN(2))}},
		{"rm", []string{"rm", "-f", name}},
		{"rm -v", []string{"rm", "-f", "-v", name}},
		{"volume rm", []string{"volume", "rm", volume}},
		{"rmi", []string{"rmi", "-f", "copy:" + strconv.Itoa(r.IntN(2))}},
	}
	o := operations[r.IntN(len(operations))]
	return o.op, o.line
}

// usageIsDu fails unless df and du agree, as soon as what the operation left behind, as a monitor that ends, is done.
func usageIsDu(root, op string) error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		usage, du, err := measureTwice(context.Background(), root)
		sum := usage.Images + usage.Containers + usage.Volumes + usage.Cache + usage.Undo + usage.Other
		switch {
		case err == nil && sum == du:
			return nil
		case time.Now().After(deadline):
			return errors.Join(fmt.Errorf("after %s: %+v: the sum is %d, du says %d", op, usage.Usage, sum, du), err)
		}
	}
}

func measureTwice(ctx context.Context, root string) (usage engine.Usage, du int64, err error) {
	env, err := engine.Open(ctx, engine.OpenOptions{Root: root})
	if err != nil {
		return usage, 0, err
	}
	defer func() { err = errors.Join(err, env.Store.Close()) }() //nolint:contextcheck // it is not cut short
	if usage, err = engine.DiskUsage(ctx, env); err != nil {
		return usage, 0, err
	}
	out, err := exec.CommandContext(ctx, "du", "-s", "--block-size=1", root).Output()
	if err == nil {
		_, err = fmt.Sscan(string(out), &du)
	}
	return usage, du, err
}
