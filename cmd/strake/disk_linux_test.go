package main_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"strake/internal/usertest"
)

// mount mounts, until the test ends, at a directory of the world.
func (w *world) mount(at string, args ...string) {
	w.Helper()
	if err := os.MkdirAll(w.path(at), 0o755); err != nil {
		w.Fatal(err)
	}
	w.run("mount", append(args, w.path(at))...)
	w.Cleanup(func() { _ = unix.Unmount(w.path(at), unix.MNT_DETACH) }) // it may be unmounted already
}

// A disk that is full fails a command with one line that says so, and nothing is
// lost; once there is room the same command succeeds.
func TestFullDisk(t *testing.T) {
	usertest.NeedRoot(t, "to mount a disk")
	w := newWorld(t)
	w.busybox("src")
	w.write("app/Dockerfile", "FROM busybox\nCOPY a /a\nRUN cat /a > /b\n")
	w.write("app/a", strings.Repeat(fmt.Sprint(rand.Uint64()), 600_000))
	ref := w.hub() + "/team/app:1"
	w.strake("src", "build", "-t", ref, "app")
	w.strake("src", "push", ref)
	w.strake("src", "save", "-o", w.path("app.tar"), ref)
	for name, args := range map[string][]string{
		"pull":  {"pull", ref},
		"build": {"build", "-t", ref, "app"},
		"load":  {"load", "-i", w.path("app.tar")},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{T: t, dir: w.dir}
			disk := "full-" + name
			store := disk + "/store"
			w.mount(disk, "-t", "tmpfs", "-o", "size=24m", "tmpfs")
			w.strake(store, "import", w.busyboxTar(), "busybox")
			w.strake(store, "tag", "busybox", "kept:1")
			for _, rest := range []int64{0, 8 << 10, 100 << 10, 4 << 20, 8 << 20} {
				var st unix.Statfs_t
				if err := unix.Statfs(w.path(disk), &st); err != nil {
					t.Fatal(err)
				}
				filler := w.path(disk, "filler")
				f, err := os.Create(filler)
				if err != nil {
					t.Fatal(err)
				}
				if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(st.Bavail)*st.Bsize-rest); err != nil {
					t.Fatal(err)
				}
				f.Close()
				out, err := w.try(store, args...)
				if err == nil {
					t.Fatalf("with %d bytes left: no error", rest)
				}
				w.oneLine(fmt.Sprintf("with %d bytes left", rest), out)
				if err := os.Remove(filler); err != nil {
					t.Fatal(err)
				}
				if report, err := w.try(store, "store", "check"); err != nil {
					t.Errorf("with %d bytes left: %v\n%s", rest, err, report)
				}
				w.strake(store, "image", "inspect", "kept:1")
			}
			w.run("mount", "-o", "remount,size=200m", w.path(disk))
			w.strake(store, args...)
			w.strake(store, "image", "inspect", ref)
			w.wholeAndClean(store)
		})
	}
}

// wholeAndClean fails the test unless a store is whole and nothing is left over
// once what dead processes left is swept.
func (w *world) wholeAndClean(store string) {
	w.Helper()
	if report, err := w.try(store, "store", "check", "--repair"); err != nil || strings.Contains(report, "Left:") {
		w.Errorf("%v\n%s", err, report)
	}
	if report := w.strake(store, "store", "check"); !strings.Contains(report, ": 0 wrong, 0 left over") {
		w.Errorf("after a repair: %s", report)
	}
	w.clean(store)
}

// powerCut is a copy of the disk at one moment, and what has to be on it.
type powerCut struct {
	image string
	there []string
}

// Power that is lost at any moment leaves a disk without what was not synced. The
// disk of a store at work is copied at random moments, in an instant (it lies on a
// file system that shares blocks); each copy is mounted as after a power cut: every
// image whose command had returned is there and whole, and work goes on.
func TestPowerLoss(t *testing.T) {
	usertest.NeedRoot(t, "to mount a disk")
	w := newWorld(t)
	w.need("mkfs.xfs", "mkfs.ext4")
	cuts := 5
	if os.Getenv("STRAKE_SOAK") != "" {
		cuts = 200
	}
	w.busybox("src")
	hub := w.hub()
	var refs []string
	for i := range 6 {
		w.write("app/Dockerfile", "FROM busybox\nCOPY a /a\nCOPY a /b/a\n")
		w.write("app/a", strings.Repeat(fmt.Sprint(rand.Uint64()), 20_000))
		refs = append(refs, fmt.Sprintf("%s/team/app:%d", hub, i))
		w.strake("src", "build", "-t", refs[i], "app")
		w.strake("src", "push", refs[i])
	}
	w.run("truncate", "-s", "4G", w.path("host.img"))
	w.run("mkfs.xfs", "-q", "-m", "reflink=1", w.path("host.img"))
	w.mount("host", "-o", "loop", w.path("host.img"))
	w.run("truncate", "-s", "256M", w.path("host", "disk.img"))
	w.run("mkfs.ext4", "-q", w.path("host", "disk.img"))
	w.mount("disk", "-o", "loop,commit=1", w.path("host", "disk.img"))

	var taken []powerCut
	for len(taken) < cuts {
		taken = append(taken, w.workAndCut(refs, len(taken))...)
		for _, cut := range taken[max(0, len(taken)-5):] {
			w.afterPowerCut(cut, refs)
		}
	}
}

