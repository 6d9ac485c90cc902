package rootfs_test

import (
	"testing"

	"strake/internal/conformance"
	"strake/internal/mount"
	"strake/internal/rootfs"
)

func TestEROFS(t *testing.T) {
	conformance.Mounter(t, func(t *testing.T, dir string, ns *mount.Namespace) rootfs.Mounter {
		if err := ns.Do(mount.ProbeEROFS); err != nil {
			t.Skip(err)
		}
		return rootfs.NewEROFS(dir, ns)
	})
}

func TestUnpacked(t *testing.T) {
	conformance.Mounter(t, func(_ *testing.T, dir string, ns *mount.Namespace) rootfs.Mounter {
		return rootfs.NewUnpacked(dir, ns)
	})
}
