package executor

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"strake/internal/userns"
)

// maxAccounts bounds the passwd and the group file of an image.
const maxAccounts = 16 << 20

// An account is a resolved USER.
type account struct {
	user specs.User
	home string
}

// findAccount resolves spec (name|uid[:group|gid]) by the account files of the root file system root. As in docker, a number
// needs no entry, a group that is named takes the place of the user's groups, and the primary group is a supplementary one too.
// more are names or ids of other groups.
func findAccount(root *os.File, spec string, more ...string) (account, error) {
	passwd, err := openAccounts(root, "etc/passwd")
	if err != nil {
		return account{}, err
	}
	defer func() { _ = passwd.Close() }() // only read
	group, err := openAccounts(root, "etc/group")
	if err != nil {
		return account{}, err
	}
	defer func() { _ = group.Close() }() // only read
	if spec == "" {
		spec = "0"
	}
	found, err := user.GetExecUser(spec, &user.ExecUser{Home: "/"}, passwd, group)
	if err != nil {
		return account{}, &StartError{Code: CodeFailed, Message: err.Error(), Err: errdefs.ErrInvalidArgument}
	}
	if err := addGroups(root, found, more); err != nil {
		return account{}, err
	}
	for _, id := range append([]int{found.Uid, found.Gid}, found.Sgids...) {
		if id < 0 || id > 1<<31-1 {
			return account{}, &StartError{Code: CodeFailed, Message: user.ErrRange.Error(), Err: errdefs.ErrInvalidArgument}
		}
	}
	if ids := userns.IDs(); ids > 0 {
		if found.Uid >= ids || found.Gid >= ids {
			return account{}, &StartError{
				Code: CodeFailed, Message: fmt.Sprintf(
					"user %s has the ids %d:%d, and this user's namespace has %d (strake doctor says how to get more)", spec, found.Uid, found.Gid, ids),
				Err: errdefs.ErrFailedPrecondition,
			}
		}
		found.Sgids = slices.DeleteFunc(found.Sgids, func(id int) bool { return id >= ids })
	}
	a := account{home: found.Home}
	a.user = specs.User{UID: uint32(found.Uid), GID: uint32(found.Gid), AdditionalGids: []uint32{uint32(found.Gid)}}
	if userns.IDs() == 1 {
		a.user.AdditionalGids = nil // the kernel lets nobody set groups there
	}
	for _, id := range found.Sgids {
		if id != found.Gid {
			a.user.AdditionalGids = append(a.user.AdditionalGids, uint32(id))
		}
	}
	if a.home == "" {
		a.home = "/"
	}
	return a, nil
}

// addGroups adds more groups to those of a user.
func addGroups(root *os.File, found *user.ExecUser, more []string) error {
	if len(more) == 0 {
		return nil
	}
	group, err := openAccounts(root, "etc/group")
	if err != nil {
		return err
	}
	defer func() { _ = group.Close() }() // only read
	ids, err := user.GetAdditionalGroups(more, group)
	if err != nil {
		return &StartError{Code: CodeFailed, Message: err.Error(), Err: errdefs.ErrInvalidArgument}
	}
	found.Sgids = append(found.Sgids, ids...)
	return nil
}

// openAccounts opens an account file of an image, which may be missing. Symbolic links are followed inside the image; what is
// not a regular file, or too large, is an error, and devices and pipes are not even opened.
func openAccounts(root *os.File, name string) (io.ReadCloser, error) {
	refuse := func(err error) error {
		return &StartError{Code: CodeFailed, Message: fmt.Sprintf("read /%s of the image: %v", name, err), Err: errdefs.ErrInvalidArgument}
	}
	probe, err := openIn(root, name, unix.O_PATH)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return io.NopCloser(strings.NewReader("")), nil
	}
	if err != nil {
		return nil, refuse(err)
	}
	defer func() { _ = probe.Close() }() // a path only
	info, err := probe.Stat()
	if err != nil {
		return nil, refuse(err)
	}
	if !info.Mode().IsRegular() {
		return nil, refuse(errors.New("not a regular file"))
	}
	if info.Size() > maxAccounts {
		return nil, refuse(fmt.Errorf("larger than %d bytes", maxAccounts))
	}
	f, err := openIn(root, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if err != nil {
		return nil, refuse(err)
	}
	return f, nil
}

// openIn opens name below root with its symbolic links resolved inside of root.
func openIn(root *os.File, name string, flags uint64) (*os.File, error) {
	fd, err := unix.Openat2(int(root.Fd()), name, &unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