// workAndCut works on the store for a while and cuts the power a few times.
func (w *world) workAndCut(refs []string, n int) []powerCut {
	w.Helper()
	store := "disk/store"
	var mu sync.Mutex
	there := map[string]bool{} // images whose command has returned, and none that removes them has begun
	set := func(image string, is bool) {
		mu.Lock()
		defer mu.Unlock()
		there[image] = is
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	work := func(step func(i int)) {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
					step(i)
				}
			}
		})
	}
	work(func(i int) {
		ref := refs[i%len(refs)]
		w.strake(store, "pull", "-q", ref)
		set(ref, true)
		if i%3 == 2 {
			set(ref, false)
			w.strake(store, "rmi", ref)
		}
	})
	w.strake(store, "import", w.busyboxTar(), "busybox")
	work(func(i int) {
		dir, tag := fmt.Sprintf("build%d", i%2), fmt.Sprintf("built:%d", i%4)
		w.write(dir+"/Dockerfile", "FROM busybox\nCOPY f /f\n")
		w.write(dir+"/f", fmt.Sprint(n, i, rand.Uint64()))
		w.strake(store, "build", "-t", tag, dir) // an old image gives the name to a new one
		set(tag, true)
	})
	var cuts []powerCut
	for i := range 5 {
		time.Sleep(time.Duration(50+rand.IntN(500)) * time.Millisecond)
		// The mount of an earlier cut may live on in another mount namespace, with
		// its loop device: no file is used twice.
		cut := powerCut{image: w.path("host", fmt.Sprintf("cut%d.img", n+i))}
		mu.Lock()
		for image, is := range there {
			if is {
				cut.there = append(cut.there, image)
			}
		}
		err := clone(w.path("host", "disk.img"), cut.image)
		mu.Unlock()
		if err != nil {
			w.Fatal(err)
		}
		cuts = append(cuts, cut)
	}
	close(done)
	wg.Wait()
	return cuts
}

// clone makes to a copy of from as it is in this instant.
func clone(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	defer dst.Close()
	return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
}

// afterPowerCut mounts a copy of the disk and goes on with it.
func (w *world) afterPowerCut(cut powerCut, refs []string) {
	w.Helper()
	at := filepath.Base(cut.image)
	at = strings.TrimSuffix(at, ".img")
	w.mount(at, "-o", "loop", cut.image)
	defer func() {
		w.run("umount", w.path(at))
		if err := os.Remove(cut.image); err != nil {
			w.Error(err)
		}
	}()
	store := at + "/store"
	report, err := w.try(store, "store", "check")
	if err != nil {
		w.Errorf("after a power cut: %v\n%s", err, report)
	}
	for _, image := range cut.there {
		if _, err := w.try(store, "image", "inspect", image); err != nil {
			w.Errorf("after a power cut: %s is lost: %v", image, err)
		}
	}
	w.strake(store, "pull", "-q", refs[0])
	w.wholeAndClean(store)
}

// A bit that flips in the database is found, or was of no use; no command breaks
// off in the middle, and what SQLite can mend, a repair mends.
func TestDamagedDatabase(t *testing.T) {
	w := newWorld(t)
	w.busybox("good")
	w.strake("good", "tag", "busybox", "kept:1")
	w.write("app/Dockerfile", "FROM busybox\nCOPY a /a\n")
	w.write("app/a", "a")
	w.strake("good", "build", "-t", "app:1", "app")
	good, err := os.ReadFile(w.path("good", "strake.db"))
	if err != nil {
		t.Fatal(err)
	}
	flips, found := 24, 0
	if os.Getenv("STRAKE_SOAK") != "" {
		flips = 1000
	}
	for i := range flips {
		w.run("rm", "-rf", w.path("flipped"))
		w.run("cp", "-a", w.path("good"), w.path("flipped"))
		bad := append([]byte{}, good...)
		at := rand.IntN(len(bad))
		for bad[at] == 0 { // most of a page is empty
			at = rand.IntN(len(bad))
		}
		bad[at] ^= 1 << rand.IntN(8)
		if err := os.WriteFile(w.path("flipped", "strake.db"), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := w.try("flipped", "store", "check")
		if strings.Contains(out, "goroutine ") || err != nil && !strings.Contains(err.Error(), "exit status 1") {
			t.Fatalf("flip %d: %v\n%s", i, err, out)
		}
		if err == nil {
			w.strake("flipped", "images", "-a") // it was in free space, or in a text
			continue
		}
		found++
		out, _ = w.try("flipped", "store", "check", "--repair")
		if strings.Contains(out, "goroutine ") {
			t.Fatalf("flip %d: %s", i, out)
		}
	}
	t.Logf("%d of %d flips were found", found, flips)
}
