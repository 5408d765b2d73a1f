package query

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

var values = Values{
	reflect.TypeFor[catalog.PlacementState](): {"live", "missing", "stale", "unreadable"},
}

var placements = TypeOf[catalog.Placement]("placements", values, "slate", "region", "root")

func ptr[T any](v T) *T { return &v }

// orders is a placement with something in most fields.
func orders() *catalog.Placement {
	p := &catalog.Placement{
		Region: "eu-west", State: catalog.StateLive, Registered: true, Owner: "payments", StateSince: now.Add(-time.Hour),
		Labels:     map[string]string{"team": "payments", "app.kubernetes.io/name": "orders"},
		Readers:    []catalog.Reader{{ID: "c1", Name: "audit", ManifestID: 41}, {ID: "c2", ManifestID: 42, Expires: ptr(now.Add(time.Hour))}},
		ObservedAt: now.Add(-5 * time.Minute), FirstSeen: now.Add(-24 * time.Hour), RestorePoints: 2,
		Findings: []catalog.FoundHere{{Code: "wal-hole", Object: "dbs/orders/wal/00000000000000000003.sst"}},
	}
	p.Slate, p.Root, p.Kind, p.Seen = "dbs/orders", "dbs/orders", catalog.KindLog, catalog.SeenLive
	p.ManifestID, p.WriterEpoch = ptr(uint64(42)), ptr(uint64(1<<63+1))
	p.Bytes = ptr(uint64(3 << 30))
	return p
}

func TestWhatAFilterMatches(t *testing.T) {
	for _, c := range []struct {
		filter string
		want   bool
	}{
		{``, true},
		{`region = "eu-west"`, true},
		{`region = eu-west AND state = live`, true},
		{`region="r2" AND state="live" AND labels.team="x"`, false},
		{`state = live OR state = missing`, true},
		{`state=(missing OR live)`, true},
		{`state=(missing OR stale)`, false},
		{`NOT state = live`, false},
		{`-state = live`, false},
		{`state != live`, false},
		// OR binds tighter than AND.
		{`state = missing AND registered OR kind = log`, false},
		{`(state = missing AND registered) OR kind = log`, true},
		{`state = live kind = log`, true},
		{`registered`, true},
		{`NOT registered`, false},
		{`registered = true`, true},
		{`registered != true`, false},
		{`bytes > 1GiB`, true},
		{`bytes = 3GiB`, true},
		{`bytes >= 3221225472`, true},
		{`bytes < 3.5GB`, true},
		{`bytes > 1e9`, true},
		{`bytes > -1`, true},
		// Epochs use all 64 bits.
		{`writer_epoch = 9223372036854775809`, true},
		{`writer_epoch = 9223372036854775808`, false},
		{`observed_at < now-10m`, false},
		{`observed_at > now-10m`, true},
		{`first_seen < now-12h AND first_seen > now-7d`, true},
		{`observed_at > 2026-11-21`, true},
		{`observed_at > 2026-11-21T11:55:00Z`, false},
		{`observed_at = "2026-11-21T11:55:00Z"`, true},
		{`labels.team = "payments"`, true},
		{`labels.team:*`, true},
		{`labels.tier:*`, false},
		{`labels:team`, true},
		{`labels:tier`, false},
		{`labels.app.kubernetes.io/name = orders`, true},
		{`labels."app.kubernetes.io/name" = orders`, true},
		{`labels.team:pay`, false},
		{`labels.team = pay*`, true},
		{`has:labels`, true},
		{`has:pinned_by`, false},
		{`has:findings`, true},
		{`findings.code = "wal-hole"`, true},
		{`findings.code = "segments-lost"`, false},
		{`readers:*`, true},
		{`checkpoints:*`, false},
		{`checkpoints = null`, true},
		{`readers.name = audit`, true},
		{`readers.name:AUD`, true},
		{`readers.manifest_id >= 42`, true},
		{`readers.expires < now+2h`, true},
		{`readers.expires < now+1m`, false},
		{`slate = "dbs/*"`, true},
		{`slate = "*ord*"`, true},
		{`slate = "ord*"`, false},
		{`slate = "dbs/\*"`, false},
		{`slate:ORD`, true},
		{`slate < e AND slate > dbs`, true},
		// Null matches nothing but null.
		{`position = 1`, false},
		{`position != 1`, false},
		{`position < 1 OR position >= 1`, false},
		{`position = null`, true},
		{`position != null`, false},
		{`position:*`, false},
		{`bytes != null`, true},
		{`labels.tier != x`, false},
		{`NOT labels.tier = x`, true},
		{`labels.tier = null`, true},
		// A text is both "" and null when there is nothing in it.
		{`contact = ""`, true},
		{`contact = null`, true},
		{`contact != x`, true},
		{`"ORDERS"`, true},
		{`"kubernetes"`, true},
		{`"nowhere"`, false},
	} {
		f, err := placements.Filter(c.filter)
		if err != nil {
			t.Errorf("%s: %v", c.filter, err)
			continue
		}
		if got := f.Match(orders(), now); got != c.want {
			t.Errorf("%s: %v, want %v", c.filter, got, c.want)
		}
	}
}

