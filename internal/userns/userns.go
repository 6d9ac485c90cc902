// Package userns lets an ordinary user do what only root may: make mounts and start containers. It runs the program again as root
// of a user namespace (user_namespaces(7)), with the ids that /etc/subuid and /etc/subgid give to the user where newuidmap and
// newgidmap are installed, with the user's own id alone where they are not.
package userns

import (
	"fmt"
	"os"
)

// variable tells the program that Enter runs how many ids it has and whose it is, as 65537:1000.
const variable = "STRAKE_USERNS"

// IsRoot reports whether the process is root, and not only by Enter.
func IsRoot() bool { return os.Geteuid() == 0 && IDs() == 0 }

// IDs returns how many user ids Enter has given to the process; 0 where it was not run by Enter. With one it can give no file to
// another user, and become none.
func IDs() int {
	ids, _ := entered()
	return ids
}

// Owner returns who a file belongs to that is to have an owner: root where the namespace of the process does not have the ids.
func Owner(uid, gid int) (hasUID, hasGID int) {
	if ids := IDs(); ids > 0 && (uid >= ids || gid >= ids) {
		return 0, 0
	}
	return uid, gid
}

// UID returns the user's id, as it is outside of the namespace.
func UID() int {
	if ids, uid := entered(); ids > 0 {
		return uid
	}
	return os.Geteuid()
}

func entered() (ids, uid int) {
	if _, err := fmt.Sscanf(os.Getenv(variable), "%d:%d", &ids, &uid); err != nil {
		return 0, 0
	}
	return ids, uid
}

// A Plan is what Enter does on this machine for this user.
type Plan struct {
	Users, Groups []Range // beside the user's own, which are root's in the namespace
	Missing       string  // why there are none, as a person would mend it; "" if there are some
	helpers       [2]string
}

// A Range is a row of ids that belong to the user.
type Range struct{ First, Count int }

// IDs returns how many ids the program will have, for users and for groups.
func (p Plan) IDs() int { return 1 + min(count(p.Users), count(p.Groups)) }

func count(ranges []Range) (n int) {
	for _, r := range ranges {
		n += r.Count
	}
	return n
}
