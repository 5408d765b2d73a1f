package snapshotstest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// folderOf keeps what is written.
type folderOf map[string][]byte

func (f folderOf) Put(_ context.Context, key string, data []byte) error {
	f[key] = data
	return nil
}

// shape is a JSON text without its values: names, order, types and white space
// stay, and of a list that goes on in the same way one element.
func shape(raw []byte) string {
	s := string(raw)
	s = regexp.MustCompile(`: "[^"]*"`).ReplaceAllString(s, `: "…"`)
	s = regexp.MustCompile(`: [0-9]+`).ReplaceAllString(s, `: 0`)
	list := regexp.MustCompile(`(?s)(\n    \{.*?\n    \}),(\n    \{)`)
	for {
		at := list.FindStringSubmatchIndex(s)
		if at == nil {
			return s
		}
		rest := s[at[3]+1:]
		end := strings.Index(rest, "\n    }") + len("\n    }")
		if rest[:end] != s[at[2]:at[3]] {
			return s // the next one is otherwise
		}
		s = s[:at[3]] + rest[end:]
	}
}

// What this writes has the layout that real servers of 1.6 and 1.7 wrote: folders,
// members, their order and types, and the white space between them.
func TestTheLayoutIsThatOfRealServers(t *testing.T) {
	const real = "../../../e2e/fixtures/data/restate/"
	for _, c := range []struct {
		folder string
		p      Partition
	}{
		{"v2-retained-3/1", Partition{Prefix: "1", Number: 1, Snapshots: []Snapshot{{LSN: 88}, {LSN: 137}, {LSN: 180}}}},
		{"v2-default-4-partitions/0", Partition{Prefix: "0", Snapshots: []Snapshot{{LSN: 122}}}},
		{"v1-from-1.6.1/0", Partition{Prefix: "0", V1: true, Snapshots: []Snapshot{{LSN: 86}}}},
	} {
		wrote := folderOf{}
		if err := c.p.Write(t.Context(), wrote); err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(real + c.folder + "/latest.json")
		if err != nil {
			t.Fatal(err)
		}
		if got := wrote[c.p.Prefix+"/latest.json"]; shape(got) != shape(raw) {
			t.Errorf("%s: the pointer is\n%s\na server wrote\n%s", c.folder, got, raw)
		}
		for _, s := range c.p.Snapshots {
			found, err := filepath.Glob(fmt.Sprintf("%s%s/lsn_%020d-snap_*", real, c.folder, s.LSN))
			if err != nil || len(found) != 1 {
				t.Fatalf("%s, LSN %d: %v %v", c.folder, s.LSN, found, err)
			}
			if name := filepath.Base(found[0]); len(name) != len(Folder(s.LSN)) {
				t.Errorf("the folder is %s, a server's is %s", Folder(s.LSN), name)
			}
			if raw, err = os.ReadFile(found[0] + "/metadata.json"); err != nil {
				t.Fatal(err)
			}
			if got := wrote[c.p.Prefix+"/"+Folder(s.LSN)+"/metadata.json"]; shape(got) != shape(raw) {
				t.Errorf("%s: metadata.json is\n%s\na server wrote\n%s", found[0], got, raw)
			}
		}
	}
	// The comparison sees a member that is at another place or of another type.
	for _, other := range []string{`{"b": 0, "a": 1}`, `{"a": "1", "b": 0}`, `{ "a": 1, "b": 0}`} {
		if shape([]byte(`{"a": 1, "b": 0}`)) == shape([]byte(other)) {
			t.Errorf("%s looks the same", other)
		}
	}
}
