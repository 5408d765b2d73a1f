package manifest

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quarry-db/quarry/pkg/slatedb/internal/fb"
)

// Compactions is one decoded .compactions object: what the compactor is doing
// and what it did last. It is for display, nothing is decided by it.
type Compactions struct {
	Version        int // 1 or 2
	CompactorEpoch uint64
	Recent         []Compaction // in the file's order

	// UnknownFields is as in [Manifest].
	UnknownFields bool
}

// Compaction is one job.
type Compaction struct {
	ID      ulid.ULID
	Status  Status
	Spec    Spec
	Outputs []Table // what it has written
	Worker  *Worker // who does it; nil: nobody claimed it

	// The rest is there while a split job runs.
	RetentionMinSeq *uint64
	Parts           []Part
}

// Spec is what a compaction is to do.
type Spec struct {
	// Drain: the whole segment goes, nothing is merged.
	Drain   bool
	Segment []byte      // prefix; empty: the root tree
	L0      []ulid.ULID // inputs: views, or tables where ByTable
	ByTable bool        // written by a release that had no views yet
	Runs    []uint32    // inputs: sorted runs
	// Destination is the run that the output becomes; meaningless for a
	// drain.
	Destination uint32
}

// Worker is who has claimed a compaction.
type Worker struct {
	ID        string
	Heartbeat time.Time // of its last progress, its clock; zero: never
}

// Part is a job's share of the keys.
type Part struct {
	Range     Range
	Outputs   []Table
	Completed bool // only releases from 0.18 on say so
}

// Status is how far a compaction has come.
type Status uint8

// Statuses in the order in which releases came to know them.
const (
	Submitted Status = iota
	Running
	Completed
	Failed
	Compacted // done by the worker, not yet in the manifest
	Scheduled // checked by the coordinator, to be claimed
)

var statuses = [...]string{"submitted", "running", "completed", "failed", "compacted", "scheduled"}

func (s Status) String() string {
	if int(s) < len(statuses) {
		return statuses[s]
	}
	return fmt.Sprintf("status-%d", uint8(s))
}

// Ended reports whether nothing will happen to the job any more.
func (s Status) Ended() bool { return s == Completed || s == Failed }

// MarshalText writes the status as [Status.String] does.
func (s Status) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// DecodeCompactions reads a .compactions object. The result aliases b, the
// errors and bounds are as those of [Decode]; there is no pill here.
func DecodeCompactions(b []byte) (*Compactions, error) {
	if len(b) < 2 {
		return nil, fmt.Errorf("compactions: %w", ErrEmpty)
	}
	version := binary.BigEndian.Uint16(b)
	if version != 1 && version != 2 {
		return nil, &VersionError{Format: "compactions", Version: version}
	}
	root, err := fb.Root(b[2:])
	if err != nil {
		return nil, fieldError(err)
	}
	d := &decoder{}
	d.known(root, 2)
	c := &Compactions{Version: int(version), CompactorEpoch: root.Uint64(0, "compactor_epoch", 0)}
	need(root, root.Tables(1, "recent_compactions", func(_ int, e fb.Table) {
		c.Recent = append(c.Recent, d.compaction(e, int(version)))
	}), "recent_compactions")
	if err := root.Err(); err != nil {
		return nil, fieldError(err)
	}
	c.UnknownFields = d.unknown
	return c, nil
}

// Kinds of the unions in a compaction.
const (
	specTiered    = 1
	specDrain     = 2
	contextTiered = 1
)

func (d *decoder) compaction(e fb.Table, version int) Compaction {
	d.known(e, 8)
	c := Compaction{ID: d.ulid(e, 0, "id"), Status: Status(e.Uint8(3, "status", 0))}
	kind := e.Uint8(1, "spec_type", 0)
	if kind != specTiered && kind != specDrain {
		e.Fail("spec_type", "%d is not one of 1, 2", kind)
	}
	need(e, e.Sub(2, "spec", func(s fb.Table) {
		if kind == specDrain {
			c.Spec = d.drain(s)
		} else {
			c.Spec = d.tiered(s, version)
		}
	}), "spec")
	c.Outputs = d.outputs(e, 4)
	e.Sub(5, "worker", func(w fb.Table) {
		d.known(w, 2)
		// The core takes a worker without a name for none at all.
		if name, ok := w.String(0, "worker_id"); ok {
			c.Worker = &Worker{ID: name}
			if ms := w.Uint64(1, "last_heartbeat_ms", 0); ms > lastSecond*1000 {
				w.Fail("last_heartbeat_ms", "%d ms is no time of a clock", ms)
			} else if ms != 0 {
				c.Worker.Heartbeat = time.UnixMilli(int64(ms)).UTC()
			}
		}
	})
	switch kind := e.Uint8(6, "ctx_type", 0); {
	case (kind != 0) != e.Has(7):
		e.Fail("ctx", "type %d with value present: %v", kind, e.Has(7))
	case kind > contextTiered:
		e.Fail("ctx_type", "%d is not one of 0, 1", kind)
	case kind == contextTiered:
		e.Sub(7, "ctx", func(x fb.Table) { d.context(x, &c) })
	}
	return c
}

func (d *decoder) context(x fb.Table, c *Compaction) {
	d.known(x, 2)
	x.Tables(0, "subcompactions", func(_ int, s fb.Table) {
		d.known(s, 3)
		var p Part
		need(s, s.Sub(0, "range", func(r fb.Table) { p.Range = *d.keyRange(r) }), "range")
		p.Outputs = d.outputs(s, 1)
		p.Completed = s.Uint8(2, "status", 0) == 1
		c.Parts = append(c.Parts, p)
	})
	seq := x.Uint64(1, "retention_min_seq", 0)
	c.RetentionMinSeq = &seq
}

func (d *decoder) tiered(s fb.Table, version int) Spec {
	d.known(s, 5)
	spec := Spec{
		L0:      d.ulids(s, 2, "l0_view_ids"),
		Runs:    s.Uint32s(1, "sorted_runs"),
		Segment: s.Bytes(3, "segment"),
	}
	if spec.L0 == nil {
		spec.L0 = d.ulids(s, 0, "ssts")
		spec.ByTable = spec.L0 != nil
	}
	if version >= 2 {
		spec.Destination = s.Uint32(4, "destination", 0)
	} else if len(spec.Runs) > 0 {
		spec.Destination = slices.Min(spec.Runs)
	}
	return spec
}

func (d *decoder) drain(s fb.Table) Spec {
	d.known(s, 3)
	spec := Spec{
		Drain:   true,
		Segment: s.Bytes(0, "segment"),
		L0:      d.ulids(s, 1, "l0_view_ids"),
		Runs:    s.Uint32s(2, "sorted_runs"),
	}
	need(s, spec.Segment != nil, "segment")
	return spec
}

// outputs reads an optional vector of CompactedSsTable.
func (d *decoder) outputs(t fb.Table, id int) []Table {
	if !t.Has(id) {
		return nil
	}
	return d.tablesV1(t, id, "output_ssts")
}
