package scan

import (
	"bytes"
	"compress/zlib"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"errors"
	"io"
	"strings"
)

// Bounds on programs.
const (
	minProgram  = 64 << 10 // bytes of one that is worth a look
	maxProgram  = 1 << 30  // bytes of one that is looked at
	maxMetadata = 64 << 20 // bytes that are read of it
	maxDeps     = 32 << 20 // bytes of what a Rust program says that it is made of
)

var errBudget = errors.New("too much is read")

// budget is an io.ReaderAt that reads so many bytes in all, and no more.
type budget struct {
	r    io.ReaderAt
	left int64
}

func (b *budget) ReadAt(p []byte, off int64) (int, error) {
	if b.left -= int64(len(p)); b.left < 0 {
		return 0, errBudget
	}
	return b.r.ReadAt(p, off)
}

// program reads what a program says that it is made of. One that says nothing, or
// what cannot be understood, is made of nothing.
func program(r io.ReaderAt) []Package {
	if found := goProgram(r); len(found) > 0 {
		return found
	}
	return rustProgram(r)
}

func goProgram(r io.ReaderAt) (found []Package) {
	info, err := buildinfo.Read(&budget{r, maxMetadata})
	if err != nil {
		return nil
	}
	add := func(name, version string) {
		if version = strings.TrimPrefix(version, "v"); version != "" && version != "(devel)" {
			found = addPackage(found, Package{Type: TypeGo, Name: name, Version: version})
		}
	}
	version, _, _ := strings.Cut(strings.TrimPrefix(info.GoVersion, "go"), " ")
	add("stdlib", version)
	add(info.Main.Path, info.Main.Version)
	for _, m := range info.Deps[:min(len(info.Deps), maxPackages)] {
		if m.Replace != nil {
			m = m.Replace
		}
		add(m.Path, m.Version)
	}
	return found
}

// rustProgram reads the section that cargo auditable writes.
func rustProgram(r io.ReaderAt) (found []Package) {
	f, err := elf.NewFile(&budget{r, maxMetadata})
	if err != nil {
		return nil
	}
	section := f.Section(".dep-v0")
	if section == nil || section.Size > maxDeps || section.Type == elf.SHT_NOBITS {
		return nil
	}
	packed, err := section.Data()
	if err != nil {
		return nil
	}
	z, err := zlib.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil
	}
	var info struct {
		Packages []struct{ Name, Version, Source, Kind string }
	}
	if json.NewDecoder(io.LimitReader(z, maxDeps)).Decode(&info) != nil {
		return nil
	}
	for _, p := range info.Packages {
		if p.Kind != "build" && p.Source != "local" && p.Source != "git" {
			found = addPackage(found, Package{Type: TypeCargo, Name: p.Name, Version: p.Version})
		}
	}
	return found
}