func TestARefusalPointsAtTheColumn(t *testing.T) {
	for _, c := range []struct {
		filter string
		column int
		says   string // in message and hint
	}{
		{`sate = live`, 1, "or state?"},
		{`region = eu AND byts > 1`, 17, "bytes"},
		{`readers.nme = x`, 9, "name"},
		{`state = lve`, 9, "live"},
		{`state = `, 9, "what?"},
		{`bytes > big`, 9, "1GiB"},
		{`bytes > now`, 9, "number"},
		{`observed_at < 10m`, 15, "now-10m"},
		{`(state = live`, 1, "closed"},
		{`state = live)`, 13, "too much"},
		{`state == live`, 8, "one ="},
		{`state = live and registered`, 14, "AND in capitals"},
		{`state ~ live`, 7, "comparison"},
		{`slate = "dbs`, 9, "closed"},
		{`orders`, 1, `quote it: "orders"`},
		{`slate`, 1, "needs a comparison"},
		{`registered = maybe`, 14, "true or"},
		{`readers = x`, 11, "has"},
		{`readers:x`, 9, "readers.id"},
		{`readers.name != x`, 1, "NOT"},
		{`pinned_by = x`, 13, "pinned_by:x"},
		{`ärger = 1`, 1, "no field"},
		{`"ä" AND byts > 1`, 9, "bytes"},
		{`slate.x = 1`, 7, "no field"},
		{`AND`, 1, ""},
		{`state = live OR`, 16, "missing"},
		{strings.Repeat("(", 100) + "registered" + strings.Repeat(")", 100), 33, "nested"},
	} {
		_, err := placements.Filter(c.filter)
		e, ok := errors.AsType[*Error](err)
		if !ok {
			t.Errorf("%s: %v, want a refusal", c.filter, err)
			continue
		}
		if e.Param != "filter" || e.Column != c.column || !strings.Contains(e.Error(), c.says) {
			t.Errorf("%s: column %d: %v\nwant column %d and %q", c.filter, e.Column, e, c.column, c.says)
		}
	}
	_, err := placements.Filter(`region = eu AND byts > 1`)
	e, _ := errors.AsType[*Error](err)
	if want := "region = eu AND byts > 1\n                ^"; e.Caret() != want {
		t.Errorf("caret:\n%s\nwant\n%s", e.Caret(), want)
	}
}

func TestEveryFieldCanBeAskedFor(t *testing.T) {
	row := orders()
	row.Checkpoints = []catalog.Checkpoint{{ID: "x"}}
	for _, name := range placements.Names() {
		for _, f := range []string{name + ":*", "NOT " + name + ":*", name + " = null"} {
			flt, err := placements.Filter(f)
			if err != nil {
				t.Errorf("%s: %v", f, err)
				continue
			}
			flt.Match(row, now)
		}
		if _, err := placements.Mask(name); err != nil {
			t.Errorf("fields=%s: %v", name, err)
		}
	}
}

func TestRowsAreTheJSONOfTheirTypes(t *testing.T) {
	for _, row := range []*catalog.Placement{orders(), {}} {
		// Lists are never null here; give encoding/json the same lists.
		if row.Readers == nil {
			row.Readers = []catalog.Reader{}
		}
		if row.Findings == nil {
			row.Findings = []catalog.FoundHere{}
		}
		row.Checkpoints = []catalog.Checkpoint{}
		row.Contact = "\u2028 <ä> \xff \"quoted\""
		want, err := json.Marshal(row)
		if err != nil {
			t.Fatal(err)
		}
		if got := placements.AppendJSON(nil, row, nil); string(got) != string(want) {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	if got := string(placements.AppendJSON(nil, &catalog.Placement{}, nil)); !strings.Contains(got, `"readers":[]`) {
		t.Errorf("readers of a row without any: %s", got)
	}
}

func TestAMaskShowsWhatItNamesAndNothingElse(t *testing.T) {
	m, err := placements.Mask("slate, readers.id,labels.team,bytes,position")
	if err != nil {
		t.Fatal(err)
	}
	got := string(placements.AppendJSON(nil, orders(), m))
	want := `{"slate":"dbs/orders","position":null,"bytes":3221225472,"labels":{"team":"payments"},"readers":[{"id":"c1"},{"id":"c2"}]}`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestOnlyNarrowsWhatASourceMustGive(t *testing.T) {
	for filter, want := range map[string]string{
		`region = eu`:                                     "eu",
		`region = (eu OR us) AND state = live`:            "eu us",
		`region = eu OR region = us`:                      "eu us",
		`region = eu OR state = live`:                     "-",
		`NOT region = eu`:                                 "-",
		`region = e*`:                                     "-",
		`region != eu`:                                    "-",
		`(region = eu OR region = us) AND region = us`:    "us",
		`region = eu AND region = us`:                     "",
		`state = live`:                                    "-",
		`region = null`:                                   "-",
		`region = eu AND (state = live OR region = asia)`: "eu",
	} {
		f, err := placements.Filter(filter)
		if err != nil {
			t.Fatal(err)
		}
		vs, ok := f.Only("region")
		got := strings.Join(vs, " ")
		if !ok {
			got = "-"
		}
		if got != want {
			t.Errorf("%s: %q, want %q", filter, got, want)
		}
	}
}
