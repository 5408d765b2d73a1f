package manifest_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

type object = map[string]any

// expectation is the part of expected.json that is about manifests: what the
// core's own Admin said, by database.
type expectation struct {
	SlateDB     string            `json:"slatedb"`
	Roots       map[string]string `json:"roots"`
	Manifest    map[string]any    `json:"manifest"`
	Checkpoints map[string]any    `json:"checkpoints"`
}

// The newest manifest of every database is, field by field, what the core that
// wrote it says of it.
func TestDecodeAgreesWithTheCore(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(fixtures, "0.*", "*", "expected.json"))
	if err != nil || len(files) < 100 {
		t.Fatalf("%d expectations found: %v", len(files), err)
	}
	compared := map[string]int{}
	for _, file := range files {
		var want expectation
		readJSON(t, file, &want)
		for name, root := range want.Roots {
			if want.Manifest[name] == nil {
				if want.SlateDB != "0.12.1" && want.SlateDB != "0.18.0" {
					t.Errorf("%s: nothing is expected of %s", file, name)
				}
				continue
			}
			id, m := newest(t, filepath.Join(filepath.Dir(file), root))
			expected := plain(want.Manifest[name]).(object)
			ours := again(t, admin(id, m)).(object)
			if expected["segments"] == nil {
				// The bindings of 0.13 and 0.14 do not show them.
				if want.SlateDB > "0.15" {
					t.Errorf("%s: no segments are expected of %s", file, name)
				}
				delete(ours, "segments")
				delete(expected, "segments")
			}
			for _, d := range differences(name, ours, expected) {
				t.Errorf("%s: %s", file, d)
			}
			for _, d := range differences(name+".checkpoints", ours["checkpoints"], plain(want.Checkpoints[name])) {
				t.Errorf("%s: %s", file, d)
			}
			compared[want.SlateDB]++
		}
	}
	for _, v := range []string{"0.13.1", "0.14.1", "0.15.0", "0.16.0", "0.17.0"} {
		if compared[v] < 18 {
			t.Errorf("only %d databases of %s were compared", compared[v], v)
		}
	}
	t.Logf("databases compared by version: %v", compared)
}

// The comparison above is worth something: any one field that differs is found.
func TestAWrongFieldIsFound(t *testing.T) {
	for _, at := range []string{"0.17.0/segments/db", "0.15.0/projection/clone", "0.13.1/compacted/db", "0.17.0/checkpoints/db"} {
		id, m := newest(t, filepath.Join(fixtures, filepath.FromSlash(at)))
		base := again(t, admin(id, m))
		leaves := 0
		var visit func(v any, set func(any))
		visit = func(v any, set func(any)) {
			switch v := v.(type) {
			case object:
				for k := range v {
					visit(v[k], func(x any) { v[k] = x })
				}
			case []any:
				for i := range v {
					visit(v[i], func(x any) { v[i] = x })
				}
			default:
				leaves++
				set("something else")
				if d := differences("", base, again(t, admin(id, m))); len(d) != 1 {
					t.Errorf("%s: leaf %d: %d differences: %v", at, leaves, len(d), d)
				}
				set(v)
			}
		}
		visit(base, nil)
		if leaves < 40 {
			t.Errorf("%s: only %d leaves", at, leaves)
		}
	}
}

// newest reads the manifest with the greatest id below a database's folder.
func newest(t testing.TB, root string) (uint64, *manifest.Manifest) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root, "manifest", "*.manifest"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no manifests below %s: %v", root, err)
	}
	last := slices.Max(paths)
	b, err := os.ReadFile(last)
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Decode(b)
	if err != nil {
		t.Fatalf("%s: %v", last, err)
	}
	var id uint64
	if _, err := fmt.Sscanf(filepath.Base(last), "%d.manifest", &id); err != nil {
		t.Fatal(err)
	}
	return id, m
}

// admin gives m the shape in which the core's Admin shows a manifest.
func admin(id uint64, m *manifest.Manifest) object {
	// The core keeps the next id rather than the last one seen, and knows a
	// last compacted table only where V1 named it.
	o := tree(&m.Tree)
	maps.Copy(o, object{
		"id": id, "writer_epoch": m.WriterEpoch, "compactor_epoch": m.CompactorEpoch,
		"initialized": m.Initialized, "next_wal_sst_id": m.WALLastSeen + 1, "replay_after_wal_id": m.ReplayAfterWAL,
		"last_l0_clock_tick": m.LastL0ClockTick, "last_l0_seq": m.LastL0Seq, "recent_snapshot_min_seq": m.RecentSnapshotMinSeq,
		"last_compacted_l0_sst_id": nil, "wal_object_store_uri": nil,
	})
	if m.Version == manifest.V1 {
		o["last_compacted_l0_sst_id"] = optional(m.LastCompactedL0)
	}
	if m.WALStoreMarked {
		o["wal_object_store_uri"] = ""
	}
	segments := []any{}
	for i := range m.Segments {
		s := tree(&m.Segments[i].Tree)
		s["prefix"] = hex.EncodeToString(m.Segments[i].Prefix)
		segments = append(segments, s)
	}
	o["segments"] = segments
	checkpoints := []any{}
	for _, c := range m.Checkpoints {
		x := object{"id": c.ID.String(), "manifest_id": c.ManifestID, "create_time_secs": c.Create.Unix(), "expire_time_secs": nil, "name": nil}
		if !c.Expire.IsZero() {
			x["expire_time_secs"] = c.Expire.Unix()
		}
		if c.Named {
			x["name"] = c.Name
		}
		checkpoints = append(checkpoints, x)
	}
	o["checkpoints"] = checkpoints
	external := []any{}
	for _, e := range m.ExternalDBs {
		x := object{"path": e.Path, "source_checkpoint_id": e.SourceCheckpoint.String(), "final_checkpoint_id": nil, "sst_ids": e.Tables}
		if e.FinalCheckpoint != nil {
			x["final_checkpoint_id"] = e.FinalCheckpoint.String()
		}
		external = append(external, x)
	}
	o["external_dbs"] = external
	return o
}

