package web

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"net/http"
	"path"
	"strings"
)

// asset is a file of static. Its path has a part of its digest, so that browsers
// keep it for good.
type asset struct {
	path, mediaType string
	plain, zipped   []byte
}

var mediaTypes = map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

func readAssets(files fs.FS) (map[string]asset, error) {
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return nil, err
	}
	assets := map[string]asset{}
	for _, e := range entries {
		b, err := fs.ReadFile(files, e.Name())
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(b)
		ext := path.Ext(e.Name())
		a := asset{path: "/static/" + strings.TrimSuffix(e.Name(), ext) + "-" + hex.EncodeToString(sum[:6]) + ext, mediaType: mediaTypes[ext], plain: b}
		var zipped bytes.Buffer
		z := gzip.NewWriter(&zipped)
		if _, err := z.Write(b); err != nil {
			return nil, err
		}
		if err := z.Close(); err != nil {
			return nil, err
		}
		a.zipped = zipped.Bytes()
		assets[e.Name()] = a
	}
	return assets, nil
}

// asset serves a file of static by its path, or by its plain name.
func (s *site) asset(w http.ResponseWriter, r *http.Request) {
	for name, a := range s.assets {
		if r.URL.Path != a.path && r.PathValue("name") != name {
			continue
		}
		h := w.Header()
		h.Set("Content-Type", a.mediaType)
		h.Set("Vary", "Accept-Encoding")
		h.Set("Cache-Control", "no-cache")
		if r.URL.Path == a.path {
			h.Set("Cache-Control", "public, max-age=31536000, immutable")
		}
		b := a.plain
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			h.Set("Content-Encoding", "gzip")
			b = a.zipped
		}
		_, _ = w.Write(b) // the client is gone: nobody to tell
		return
	}
	http.NotFound(w, r)
}
