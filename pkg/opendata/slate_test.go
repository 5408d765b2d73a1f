package opendata

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

// The rows of a real log, read from its real slate: what it says of its head,
// segments and trim position is what its own library says.
func TestRealLogsReadFromTheirSlates(t *testing.T) {
	dir, err := filepath.Abs(fixtures)
	if err != nil {
		t.Fatal(err)
	}
	b, err := bucket.Open(t.Context(), "file://"+dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, c := range logs {
		t.Run(c.name, func(t *testing.T) {
			r, err := slatedb.OpenReader(t.Context(), b, c.name+"/slate", slatedb.ReaderOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var s LogState
			asked := 0
			for want, more := s.Next(); more; want, more = s.Next() {
				asked++
				for e, err := range r.Scan(t.Context(), want.From, want.To) {
					if err == nil {
						err = s.Add(e.Key, e.Value)
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				s.Done(want)
			}
			var words logWords
			readJSON(t, c.name+"/expected.json", &words)
			check(t, &s, words, c.next, c.trimmed, c.block)
			if asked != 2 {
				t.Errorf("asked for %d ranges, want 2", asked)
			}

			// Every entry that the library returned is there.
			start := map[uint32]uint64{}
			for _, s := range s.Segments() {
				start[s.ID] = s.StartSequence
			}
			got := map[string]bool{}
			for e, err := range r.Scan(t.Context(), nil, nil) {
				if err != nil {
					t.Fatal(err)
				}
				k, err := ParseLogKey(e.Key)
				if err != nil {
					t.Fatal(err)
				}
				if first, live := start[k.Segment]; live && k.Tag == LogEntry {
					got[fmt.Sprintf("%x@%d", k.Key, first+k.Relative)] = true
				}
			}
			n := 0
			for _, l := range words.Reads.Logs {
				for _, e := range l.Entries {
					n++
					if !got[fmt.Sprintf("%s@%d", l.Key, e.Seq)] {
						t.Errorf("entry %d of %s is not there", e.Seq, l.Key)
					}
				}
			}
			if n == 0 || len(got) != n {
				t.Errorf("%d entries, want %d", len(got), n)
			}
		})
	}
}