func tree(t *manifest.Tree) object {
	runs := []any{}
	for _, r := range t.Runs {
		runs = append(runs, object{"id": r.ID, "sst_views": views(r.Tables), "estimated_size_bytes": estimate(r.Tables)})
	}
	return object{"last_compacted_l0_sst_view_id": optional(t.LastCompactedL0), "l0": views(t.L0), "compacted": runs}
}

func optional(u *ulid.ULID) any {
	if u == nil {
		return nil
	}
	return u.String()
}

func views(tables []manifest.Table) []any {
	out := []any{}
	for _, t := range tables {
		size := estimate([]manifest.Table{t})
		i := t.Info
		out = append(out, object{
			"id": t.ViewID, "visible_range": visible(t.Visible), "estimated_size_bytes": size,
			"sst": object{"id": t.ID, "estimated_size_bytes": size, "info": object{
				"first_entry": key(i.FirstKey), "last_entry": key(i.LastKey),
				"index_offset": i.IndexOffset, "index_len": i.IndexLen, "filter_offset": i.FilterOffset, "filter_len": i.FilterLen,
				"stats_offset": i.StatsOffset, "stats_len": i.StatsLen,
				"compression_codec": []any{nil, "snappy", "zlib", "lz4", "zstd"}[i.Compression],
				"sst_type":          []any{"compacted", "wal"}[i.Type],
				"filter_format":     []any{"legacy", "composite"}[i.FilterFormat],
			}},
		})
	}
	return out
}

// estimate is the core's own: up to the end of the index.
func estimate(tables []manifest.Table) (n uint64) {
	for _, t := range tables {
		n += t.Info.IndexOffset + t.Info.IndexLen
	}
	return n
}

func key(b []byte) any {
	if b == nil {
		return nil
	}
	return hex.EncodeToString(b)
}

func visible(r *manifest.Range) any {
	if r == nil {
		return nil
	}
	return object{"start": key(r.Start.Key), "start_inclusive": r.Start.Inclusive, "end": key(r.End.Key), "end_inclusive": r.End.Inclusive}
}

// plain takes the wrapping off that older bindings put around table ids.
func plain(v any) any {
	switch v := v.(type) {
	case object:
		if len(v) == 1 {
			if id, ok := v["value"]; ok {
				return id
			}
			if ids, ok := v["_values"].([]any); ok && len(ids) == 1 {
				return ids[0]
			}
		}
		for k := range v {
			v[k] = plain(v[k])
		}
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	}
	return v
}

// differences tells where two JSON values are not the same.
func differences(at string, got, want any) (out []string) {
	switch want := want.(type) {
	case object:
		got, ok := got.(object)
		if !ok {
			return []string{fmt.Sprintf("%s: got %v, want an object", at, got)}
		}
		keys := maps.Clone(want)
		maps.Copy(keys, got)
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			g, have := got[k]
			w, wanted := want[k]
			if have != wanted {
				out = append(out, fmt.Sprintf("%s.%s: there: %v, wanted: %v", at, k, have, wanted))
				continue
			}
			out = append(out, differences(at+"."+k, g, w)...)
		}
		return out
	case []any:
		got, ok := got.([]any)
		if !ok || len(got) != len(want) {
			return []string{fmt.Sprintf("%s: got %v, want %d elements", at, got, len(want))}
		}
		for i := range want {
			out = append(out, differences(fmt.Sprintf("%s[%d]", at, i), got[i], want[i])...)
		}
		return out
	}
	if !reflect.DeepEqual(got, want) {
		return []string{fmt.Sprintf("%s: got %v, want %v", at, got, want)}
	}
	return nil
}

func readJSON(t testing.TB, file string, v any) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(v); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// again takes v through JSON, so that it compares with what was read as JSON.
func again(t testing.TB, v any) (out any) {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&out); err != nil {
		t.Fatal(err)
	}
	return out
}
