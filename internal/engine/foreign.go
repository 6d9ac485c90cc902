package engine

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/cpu"
)

// binfmtDir is where the kernel lists the formats of programs that it gives to
// an interpreter.
const binfmtDir = "/proc/sys/fs/binfmt_misc"

// runnable fails unless this machine can run an image: itself, or by an
// interpreter that binfmt_misc knows. It warns, as docker does, where the image
// is for another platform that nobody asked for.
func runnable(img Image, opts CreateOptions) error {
	have, host := img.Platform(), hostPlatform()
	if matches(host, have) || have.OS == "" && have.Architecture == "" {
		return nil
	}
	if opts.Platform == "" && opts.Warn != nil {
		opts.Warn(fmt.Sprintf("The requested image's platform (%s) does not match the detected host platform (%s) and no specific platform was requested",
			platforms.FormatAll(have), platforms.FormatAll(host)))
	}
	if runs(host, have) {
		return nil
	}
	return messageError{fmt.Sprintf("image %s is for %s, which this machine (%s) cannot run: no binfmt_misc handler is registered for it",
		familiar(opts.Ref), platforms.FormatAll(have), platforms.FormatAll(host)), errdefs.ErrFailedPrecondition}
}

// runs reports whether host runs programs for another platform.
func runs(host, have ocispec.Platform) bool {
	return have.OS == host.OS && (host.Architecture == "amd64" && have.Architecture == "386" || interpreted(binfmtDir, have.Architecture))
}

// runsStep fails unless this machine can run the commands of a build for a platform.
func runsStep(have ocispec.Platform) error {
	host := hostPlatform()
	if matches(host, have) || runs(host, have) {
		return nil
	}
	return messageError{fmt.Sprintf("this machine (%s) cannot run commands of %s: register an emulator with binfmt_misc (qemu-user-static, flag F), or use FROM --platform=$BUILDPLATFORM and cross-compile",
		platforms.FormatAll(host), platforms.FormatAll(have)), errdefs.ErrFailedPrecondition}
}

// hostPlatform is this machine's platform with the best variant of its processor.
func hostPlatform() ocispec.Platform {
	p := platforms.DefaultSpec()
	if p.Architecture != "amd64" {
		return p
	}
	x := cpu.X86
	switch {
	case x.HasAVX512F && x.HasAVX512BW && x.HasAVX512CD && x.HasAVX512DQ && x.HasAVX512VL:
		p.Variant = "v4"
	case x.HasAVX2 && x.HasBMI1 && x.HasBMI2 && x.HasFMA:
		p.Variant = "v3"
	case x.HasSSSE3 && x.HasSSE41 && x.HasSSE42 && x.HasPOPCNT && x.HasCX16:
		p.Variant = "v2"
	}
	return p
}

// elfHeader is how a program for an architecture begins, or nil.
func elfHeader(architecture string) []byte {
	machines := map[string]struct {
		bits    byte
		order   binary.AppendByteOrder
		machine uint16
	}{
		"386":      {32, binary.LittleEndian, 3},
		"amd64":    {64, binary.LittleEndian, 62},
		"arm":      {32, binary.LittleEndian, 40},
		"arm64":    {64, binary.LittleEndian, 183},
		"loong64":  {64, binary.LittleEndian, 258},
		"mips64":   {64, binary.BigEndian, 8},
		"mips64le": {64, binary.LittleEndian, 8},
		"mipsle":   {32, binary.LittleEndian, 8},
		"ppc64":    {64, binary.BigEndian, 21},
		"ppc64le":  {64, binary.LittleEndian, 21},
		"riscv64":  {64, binary.LittleEndian, 243},
		"s390x":    {64, binary.BigEndian, 22},
	}
	m, ok := machines[architecture]
	if !ok {
		return nil
	}
	class, data := byte(1), byte(1)
	if m.bits == 64 {
		class = 2
	}
	if m.order == binary.BigEndian {
		data = 2
	}
	header := append([]byte{0x7f, 'E', 'L', 'F', class, data, 1}, make([]byte, 9)...)
	const executable = 2
	header = m.order.AppendUint16(header, executable)
	return m.order.AppendUint16(header, m.machine)
}

// interpreted reports whether the kernel, whose binfmt_misc is at dir, gives
// programs for an architecture to an interpreter that works inside a container:
// one that was opened when it was registered.
func interpreted(dir, architecture string) bool {
	header := elfHeader(architecture)
	entries, err := os.ReadDir(dir)
	if err != nil || header == nil {
		return false
	}
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		return err == nil && handles(string(b), header)
	})
}

// handles reports whether an entry of binfmt_misc is for programs that begin
// with header.
func handles(entry string, header []byte) bool {
	enabled, fixed, offset := false, false, 0
	var magic, mask []byte
	for line := range strings.Lines(entry) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch key {
		case "enabled":
			enabled = true
		case "flags:":
			fixed = strings.Contains(value, "F")
		case "offset":
			offset, _ = strconv.Atoi(value) // written by the kernel
		case "magic":
			magic, _ = hex.DecodeString(value)
		case "mask":
			mask, _ = hex.DecodeString(value)
		}
	}
	if !enabled || !fixed || len(magic) == 0 || offset != 0 || len(magic) > len(header) {
		return false
	}
	got := bytes.Clone(header[:len(magic)])
	for i := range min(len(mask), len(got)) {
		got[i] &= mask[i]
		magic[i] &= mask[i]
	}
	return bytes.Equal(got, magic)
}
