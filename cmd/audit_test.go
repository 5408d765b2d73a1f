package cmd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/api"
	"github.com/quarry-db/quarry/hub/state"
)

// A copy that was printed with -o json and kept is verified without the hub.
func TestACopyOfTheAuditIsVerified(t *testing.T) {
	var items []api.AuditRow
	for i := range 5 {
		e := state.AuditEntry{Version: 1, Number: uint64(i + 1), At: time.Date(2026, 1, 1, i, 0, 0, 0, time.UTC), Who: "ann", What: "frozen", Of: "freeze/all"}
		if i > 0 {
			e.Previous = items[i-1].Hash
		}
		items = append(items, api.AuditRow{AuditEntry: e, Hash: e.Hash()})
	}
	whole, err := json.MarshalIndent(map[string]any{"items": items}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	var lines bytes.Buffer
	for _, i := range items {
		b, _ := json.Marshal(i)
		lines.Write(append(b, '\n'))
	}
	some := func(n ...int) []byte {
		var out []api.AuditRow
		for _, i := range n {
			out = append(out, items[i-1])
		}
		b, _ := json.Marshal(map[string]any{"items": out})
		return b
	}
	head := state.AuditHead{Number: 5, Hash: items[4].Hash}.String()
	for _, c := range []struct {
		what, head string
		copy       []byte
		code       int
		says       string
	}{
		{"whole", "", whole, exitOK, head},
		{"whole, entries one a line", "", lines.Bytes(), exitOK, head},
		{"one byte edited", "", bytes.Replace(whole, []byte("T02:00"), []byte("T03:00"), 1), exitRefused, "entry 3"},
		{"the hash beside it edited", "", bytes.Replace(whole, []byte(`"hash": "`+items[1].Hash[:4]), []byte(`"hash": "beef`), 1), exitRefused, "entry 2"},
		{"one taken out", "", some(1, 2, 4, 5), exitRefused, "entry 3 is missing"},
		{"two swapped", "", some(1, 3, 2, 4, 5), exitRefused, "entry 2 stands after entry 3"},
		{"the end cut off: nobody can see that", "", some(1, 2, 3), exitOK, "3 entries"},
		{"the end cut off, and somebody kept the head", head, some(1, 2, 3), exitRefused, "entries 4 to 5 are missing"},
		{"nothing", "", []byte("\n"), exitUsage, "holds no entry"},
	} {
		t.Run(c.what, func(t *testing.T) {
			if bytes.Equal(c.copy, whole) && c.what != "whole" {
				t.Fatal("nothing was changed")
			}
			file := filepath.Join(t.TempDir(), "audit.json")
			if err := os.WriteFile(file, c.copy, 0o600); err != nil {
				t.Fatal(err)
			}
			args := []string{"audit", "--verify", "--file", file}
			if c.head != "" {
				args = append(args, "--head", c.head)
			}
			var out, errs bytes.Buffer
			code := (&app{out: &out, err: &errs}).run(t.Context(), args)
			if text := out.String() + errs.String(); code != c.code || !strings.Contains(text, c.says) {
				t.Errorf("exit code %d, want %d: %s", code, c.code, text)
			}
		})
	}
	for _, args := range []string{"--file x", "--verify --file x --store mem://", "--verify --since 1h", "--since soon", "--limit -1", "--verify --file /dev/null --head 1"} {
		var out, errs bytes.Buffer
		if code := (&app{out: &out, err: &errs}).run(t.Context(), append([]string{"audit"}, strings.Fields(args)...)); code != exitUsage {
			t.Errorf("audit %s: exit code %d: %s", args, code, fmt.Sprint(&out, &errs))
		}
	}
}
