package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"strake/internal/content"
)

// Content tests what content.Store promises. newStore returns an empty store.
func Content(t *testing.T, newStore func(t *testing.T) content.Store) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, s content.Store)
	}{
		{"Blob", contentBlob},
		{"Empty", contentEmpty},
		{"Algorithms", contentAlgorithms},
		{"NotFound", contentNotFound},
		{"HostileDigest", contentHostileDigest},
		{"HostileRef", contentHostileRef},
		{"Resume", contentResume},
		{"Truncate", contentTruncate},
		{"Exclusive", contentExclusive},
		{"AlreadyExists", contentAlreadyExists},
		{"CommitTwice", contentCommitTwice},
		{"Mismatch", contentMismatch},
		{"TooLong", contentTooLong},
		{"Canceled", contentCanceled},
		{"AfterCommit", contentAfterCommit},
		{"Abort", contentAbort},
		{"Walk", contentWalk},
		{"OpenDeleted", contentOpenDeleted},
		{"WriteBlob", contentWriteBlob},
		{"Parallel", contentParallel},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, newStore(t)) })
	}
}

// want fails the test unless is (an errdefs.Is function) holds for err.
func want(t *testing.T, what string, err error, is func(error) bool) {
	t.Helper()
	if !is(err) {
		t.Errorf("%s: unexpected error %v", what, err)
	}
}

