package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"

	"strake/internal/userns"
)

// Settings are what Strake's own configuration file says.
type Settings struct {
	MaxSize    int64         // bytes on disk that the store is brought down to; 0: any
	UndoWindow time.Duration // how long what is removed can be brought back; 0: not at all
}

// defaultUndoWindow is for who sets none.
const defaultUndoWindow = 24 * time.Hour

// SettingsPath is where the configuration file is looked for: STRAKE_CONFIG,
// else /etc/strake/config.json for root and $XDG_CONFIG_HOME/strake/config.json
// (~/.config/strake/config.json) for others.
func SettingsPath() string {
	if path := os.Getenv("STRAKE_CONFIG"); path != "" {
		return path
	}
	if userns.IsRoot() {
		return "/etc/strake/config.json"
	}
	dir := os.Getenv("XDG_CONFIG_HOME")
	if dir == "" {
		dir = filepath.Join(os.Getenv("HOME"), ".config")
	}
	return filepath.Join(dir, "strake", "config.json")
}

// readSettings reads the configuration file. One that is missing says nothing,
// unless STRAKE_CONFIG names it.
func readSettings() (Settings, error) {
	s := Settings{UndoWindow: defaultUndoWindow}
	path := SettingsPath()
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && os.Getenv("STRAKE_CONFIG") == "" {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("read configuration: %w", err)
	}
	var values map[string]any
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber() // a size may be more than a float prints in full
	if err := dec.Decode(&values); err != nil {
		return s, fmt.Errorf("configuration file %s: %w: %w", path, errdefs.ErrInvalidArgument, err)
	}
	for key, value := range values {
		if err := s.set(key, fmt.Sprint(value)); err != nil {
			return s, fmt.Errorf("configuration file %s: %w", path, err)
		}
	}
	return s, nil
}

func (s *Settings) set(key, value string) (err error) {
	switch key {
	case "max-size":
		if s.MaxSize, err = units.FromHumanSize(value); err != nil {
			return fmt.Errorf("%s: %q is no size such as 20GB: %w", key, value, errdefs.ErrInvalidArgument)
		}
	case "undo-window":
		if s.UndoWindow, err = parseAge(value); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	default:
		return fmt.Errorf("unknown key %q: %w", key, errdefs.ErrInvalidArgument)
	}
	return nil
}

// parseAge reads a duration: Go's, and weeks and days before it (2w, 1d12h).
func parseAge(value string) (time.Duration, error) {
	rest, total := value, time.Duration(0)
	for _, unit := range []struct {
		suffix string
		length time.Duration
	}{{"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour}} {
		count, after, ok := strings.Cut(rest, unit.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseFloat(count, 64)
		if err != nil || n < 0 {
			return 0, badAge(value)
		}
		rest, total = after, total+time.Duration(n*float64(unit.length))
	}
	if rest == "" && value != "" {
		return total, nil
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 {
		return 0, badAge(value)
	}
	return total + d, nil
}

func badAge(value string) error {
	return messageError{fmt.Sprintf("%q is no duration such as 36h, 30d or 2w", value), errdefs.ErrInvalidArgument}
}
