package layer

import (
	"fmt"
	"os"
)

// Gaps are what overlayfs would show wrong of a layer that it unites with others.
type Gaps struct {
	ImpliesRoot bool // the layer does not name its root directory
	OpaqueRoot  bool // its root hides all lower layers, which overlayfs does not see on a root
	Inside      bool // it does not name another directory that it uses, or it has whiteouts
}

// FindGaps reads an index's directories alone, in no order and until the first gap: it is called whenever a layer is mounted. A
// damaged index gives errors of the kind DataLoss.
func FindGaps(index string) (g Gaps, err error) {
	data, err := os.ReadFile(index) // #nosec G304 -- of the store
	if err != nil {
		return g, fmt.Errorf("open layer index: %w", err)
	}
	l, err := openIndex(data)
	if err == nil {
		g, err = l.gaps()
	}
	if err != nil {
		return g, fmt.Errorf("read layer index %q: %w", index, err)
	}
	return g, nil
}

func (l *Layer) gaps() (g Gaps, err error) {
	dirs := []uint64{rootNumber}
	most := len(l.index) / inodeSize
	for seen := 0; len(dirs) > 0; seen++ {
		number := dirs[len(dirs)-1]
		dirs = dirs[:len(dirs)-1]
		dir, err := l.inode(number)
		if err != nil {
			return g, err
		}
		switch {
		case !dir.isDir() || seen+len(dirs) > most:
			return g, damaged("directories that are none, or in a circle")
		case number == rootNumber:
			g.ImpliesRoot = dir.implied()
			if _, g.OpaqueRoot, err = dir.attributes(); err != nil {
				return g, err
			}
		case dir.implied():
			g.Inside = true
			return g, nil
		}
		if dirs, g.Inside, err = l.subdirs(&dir, dirs); g.Inside || err != nil {
			return g, err
		}
	}
	return g, nil
}

// subdirs adds the numbers of the directories in one to list, and tells whether it holds a whiteout.
func (l *Layer) subdirs(dir *inode, list []uint64) (_ []uint64, whiteout bool, err error) {
	head, tail, err := l.content(dir)
	if err != nil {
		return nil, false, err
	}
	for i := range int((dir.size + blockSize - 1) >> blockBits) {
		b := dirBlock(head, tail, i)
		for k, count := 0, 1; k < count; k++ {
			var name []byte
			var number uint64
			var kind byte
			if name, number, kind, count, err = blockEntry(b, k); err != nil {
				return nil, false, err
			}
			switch {
			case kind == kindDir && string(name) != "." && string(name) != "..":
				list = append(list, number)
			case kind == kindChar:
				n, err := l.inode(number)
				if err != nil || n.isWhiteout() {
					return nil, true, err
				}
			}
		}
	}
	return list, false, nil
}