// ok ends the test when err is not nil.
func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// randomBytes are n bytes that are the same on every call.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// writer begins an ingest that the test's end closes.
func writer(t *testing.T, s content.Store, ref string, opts content.WriterOptions) content.Writer {
	t.Helper()
	w, err := s.Writer(t.Context(), ref, opts)
	ok(t, err)
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// put stores b.
func put(t *testing.T, s content.Store, b []byte) digest.Digest {
	t.Helper()
	dgst := digest.FromBytes(b)
	ok(t, content.WriteBlob(t.Context(), s, dgst, int64(len(b)), bytes.NewReader(b)))
	return dgst
}

// holds checks that s holds b as dgst.
func holds(t *testing.T, s content.Store, dgst digest.Digest, b []byte) {
	t.Helper()
	info, err := s.Stat(t.Context(), dgst)
	ok(t, err)
	if info.Digest != dgst || info.Size != int64(len(b)) || info.ModTime.IsZero() {
		t.Errorf("Stat: %+v", info)
	}
	got, err := content.ReadAll(t.Context(), s, dgst, int64(len(b)))
	ok(t, err)
	if !bytes.Equal(got, b) {
		t.Errorf("blob %s differs", dgst)
	}
}

// ingests lists the refs with their offsets.
func ingests(t *testing.T, s content.Store) map[string]int64 {
	t.Helper()
	infos, err := s.Ingests(t.Context())
	ok(t, err)
	m := make(map[string]int64)
	for _, in := range infos {
		m[in.Ref] = in.Offset
	}
	return m
}

func contentBlob(t *testing.T, s content.Store) {
	b := randomBytes(100_000)
	dgst := digest.FromBytes(b)
	w := writer(t, s, "one", content.WriterOptions{})
	for part := range slices.Chunk(b, 777) {
		n, err := w.Write(part)
		ok(t, err)
		if n != len(part) {
			t.Fatalf("wrote %d of %d", n, len(part))
		}
	}
	if w.Offset() != int64(len(b)) || w.Digest() != dgst {
		t.Errorf("offset %d, digest %s", w.Offset(), w.Digest())
	}
	_, err := s.Stat(t.Context(), dgst)
	want(t, "Stat before Commit", err, errdefs.IsNotFound)
	ok(t, w.Commit(t.Context(), int64(len(b)), dgst))
	holds(t, s, dgst, b)
	if in := ingests(t, s); len(in) != 0 {
		t.Errorf("ingests left: %v", in)
	}
	ra, err := s.Open(t.Context(), dgst)
	ok(t, err)
	got := make([]byte, 100)
	if n, err := ra.ReadAt(got, 99_950); n != 50 || !errors.Is(err, io.EOF) {
		t.Errorf("ReadAt past the end: %d, %v", n, err)
	}
	if n, err := ra.ReadAt(got, 5); n != 100 || err != nil || !bytes.Equal(got, b[5:105]) {
		t.Errorf("ReadAt: %d, %v", n, err)
	}
	ok(t, ra.Close())
}

func contentEmpty(t *testing.T, s content.Store) {
	w := writer(t, s, "empty", content.WriterOptions{})
	ok(t, w.Commit(t.Context(), 0, ""))
	holds(t, s, digest.FromString(""), []byte{})
}

func contentAlgorithms(t *testing.T, s content.Store) {
	b := randomBytes(5000)
	for _, alg := range []digest.Algorithm{digest.SHA512, digest.SHA384} {
		dgst := alg.FromBytes(b)
		ok(t, content.WriteBlob(t.Context(), s, dgst, int64(len(b)), bytes.NewReader(b)))
		holds(t, s, dgst, b)
		bad := alg.FromString("something else")
		err := content.WriteBlob(t.Context(), s, bad, int64(len(b)), bytes.NewReader(b))
		want(t, "wrong "+string(alg), err, errdefs.IsFailedPrecondition)
	}
}

func contentNotFound(t *testing.T, s content.Store) {
	dgst := digest.FromString("nowhere")
	_, err := s.Stat(t.Context(), dgst)
	want(t, "Stat", err, errdefs.IsNotFound)
	_, err = s.Open(t.Context(), dgst)
	want(t, "Open", err, errdefs.IsNotFound)
	want(t, "Delete", s.Delete(t.Context(), dgst), errdefs.IsNotFound)
	want(t, "Abort", s.Abort(t.Context(), "nowhere"), errdefs.IsNotFound)
	_, err = content.ReadAll(t.Context(), s, dgst, 10)
	want(t, "ReadAll", err, errdefs.IsNotFound)
}

// contentHostileDigest is CVE-2024-3727: a digest that leads out of the store.
func contentHostileDigest(t *testing.T, s content.Store) {
	hex := strings.Repeat("a", 64)
	for _, dgst := range []digest.Digest{
		"", ":", "sha256", "sha256:", "sha256:../../x", "../sha256:" + digest.Digest(hex),
		"sha256:" + digest.Digest(strings.ToUpper(hex)), "sha256:" + digest.Digest(hex) + "/",
		"sha256:../" + digest.Digest(hex[3:]), "sha256:" + digest.Digest(hex[:63]) + "\x00",
		"sha256:" + digest.Digest(hex) + "\n", "md5:d41d8cd98f00b204e9800998ecf8427e",
		"sha256:" + digest.Digest(hex[1:]), "sha256+b64:" + digest.Digest(hex),
	} {
		_, err := s.Stat(t.Context(), dgst)
		want(t, fmt.Sprintf("Stat %q", dgst), err, errdefs.IsInvalidArgument)
		_, err = s.Open(t.Context(), dgst)
		want(t, fmt.Sprintf("Open %q", dgst), err, errdefs.IsInvalidArgument)
		err = s.Delete(t.Context(), dgst)
		want(t, fmt.Sprintf("Delete %q", dgst), err, errdefs.IsInvalidArgument)
		if dgst == "" {
			continue // no expectation
		}
		_, err = s.Writer(t.Context(), "ref", content.WriterOptions{Expected: dgst})
		want(t, fmt.Sprintf("Writer %q", dgst), err, errdefs.IsInvalidArgument)
		w := writer(t, s, "ref", content.WriterOptions{})
		err = w.Commit(t.Context(), 0, dgst)
		want(t, fmt.Sprintf("Commit %q", dgst), err, errdefs.IsInvalidArgument)
		ok(t, w.Close())
	}
}

func contentHostileRef(t *testing.T, s content.Store) {
	for _, ref := range []string{"", strings.Repeat("x", 5000)} {
		_, err := s.Writer(t.Context(), ref, content.WriterOptions{})
		want(t, "Writer", err, errdefs.IsInvalidArgument)
	}
	refs := map[string]int64{}
	for i, ref := range []string{"../x", "/etc/passwd", "a\x00b", "ü\n", "x.ref", ".", strings.Repeat("y", 4096)} {
		w := writer(t, s, ref, content.WriterOptions{})
		_, err := w.Write(make([]byte, i))
		ok(t, err)
		ok(t, w.Close())
		refs[ref] = int64(i)
	}
	if diff := cmp.Diff(refs, ingests(t, s)); diff != "" {
		t.Error(diff)
	}
	for ref := range refs {
		ok(t, s.Abort(t.Context(), ref))
	}
	if in := ingests(t, s); len(in) != 0 {
		t.Errorf("left: %v", in)
	}
}

func contentResume(t *testing.T, s content.Store) {
	b := randomBytes(10_000)
	dgst := digest.FromBytes(b)
	opts := content.WriterOptions{Expected: dgst, Size: int64(len(b))}
	for offset := 0; offset < len(b); offset += 2500 {
		w := writer(t, s, "resumed", opts)
		if w.Offset() != int64(offset) || w.Digest() != digest.FromBytes(b[:offset]) {
			t.Fatalf("resumed at %d with %s, expected %d", w.Offset(), w.Digest(), offset)
		}
		_, err := w.Write(b[offset : offset+2500])
		ok(t, err)
		ok(t, w.Close())
		ok(t, w.Close())
		if in := ingests(t, s); in["resumed"] != int64(offset+2500) {
			t.Fatalf("ingests: %v", in)
		}
	}
	ok(t, writer(t, s, "resumed", opts).Commit(t.Context(), int64(len(b)), dgst))
	holds(t, s, dgst, b)
}

func contentTruncate(t *testing.T, s content.Store) {
	w := writer(t, s, "cut", content.WriterOptions{})
	for _, step := range []struct {
		cut  int64
		add  string
		have string
	}{{0, "hello world", "hello world"}, {5, " all", "hello all"}, {9, "!", "hello all!"}, {0, "", ""}, {0, "new", "new"}} {
		ok(t, w.Truncate(step.cut))
		_, err := io.WriteString(w, step.add)
		ok(t, err)
		if w.Offset() != int64(len(step.have)) || w.Digest() != digest.FromString(step.have) {
			t.Errorf("after %+v: offset %d", step, w.Offset())
		}
	}
	want(t, "Truncate past the end", w.Truncate(4), errdefs.IsOutOfRange)
	want(t, "Truncate before the start", w.Truncate(-1), errdefs.IsOutOfRange)
	ok(t, w.Commit(t.Context(), 3, ""))
	holds(t, s, digest.FromString("new"), []byte("new"))
}

func contentExclusive(t *testing.T, s content.Store) {
	w := writer(t, s, "held", content.WriterOptions{})
	_, err := s.Writer(t.Context(), "held", content.WriterOptions{})
	want(t, "second Writer", err, errdefs.IsUnavailable)
	want(t, "Abort", s.Abort(t.Context(), "held"), errdefs.IsUnavailable)
	writer(t, s, "other", content.WriterOptions{})
	ok(t, w.Close())
	w = writer(t, s, "held", content.WriterOptions{})
	ok(t, w.Commit(t.Context(), 0, ""))
	writer(t, s, "held", content.WriterOptions{})
}

func contentAlreadyExists(t *testing.T, s content.Store) {
	dgst := put(t, s, []byte("there"))
	_, err := s.Writer(t.Context(), "again", content.WriterOptions{Expected: dgst})
	want(t, "Writer", err, errdefs.IsAlreadyExists)
	if in := ingests(t, s); len(in) != 0 {
		t.Errorf("ingests left: %v", in)
	}
	w := writer(t, s, "again", content.WriterOptions{})
	_, err = io.WriteString(w, "there")
	ok(t, err)
	ok(t, w.Commit(t.Context(), 5, dgst))
	holds(t, s, dgst, []byte("there"))
}

func contentCommitTwice(t *testing.T, s content.Store) {
	w := writer(t, s, "twice", content.WriterOptions{})
	_, err := io.WriteString(w, "x")
	ok(t, err)
	ok(t, w.Commit(t.Context(), 1, ""))
	if err := w.Commit(t.Context(), 1, ""); err == nil {
		t.Error("the second Commit succeeded")
	}
	holds(t, s, digest.FromString("x"), []byte("x"))
}

func contentMismatch(t *testing.T, s content.Store) {
	for _, c := range []struct {
		size     int64
		expected digest.Digest
	}{{3, ""}, {0, digest.FromString("else")}, {3, digest.FromString("four")}, {4, digest.FromString("else")}} {
		w := writer(t, s, "wrong", content.WriterOptions{})
		if w.Offset() != 0 {
			t.Errorf("the mismatch before %+v kept %d bytes", c, w.Offset())
		}
		_, err := io.WriteString(w, "four")
		ok(t, err)
		want(t, "Commit", w.Commit(t.Context(), c.size, c.expected), errdefs.IsFailedPrecondition)
		_, err = s.Stat(t.Context(), digest.FromString("four"))
		want(t, "Stat", err, errdefs.IsNotFound)
		ok(t, w.Close())
	}
	if in := ingests(t, s); len(in) != 0 {
		t.Errorf("ingests left: %v", in)
	}
}

func contentTooLong(t *testing.T, s content.Store) {
	w := writer(t, s, "long", content.WriterOptions{Size: 4})
	_, err := io.WriteString(w, "abc")
	ok(t, err)
	n, err := io.WriteString(w, "de")
	want(t, "Write", err, errdefs.IsOutOfRange)
	if n != 0 || w.Offset() != 3 {
		t.Errorf("took %d, offset %d", n, w.Offset())
	}
}

func contentCanceled(t *testing.T, s content.Store) {
	w := writer(t, s, "late", content.WriterOptions{})
	_, err := io.WriteString(w, "abc")
	ok(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Commit(ctx, 0, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("Commit: %v", err)
	}
	ok(t, w.Commit(t.Context(), 0, ""))
}

func contentAfterCommit(t *testing.T, s content.Store) {
	w := writer(t, s, "done", content.WriterOptions{})
	ok(t, w.Commit(t.Context(), 0, ""))
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("Write after Commit succeeded")
	}
	if err := w.Truncate(0); err == nil {
		t.Error("Truncate after Commit succeeded")
	}
	ok(t, w.Close())
}

func contentAbort(t *testing.T, s content.Store) {
	w := writer(t, s, "gone", content.WriterOptions{})
	_, err := io.WriteString(w, "abc")
	ok(t, err)
	ok(t, w.Close())
	ok(t, s.Abort(t.Context(), "gone"))
	want(t, "second Abort", s.Abort(t.Context(), "gone"), errdefs.IsNotFound)
	if w := writer(t, s, "gone", content.WriterOptions{}); w.Offset() != 0 {
		t.Errorf("offset %d after Abort", w.Offset())
	}
}

func contentWalk(t *testing.T, s content.Store) {
	all := map[digest.Digest]int64{}
	for i := range 20 {
		b := randomBytes(i)
		all[put(t, s, b)] = int64(i)
	}
	seen := map[digest.Digest]int64{}
	ok(t, s.Walk(t.Context(), func(info content.Info) error {
		seen[info.Digest] = info.Size
		return nil
	}))
	if diff := cmp.Diff(all, seen); diff != "" {
		t.Error(diff)
	}
	stop := errors.New("stop")
	n := 0
	err := s.Walk(t.Context(), func(content.Info) error { n++; return stop })
	if !errors.Is(err, stop) || n != 1 {
		t.Errorf("Walk went on: %d, %v", n, err)
	}
	// Deleting what Walk shows is what a collector does.
	ok(t, s.Walk(t.Context(), func(info content.Info) error { return s.Delete(t.Context(), info.Digest) }))
	ok(t, s.Walk(t.Context(), func(info content.Info) error { return fmt.Errorf("%s is left", info.Digest) }))
}

func contentOpenDeleted(t *testing.T, s content.Store) {
	dgst := put(t, s, []byte("deleted"))
	ra, err := s.Open(t.Context(), dgst)
	ok(t, err)
	ok(t, s.Delete(t.Context(), dgst))
	want(t, "second Delete", s.Delete(t.Context(), dgst), errdefs.IsNotFound)
	got, err := io.ReadAll(io.NewSectionReader(ra, 0, ra.Size()))
	ok(t, errors.Join(err, ra.Close()))
	if string(got) != "deleted" {
		t.Errorf("read %q", got)
	}
}

func contentWriteBlob(t *testing.T, s content.Store) {
	b := []byte("short and simple")
	dgst := digest.FromBytes(b)
	// A part that someone left is not trusted to be a part of this blob.
	w := writer(t, s, string(dgst), content.WriterOptions{})
	_, err := io.WriteString(w, "rubbish")
	ok(t, err)
	ok(t, w.Close())
	for range 2 {
		ok(t, content.WriteBlob(t.Context(), s, dgst, int64(len(b)), bytes.NewReader(b)))
		holds(t, s, dgst, b)
	}
	other := digest.FromString("other")
	err = content.WriteBlob(t.Context(), s, other, int64(len(b)), bytes.NewReader(b))
	want(t, "wrong content", err, errdefs.IsFailedPrecondition)
	_, err = content.ReadAll(t.Context(), s, dgst, int64(len(b))-1)
	want(t, "ReadAll over its limit", err, errdefs.IsOutOfRange)
}

// contentParallel lets many goroutines write few blobs.
func contentParallel(t *testing.T, s content.Store) {
	var blobs [4][]byte
	for i := range blobs {
		blobs[i] = randomBytes(50_000 + i)
	}
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			b := blobs[i%len(blobs)]
			err := content.WriteBlob(t.Context(), s, digest.FromBytes(b), int64(len(b)), bytes.NewReader(b))
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, b := range blobs {
		holds(t, s, digest.FromBytes(b), b)
	}
	if in := ingests(t, s); len(in) != 0 {
		t.Errorf("ingests left: %v", in)
	}
}
