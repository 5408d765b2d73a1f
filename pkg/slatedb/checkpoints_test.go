package slatedb_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/slatedb/internal/dirstore"
	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// What each fixture's checkpoints are is known, for the fixture made them.
func TestCheckpointKindsInRealDatabases(t *testing.T) {
	s := dirstore.New(realDatabases)
	for _, version := range []string{"0.14.1", "0.15.0", "0.16.0", "0.17.0"} {
		for root, want := range map[string]string{
			// The second has a day to live and no name: it looks like a
			// reader with an odd setting, and nothing tells that it is not.
			"checkpoints/db": "named reader named named",
			"clone/parent":   "clone-source clone-pin",
			"clone/clone":    "",
		} {
			h, err := slatedb.Latest(context.Background(), s, version+"/"+root)
			if err != nil {
				t.Fatal(err)
			}
			var kinds []string
			for _, c := range h.Checkpoints(time.Time{}) {
				kinds = append(kinds, string(c.Kind))
			}
			got := strings.Join(kinds, " ")
			if got != want {
				t.Errorf("%s/%s: %s, want %s", version, root, got, want)
			}
		}
		for _, c := range []struct {
			root string
			kind slatedb.CheckpointKind
		}{{"compacted/db", slatedb.KindGuard}, {"reader/db", slatedb.KindReader}} {
			h, err := slatedb.Latest(context.Background(), s, version+"/"+c.root)
			if err != nil {
				t.Fatal(err)
			}
			rows := h.Checkpoints(time.Time{})
			if len(rows) == 0 || slices.ContainsFunc(rows, func(r slatedb.CheckpointRow) bool { return r.Kind != c.kind }) {
				t.Errorf("%s/%s: %v, want %s", version, c.root, rows, c.kind)
			}
		}
	}
}

// A clone can prove which checkpoint of its parent is its pin.
func TestThePinOfACloneIsOneOfItsParentsPins(t *testing.T) {
	s := dirstore.New(realDatabases)
	parent, err := slatedb.Latest(context.Background(), s, "0.17.0/clone/parent")
	if err != nil {
		t.Fatal(err)
	}
	clone, err := slatedb.Latest(context.Background(), s, "0.17.0/clone/clone")
	if err != nil {
		t.Fatal(err)
	}
	final := *clone.Manifest.ExternalDBs[0].FinalCheckpoint
	i := slices.IndexFunc(parent.Checkpoints(time.Time{}), func(r slatedb.CheckpointRow) bool { return r.ID == final })
	if i < 0 || parent.Checkpoints(time.Time{})[i].Kind != slatedb.KindPin {
		t.Errorf("checkpoint %s of the parent: %d", final, i)
	}
}

func TestACheckpointExpires(t *testing.T) {
	made := time.Unix(1000, 0).UTC()
	h := &slatedb.Head{Manifest: &manifest.Manifest{Checkpoints: []manifest.Checkpoint{
		{ID: uuid.MustParse("38f74e56-5d1a-4268-a09c-6ba09cf8a9d2"), ManifestID: 4, Create: made, Expire: made.Add(time.Minute)},
		{Create: made},
		{Create: made, Named: true},
	}}}
	for _, c := range []struct {
		after time.Duration
		want  string
	}{{59 * time.Second, "[false false false]"}, {time.Minute, "[true false false]"}, {1000 * time.Hour, "[true false false]"}} {
		var got []bool
		for _, r := range h.Checkpoints(made.Add(c.after)) {
			got = append(got, r.Expired)
		}
		if fmt.Sprint(got) != c.want {
			t.Errorf("after %v: %v, want %s", c.after, got, c.want)
		}
	}
	b, err := json.Marshal(h.Checkpoints(made)[0])
	const want = `{"id":"38f74e56-5d1a-4268-a09c-6ba09cf8a9d2","name":null,"manifest_id":4,"created":"1970-01-01T00:16:40Z","expires":"1970-01-01T00:17:40Z","kind":"reader","expired":false}`
	if err != nil || !sameJSON(t, string(b), want) {
		t.Errorf("%s, %v", b, err)
	}
}

func sameJSON(t *testing.T, a, b string) bool {
	t.Helper()
	var x, y any
	if json.Unmarshal([]byte(a), &x) != nil || json.Unmarshal([]byte(b), &y) != nil {
		return false
	}
	return fmt.Sprint(x) == fmt.Sprint(y)
}
