package progress

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"strings"
	"sync"
	"time"
)

// rawJSON writes each event as a line, a SolveStatus of BuildKit. The digest of a
// vertex names a step of this build and nothing else.
type rawJSON struct {
	mu    sync.Mutex
	enc   *json.Encoder
	steps map[string]*rawStep
	err   error
}

// rawStep is what is told of a step again.
type rawStep struct {
	rawVertex
	items map[string]time.Time // when each began
}

type rawVertex struct {
	Digest    string     `json:"digest,omitempty"`
	Inputs    []string   `json:"inputs,omitempty"`
	Name      string     `json:"name,omitempty"`
	Started   *time.Time `json:"started,omitempty"`
	Completed *time.Time `json:"completed,omitempty"`
	Cached    bool       `json:"cached,omitempty"`
	Error     string     `json:"error,omitempty"`
}

type rawStatus struct {
	ID        string     `json:"id"`
	Vertex    string     `json:"vertex,omitempty"`
	Name      string     `json:"name,omitempty"`
	Total     int64      `json:"total,omitempty"`
	Current   int64      `json:"current"`
	Timestamp time.Time  `json:"timestamp"`
	Started   *time.Time `json:"started,omitempty"`
	Completed *time.Time `json:"completed,omitempty"`
}

type rawLog struct {
	Vertex    string    `json:"vertex,omitempty"`
	Stream    int       `json:"stream,omitempty"`
	Data      []byte    `json:"data"`
	Timestamp time.Time `json:"timestamp"`
}

type rawWarning struct {
	Vertex string     `json:"vertex,omitempty"`
	Level  int        `json:"level,omitempty"`
	Short  []byte     `json:"short,omitempty"`
	Detail [][]byte   `json:"detail,omitempty"`
	URL    string     `json:"url,omitempty"`
	Source *rawSource `json:"sourceInfo,omitempty"`
	Range  []rawRange `json:"range,omitempty"`
}

type rawSource struct {
	Filename string `json:"filename,omitempty"`
	Language string `json:"language,omitempty"`
}

type rawRange struct {
	Start rawLine `json:"start"`
	End   rawLine `json:"end"`
}

type rawLine struct {
	Line int `json:"line,omitempty"`
}

// solveStatus is a line.
type solveStatus struct {
	Vertexes []rawVertex  `json:"vertexes,omitempty"`
	Statuses []rawStatus  `json:"statuses,omitempty"`
	Logs     []rawLog     `json:"logs,omitempty"`
	Warnings []rawWarning `json:"warnings,omitempty"`
}

func newRawJSON(w io.Writer) *rawJSON {
	return &rawJSON{enc: json.NewEncoder(w), steps: map[string]*rawStep{}}
}

// Handle is Display's.
func (r *rawJSON) Handle(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if err := r.enc.Encode(r.line(e, e.Time.UTC())); err != nil && r.err == nil {
		r.err = err
	}
}

// line is what an event tells.
func (r *rawJSON) line(e Event, at time.Time) solveStatus {
	if e.ID == "" {
		return solveStatus{Warnings: []rawWarning{newRawWarning("", e)}}
	}
	st := r.steps[e.ID]
	if st == nil {
		st = &rawStep{rawVertex{Digest: vertexDigest(e), Name: e.Name, Started: &at}, map[string]time.Time{}}
		for _, id := range e.Inputs {
			if in := r.steps[id]; in != nil {
				st.Inputs = append(st.Inputs, in.Digest)
			}
		}
		r.steps[e.ID] = st
	}
	switch e.State {
	case Logged:
		return solveStatus{Logs: []rawLog{{Vertex: st.Digest, Stream: 1, Data: e.Log, Timestamp: at}}}
	case Moved:
		return solveStatus{Statuses: []rawStatus{st.status(e.Item, at)}}
	case Warned:
		return solveStatus{Warnings: []rawWarning{newRawWarning(st.Digest, e)}}
	case Cached, Done:
		st.Completed, st.Cached = &at, e.State == Cached
	case Failed:
		st.Completed, st.Error = &at, e.Err.Error()
	case Canceled:
		st.Completed, st.Error = &at, "context canceled" // by which BuildKit's clients know it
	}
	return solveStatus{Vertexes: []rawVertex{st.rawVertex}}
}

func (st *rawStep) status(item Item, at time.Time) rawStatus {
	begun, ok := st.items[item.ID]
	if !ok {
		begun, st.items[item.ID] = at, at
	}
	s := rawStatus{ID: item.ID, Vertex: st.Digest, Total: item.Total, Current: item.Current, Timestamp: at, Started: &begun}
	if strings.HasPrefix(item.ID, "transferring ") {
		s.Name = "transferring"
	}
	if item.Done {
		s.Completed = &at
	}
	return s
}

func newRawWarning(vertex string, e Event) rawWarning {
	w := rawWarning{Vertex: vertex, Level: 1, Short: e.Log}
	if e.Warning == nil {
		return w
	}
	w.Detail, w.URL, w.Source = [][]byte{[]byte(e.Warning.Detail)}, e.Warning.URL, &rawSource{e.Warning.File, "Dockerfile"}
	for _, lines := range e.Warning.Lines {
		w.Range = append(w.Range, rawRange{rawLine{lines[0]}, rawLine{lines[1]}})
	}
	return w
}

func vertexDigest(e Event) string {
	sum := sha256.Sum256([]byte(e.ID + "\x00" + e.Name))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Pause is Display's. The lines are no terminal's.
func (r *rawJSON) Pause() func() { return func() {} }

// Close is Display's.
func (r *rawJSON) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}
