package catalog

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

func exampleRows() map[string]any {
	n, at := uint64(7), time.Date(2026, 11, 21, 12, 0, 0, 5, time.UTC)
	rows := map[string]any{
		PermitPath("dbs/orders"):           PermitRow{Version: 1, Slate: "dbs/orders", Root: "dbs/orders", Incarnation: "01J", Number: 3, Term: 2, Decision: "d1", UpTo: &n, PositionDomain: "seq", NotAfter: &at},
		TombstonePath("dbs/orders", "01J"): TombstoneRow{Version: 1, Slate: "dbs/orders", Root: "dbs/orders", Incarnation: "01J", Object: Prefix + "tombstones/x.json", Decision: "d2", At: &at},
	}
	s := Sighting{
		Slate: "dbs/orders", Root: "dbs/orders", Kind: KindLog, Seen: SeenLive, Incarnation: "01J", ManifestID: &n, WriterEpoch: &n, Position: &n,
		Checkpoints: []Checkpoint{{ID: "a", ManifestID: 1, Expires: &at}, {ID: "b", Name: "quarry:floor", ManifestID: 2}, {ID: "c", Name: "nightly", ManifestID: 3}},
	}
	for rest, row := range SightRows(s) {
		rows[SlatePath(s.Slate)+rest] = row
		rows[BesidePath(s.Slate)+rest] = row
	}
	for _, role := range []string{"owner", "writer", "reader"} {
		path, row := LeaseRow(Lease{Version: 1, Slate: "dbs/orders", Role: role, ID: "a/b", Holder: "h", TTL: 30, Renewed: at, Touched: at})
		rows[path] = row
	}
	return rows
}

// Every row reads back as what it was written as, whatever slate it is of.
func TestEveryRowReadsBack(t *testing.T) {
	rows := exampleRows()
	if len(rows) != 2+2*4+3 {
		t.Fatalf("%d rows", len(rows))
	}
	for path, v := range rows {
		row, err := EncodeRow(path, v, 9)
		if err != nil {
			t.Fatal(err)
		}
		row, err = DecodeRow(row.Key(), row.Value)
		if err != nil || row.Revision != 9 || HoldsDeclaration(path) {
			t.Fatalf("%+v: %v", row, err)
		}
		back, err := ReadRow(row)
		if err != nil || !reflect.DeepEqual(reflect.ValueOf(back).Elem().Interface(), v) {
			t.Errorf("%s: %+v came back as %+v: %v", path, v, back, err)
		}
	}
	for _, slate := range []string{"a", "dbs/orders", "beside", "a b%2F", "ü", "slate"} {
		for _, beside := range []bool{false, true} {
			path := SlatePath(slate)
			if beside {
				path = BesidePath(slate)
			}
			name, b, rest, ok := Branch(path + PlacementBranch)
			if !ok || name != slate || b != beside || rest != PlacementBranch {
				t.Errorf("%s: %q, %v, %q, %v", path, name, b, rest, ok)
			}
		}
	}
}

// What a row lacks or contradicts is said; paths of newer agents are passed
// over.
func TestARowThatContradictsItsPathIsRefused(t *testing.T) {
	for path, value := range map[string]string{
		"slate/a/placement":      `{"version":1,"slate":"b","root":"a","seen":"live"}`,
		"slate/b/placement":      `{"version":1,"slate":"b","root":"","seen":"live"}`,
		"slate/c/placement":      `{"version":1,"slate":"c","root":"c","seen":"gone"}`,
		"slate/a/writer/epoch-1": `{"version":1,"slate":"a"}`,
		"slate/a/reader/x":       `{"version":1,"slate":"a"}`,
		"slate/a/owner/lease-x":  `{"version":1,"slate":"a"}`,
		"slate/a/hold/x":         `{"version":1,"slate":"a"}`,
		"permit/a":               `{"version":1,"slate":"b","incarnation":"01J"}`,
		"permit/c":               `{"version":1,"slate":"c"}`,
		"tombstone/a/01J":        `{"version":1,"slate":"a","incarnation":"01K"}`,
		"slate/a/registration":   `{"version":1}`,
	} {
		if v, err := ReadRow(Row{Path: path, Value: json.RawMessage(value)}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %+v, %v", path, v, err)
		}
	}
	for _, path := range []string{HeadPath, "slate/a/something/new", "forecast/a"} {
		if v, err := ReadRow(Row{Path: path, Value: json.RawMessage(`{"version":1}`)}); v != nil || err != nil {
			t.Errorf("%s: %+v, %v", path, v, err)
		}
	}
}

// Rows of whatever writer are read without harm, and what was read is read the
// same once it is written again: the holder of the duty compares by that.
func FuzzReadRow(f *testing.F) {
	for path, v := range exampleRows() {
		row, err := EncodeRow(path, v, 9)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(path, []byte(row.Value))
	}
	f.Add("slate/%zz/placement", []byte("null"))
	f.Fuzz(func(t *testing.T, path string, value []byte) {
		Branch(path)
		v, err := ReadRow(Row{Path: path, Value: value})
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if v == nil || HoldsDeclaration(path) {
			return
		}
		raw, err := json.Marshal(v)
		if err != nil {
			return // a time that JSON has no words for
		}
		again, err := ReadRow(Row{Path: path, Value: raw})
		if err != nil {
			t.Fatalf("%s was read as %s, and not again: %v", value, raw, err)
		}
		if twice, err := json.Marshal(again); err != nil || string(twice) != string(raw) {
			t.Fatalf("%s became %s: %v", raw, twice, err)
		}
	})
}
