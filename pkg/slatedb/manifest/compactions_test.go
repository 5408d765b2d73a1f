package manifest_test

import (
	"encoding/json"
	"errors"
	"path"
	"slices"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

func compactions(t testing.TB, b []byte) *manifest.Compactions {
	t.Helper()
	c, err := manifest.DecodeCompactions(b)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What the real compactors wrote, one file after the other, is a story that
// makes sense: a job goes forward through its states, and in the end what it
// wrote is in the manifest.
func TestEveryRealCompactionsFileDecodes(t *testing.T) {
	all := objects(t, ".compactions")
	if len(all) < 250 {
		t.Fatalf("only %d files", len(all))
	}
	order := []manifest.Status{manifest.Submitted, manifest.Scheduled, manifest.Running, manifest.Compacted, manifest.Completed, manifest.Failed}
	seen := map[manifest.Status]int{}
	versions := map[int]int{}
	drains, workers, parts, outputs := 0, 0, 0, 0
	byFolder := map[string][]string{}
	for name := range all {
		byFolder[path.Dir(name)] = append(byFolder[path.Dir(name)], name)
	}
	for _, names := range byFolder {
		slices.Sort(names)
		last := map[ulid.ULID]manifest.Status{}
		var epoch uint64
		for _, name := range names {
			c := compactions(t, all[name])
			versions[c.Version]++
			if c.UnknownFields {
				t.Errorf("%s: unknown fields", name)
			}
			if c.CompactorEpoch < epoch {
				t.Errorf("%s: epoch %d after %d", name, c.CompactorEpoch, epoch)
			}
			epoch = c.CompactorEpoch
			for _, j := range c.Recent {
				seen[j.Status]++
				was, before := last[j.ID]
				if at := slices.Index(order, j.Status); at < 0 || (before && at < slices.Index(order, was)) {
					t.Errorf("%s: %s goes from %s to %s", name, j.ID, was, j.Status)
				}
				last[j.ID] = j.Status
				// OpenData's log drains segments that are empty already (and
				// fails at it), everything else has inputs.
				if (len(j.Spec.L0)+len(j.Spec.Runs) == 0 && !j.Spec.Drain) || j.Spec.ByTable {
					t.Errorf("%s: %s has the inputs %+v", name, j.ID, j.Spec)
				}
				if j.Spec.Drain {
					drains++
				}
				if j.Worker != nil && j.Worker.ID != "" && j.Worker.Heartbeat.Year() == 2026 {
					workers++
				}
				parts += len(j.Parts)
				outputs += len(j.Outputs)
			}
		}
	}
	t.Logf("%d files, versions %v, states %v, %d drains, %d with workers, %d parts, %d outputs", len(all), versions, seen, drains, workers, parts, outputs)
	if versions[1] == 0 || versions[2] == 0 || drains == 0 || workers == 0 || parts == 0 || outputs == 0 {
		t.Error("the fixtures lack a shape that these tests rely on")
	}
	for _, s := range order {
		if seen[s] == 0 {
			t.Errorf("no job is %s", s)
		}
	}
}

func TestACompactionWithEverything(t *testing.T) {
	open := table{0: table{1: uint8(1)}, 1: table{1: uint8(1)}}
	b := encode(2, table{0: uint64(4), 1: vector{
		{0: id128(1), 1: uint8(1), 2: table{1: []uint32{7, 3}, 2: vector{id128(2)}, 3: []byte("seg"), 4: uint32(9)},
			3: uint8(1), 4: vector{sst(5)}, 5: table{0: "worker-1", 1: uint64(1_700_000_000_123)},
			6: uint8(1), 7: table{0: vector{{0: open, 1: vector{sst(6)}, 2: uint8(1)}, {0: open}}, 1: uint64(77)}},
		{0: id128(2), 1: uint8(2), 2: table{0: []byte("old"), 1: vector{}, 2: []uint32{1}}, 3: uint8(2)},
		{0: id128(3), 1: uint8(1), 2: table{0: vector{id128(9)}}, 3: uint8(9), 5: table{1: uint64(5)}},
	}})
	c := compactions(t, b)
	if c.CompactorEpoch != 4 || len(c.Recent) != 3 || c.UnknownFields {
		t.Fatalf("%+v", c)
	}
	j := c.Recent[0]
	if j.Status != manifest.Running || j.Status.Ended() || j.Spec.Destination != 9 || string(j.Spec.Segment) != "seg" || !slices.Equal(j.Spec.Runs, []uint32{7, 3}) ||
		len(j.Outputs) != 1 || j.Worker.ID != "worker-1" || !j.Worker.Heartbeat.Equal(time.UnixMilli(1_700_000_000_123)) ||
		*j.RetentionMinSeq != 77 || len(j.Parts) != 2 || !j.Parts[0].Completed || j.Parts[1].Completed || !j.Parts[0].Range.Start.Unbounded {
		t.Errorf("split job: %+v", j)
	}
	if j = c.Recent[1]; !j.Spec.Drain || string(j.Spec.Segment) != "old" || !j.Status.Ended() || j.Worker != nil || j.RetentionMinSeq != nil {
		t.Errorf("drain: %+v", j)
	}
	// Before there were views the tables themselves were named; and a worker
	// without a name is none.
	if j = c.Recent[2]; !j.Spec.ByTable || len(j.Spec.L0) != 1 || j.Status.String() != "status-9" || j.Worker != nil {
		t.Errorf("old job: %+v", j)
	}
	// Version 1 does not say where the output goes: it becomes the oldest of
	// its inputs.
	if j = compactions(t, append([]byte{0, 1}, b[2:]...)).Recent[0]; j.Spec.Destination != 3 {
		t.Errorf("destination %d", j.Spec.Destination)
	}
}

func TestWrongCompactionsNameTheField(t *testing.T) {
	spec := table{2: vector{id128(2)}}
	job := table{0: id128(1), 1: uint8(1), 2: spec}
	for _, c := range []struct {
		name  string
		t     table
		field string
	}{
		{"nothing in it", table{}, "recent_compactions"},
		{"a job without id", table{1: vector{job, with(job, 0, nil)}}, "recent_compactions[1].id"},
		{"a job without spec", table{1: vector{with(job, 2, nil)}}, "recent_compactions[0].spec"},
		{"a spec of no kind", table{1: vector{with(job, 1, nil)}}, "recent_compactions[0].spec_type"},
		{"a spec of an unknown kind", table{1: vector{with(job, 1, uint8(3))}}, "recent_compactions[0].spec_type"},
		{"a drain of nothing", table{1: vector{with(job, 1, uint8(2))}}, "recent_compactions[0].spec.segment"},
		{"a context of no kind", table{1: vector{with(job, 7, table{})}}, "recent_compactions[0].ctx"},
		{"a context that is not there", table{1: vector{with(job, 6, uint8(1))}}, "recent_compactions[0].ctx"},
		{"a context of an unknown kind", table{1: vector{with(with(job, 6, uint8(2)), 7, table{})}}, "recent_compactions[0].ctx_type"},
		{"a part without range", table{1: vector{with(with(job, 6, uint8(1)), 7, table{0: vector{{}}})}}, "recent_compactions[0].ctx.subcompactions[0].range"},
		{"an output without id", table{1: vector{with(job, 4, vector{{1: table{}}})}}, "recent_compactions[0].output_ssts[0].id"},
		{"a heartbeat beyond all clocks", table{1: vector{with(job, 5, table{0: "w", 1: uint64(1 << 62)})}}, "recent_compactions[0].worker.last_heartbeat_ms"},
	} {
		_, err := manifest.DecodeCompactions(encode(2, c.t))
		var field *manifest.FieldError
		if !errors.As(err, &field) || field.Field != c.field {
			t.Errorf("%s: got %v, want field %s", c.name, err, c.field)
		}
	}
	if _, err := manifest.DecodeCompactions(nil); !errors.Is(err, manifest.ErrEmpty) {
		t.Error(err)
	}
	var version *manifest.VersionError
	if _, err := manifest.DecodeCompactions([]byte{0, 3, 0}); !errors.As(err, &version) || version.Format != "compactions" {
		t.Error(err)
	}
}

func checkCompactions(t testing.TB, b []byte) {
	c, err := manifest.DecodeCompactions(b)
	if (c == nil) == (err == nil) {
		t.Fatalf("decode of %d bytes: %v and %v", len(b), c, err)
	}
	if err == nil {
		if _, err := json.Marshal(c); err != nil {
			t.Error(err)
		}
	}
}

func TestDamagedCompactionsNeverPanic(t *testing.T) {
	all := objects(t, ".compactions")
	largest := slices.MaxFunc(slices.Collect(func(yield func([]byte) bool) {
		for _, b := range all {
			if !yield(b) {
				return
			}
		}
	}), func(a, b []byte) int { return len(a) - len(b) })
	for n := range largest {
		checkCompactions(t, largest[:n])
	}
	for bit := range 8 * len(largest) {
		b := slices.Clone(largest)
		b[bit/8] ^= 1 << (bit % 8)
		checkCompactions(t, b)
	}
}

func FuzzCompactions(f *testing.F) {
	for _, b := range objects(f, "0003.compactions") {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkCompactions(t, b) })
}
