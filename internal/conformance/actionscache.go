package conformance

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ActionsToken is what ActionsCache asks for.
const ActionsToken = "token"

// ActionsCache is a server with the protocol of GitHub's cache service, version 2, below
// /results, and of the blob storage that it signs addresses of.
type ActionsCache struct {
	*httptest.Server
	mu      sync.Mutex
	entries []*actionsEntry // in the order in which they were made
	fail    int             // this many requests are answered with 503
}

type actionsEntry struct {
	key, version string
	blocks       map[string][]byte
	data         []byte
	done         bool
}

// NewActionsCache starts one, which ends with the test, or with what calls done.
func NewActionsCache(done interface{ Cleanup(func()) }) *ActionsCache {
	f := &ActionsCache{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /results/twirp/github.actions.results.api.v1.CacheService/{method}", f.call)
	mux.HandleFunc("/blobs/{n}", f.blob)
	f.Server = httptest.NewServer(mux)
	done.Cleanup(f.Close)
	return f
}

func (f *ActionsCache) call(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var in struct {
		Key, Version string
		RestoreKeys  []string `json:"restore_keys"`
		Size         string   `json:"size_bytes"`
	}
	switch {
	case f.fail > 0:
		f.fail--
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	case r.Header.Get("Authorization") != "Bearer "+ActionsToken:
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"code":"permission_denied","msg":"no token"}`)
		return
	case json.NewDecoder(r.Body).Decode(&in) != nil:
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	address := func(n int) string { return f.URL + "/blobs/" + strconv.Itoa(n) + "?sig=secret" }
	find := func(match func(*actionsEntry) bool) int {
		for i := len(f.entries) - 1; i >= 0; i-- {
			if e := f.entries[i]; e.version == in.Version && match(e) {
				return i
			}
		}
		return -1
	}
	out := map[string]any{"ok": false}
	switch r.PathValue("method") {
	case "CreateCacheEntry":
		if find(func(e *actionsEntry) bool { return e.key == in.Key }) >= 0 {
			w.WriteHeader(http.StatusConflict)
			_, _ = io.WriteString(w, `{"code":"already_exists","msg":"cache entry exists"}`)
			return
		}
		f.entries = append(f.entries, &actionsEntry{key: in.Key, version: in.Version, blocks: map[string][]byte{}})
		out = map[string]any{"ok": true, "signed_upload_url": address(len(f.entries) - 1)}
	case "FinalizeCacheEntryUpload":
		if i := find(func(e *actionsEntry) bool { return e.key == in.Key && e.data != nil }); i >= 0 {
			f.entries[i].done = true
			out = map[string]any{"ok": true, "entry_id": "1"}
		}
	case "GetCacheEntryDownloadURL":
		i := find(func(e *actionsEntry) bool { return e.done && strings.HasPrefix(e.key, in.Key) })
		for _, p := range in.RestoreKeys {
			if i < 0 {
				i = find(func(e *actionsEntry) bool { return e.done && strings.HasPrefix(e.key, p) })
			}
		}
		if i >= 0 {
			out = map[string]any{"ok": true, "signed_download_url": address(i), "matched_key": f.entries[i].key}
		}
	}
	_ = json.NewEncoder(w).Encode(out)
}

func (f *ActionsCache) blob(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, err := strconv.Atoi(r.PathValue("n"))
	body, readErr := io.ReadAll(r.Body)
	if err != nil || readErr != nil || n < 0 || n >= len(f.entries) || r.URL.Query().Get("sig") != "secret" || r.Header.Get("Authorization") != "" {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	e := f.entries[n]
	switch r.Method + r.URL.Query().Get("comp") {
	case "PUTblock":
		e.blocks[r.URL.Query().Get("blockid")] = body
	case "PUTblocklist":
		var list struct{ Latest []string }
		if xml.Unmarshal(body, &list) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		e.data = []byte{}
		for _, id := range list.Latest {
			e.data = append(e.data, e.blocks[id]...)
		}
	default:
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(e.data))
		return
	}
	w.WriteHeader(http.StatusCreated)
}

// Fail has the next n requests of the service be answered with 503.
func (f *ActionsCache) Fail(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = n
}
