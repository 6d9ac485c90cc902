package review

import (
	"bufio"
	"context"
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"strake/internal/archive"
	"strake/internal/registry"
	"strake/internal/scan"
)

// Matcher finds the vulnerabilities of packages; known is false while there is no
// data about any.
type Matcher func(ctx context.Context, packages []scan.Package) (found []Vulnerability, known bool, err error)

// LayerScanner returns a Scanner that reads the layers of an image from source,
// one after the other, in bounded memory. match may be nil.
func LayerScanner(source registry.Reader, match Matcher) Scanner {
	return func(ctx context.Context, repo string, _ ocispec.Descriptor, m ocispec.Manifest) (Scan, error) {
		var records []scan.Record
		for _, l := range m.Layers {
			if len(l.URLs) > 0 {
				continue
			}
			r, err := scanLayer(ctx, source, repo, l)
			if err != nil {
				return Scan{}, err
			}
			records = append(records, r)
		}
		merged := scan.Merge(records)
		result := Scan{Skipped: merged.Skipped}
		for _, s := range merged.Secrets {
			result.Secrets = append(result.Secrets, Secret{s.File, s.What})
		}
		if match == nil {
			return result, nil
		}
		var err error
		result.Vulnerabilities, result.Matched, err = match(ctx, merged.Packages)
		return result, err
	}
}

func scanLayer(ctx context.Context, source registry.Reader, repo string, l ocispec.Descriptor) (r scan.Record, err error) {
	blob, err := source.OpenBlob(ctx, repo, l.Digest, 0)
	if err != nil {
		return r, fmt.Errorf("read layer: %w", err)
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	tar, _, err := archive.Decompress(bufio.NewReader(blob))
	if err != nil {
		return r, fmt.Errorf("layer %s: %w", l.Digest, err)
	}
	defer func() { err = errors.Join(err, tar.Close()) }()
	r, err = scan.Tar(ctx, tar)
	if err != nil {
		return scan.Record{Skipped: []string{fmt.Sprintf("layer %s: %v", l.Digest, err)}}, ctx.Err()
	}
	return r, nil
}
