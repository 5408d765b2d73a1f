package manifest_test

import (
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// bitWriter and gorilla write what the core's encoder writes.
type bitWriter struct {
	b    []byte
	used int
}

func (w *bitWriter) push(v uint64, n int) {
	for i := n - 1; i >= 0; i-- {
		if w.used%8 == 0 {
			w.b = append(w.b, 0)
		}
		w.b[w.used/8] |= byte(v>>i&1) << (7 - w.used%8)
		w.used++
	}
}

func gorilla(values []int64) []byte {
	w := &bitWriter{}
	w.push(uint64(len(values)), 32)
	var delta int64
	for i, v := range values {
		if i == 0 {
			w.push(uint64(v), 64)
			continue
		}
		d := v - values[i-1]
		switch dod := d - delta; {
		case dod == 0:
			w.push(0, 1)
		case dod >= -63 && dod <= 63:
			w.push(0b10, 2)
			w.push(uint64(dod), 7)
		case dod >= -255 && dod <= 255:
			w.push(0b110, 3)
			w.push(uint64(dod), 9)
		case dod >= -2047 && dod <= 2047:
			w.push(0b1110, 4)
			w.push(uint64(dod), 12)
		default:
			w.push(0b1111, 4)
			w.push(uint64(dod), 32)
		}
		delta = d
	}
	return w.b
}

func trackerBytes(seqs, times []int64) []byte {
	b := binary.LittleEndian.AppendUint32([]byte{1}, uint32(len(seqs)))
	return append(append(b, gorilla(seqs)...), gorilla(times)...)
}

func TestTrackersReadBack(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for round := range 500 {
		n := r.IntN(200)
		seqs, times := make([]int64, n), make([]int64, n)
		seq, at := r.Int64N(1<<40), int64(1_700_000_000)
		for i := range n {
			// Steps of every width the encoding has.
			seq += r.Int64N(1 << r.IntN(31))
			at += 60 + r.Int64N(1<<r.IntN(24))
			seqs[i], times[i] = seq, at
		}
		tr, err := manifest.DecodeTracker(trackerBytes(seqs, times))
		if err != nil || len(tr.Samples) != n {
			t.Fatalf("round %d: %d of %d samples, %v", round, len(tr.Samples), n, err)
		}
		for i, s := range tr.Samples {
			if s.Seq != uint64(seqs[i]) || s.Time.Unix() != times[i] {
				t.Fatalf("round %d: sample %d is %d at %v, want %d at %d", round, i, s.Seq, s.Time, seqs[i], times[i])
			}
		}
	}
}

func TestTrackersOfRealManifests(t *testing.T) {
	samples := 0
	for name, b := range objects(t, ".manifest") {
		m, err := manifest.Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		tr, err := manifest.DecodeTracker(m.SequenceTracker)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, s := range tr.Samples {
			samples++
			// All fixtures were made within a few days of each other.
			if s.Seq == 0 || s.Seq > m.LastL0Seq || s.Time.Year() != 2026 {
				t.Errorf("%s: sample %+v of a database at %d", name, s, m.LastL0Seq)
			}
		}
	}
	if samples < 900 {
		t.Errorf("only %d samples", samples)
	}
}

func TestTrackerLooksUpBothWays(t *testing.T) {
	tr, err := manifest.DecodeTracker(trackerBytes([]int64{10, 20, 20, 40}, []int64{100, 200, 200, 400}))
	if err != nil {
		t.Fatal(err)
	}
	unix := func(s int64) time.Time {
		if s == 0 {
			return time.Time{}
		}
		return time.Unix(s, 0).UTC()
	}
	for _, c := range []struct {
		seq           uint64
		after, before int64
	}{{5, 0, 100}, {10, 100, 100}, {11, 100, 200}, {20, 200, 200}, {39, 200, 400}, {40, 400, 400}, {41, 400, 0}, {math.MaxUint64, 400, 0}} {
		after, before := tr.TimeOf(c.seq)
		if after != unix(c.after) || before != unix(c.before) {
			t.Errorf("time of %d: %v to %v, want %d to %d", c.seq, after, before, c.after, c.before)
		}
	}
	for _, c := range []struct {
		at   int64
		seq  uint64
		some bool
	}{{99, 0, false}, {100, 10, true}, {199, 10, true}, {200, 20, true}, {399, 20, true}, {400, 40, true}, {9999, 40, true}} {
		if seq, some := tr.SeqAt(time.Unix(c.at, 0)); seq != c.seq || some != c.some {
			t.Errorf("sequence number at %d: %d, %v", c.at, seq, some)
		}
	}
	empty, err := manifest.DecodeTracker(nil)
	if err != nil {
		t.Fatal(err)
	}
	if after, before := empty.TimeOf(1); !after.IsZero() || !before.IsZero() {
		t.Error("an empty tracker knows a time")
	}
	if _, some := empty.SeqAt(time.Now()); some {
		t.Error("an empty tracker knows a sequence number")
	}
}

func TestWrongTrackers(t *testing.T) {
	good := trackerBytes([]int64{10, 20, 300, 9000}, []int64{100, 200, 5000, 90000})
	if _, err := manifest.DecodeTracker(good); err != nil {
		t.Fatal(err)
	}
	huge := slices.Clone(good)
	binary.LittleEndian.PutUint32(huge[1:], 1<<31)
	binary.BigEndian.PutUint32(huge[5:], 1<<31)
	for _, c := range []struct {
		name, say string
		b         []byte
	}{
		{"another version", "version 2", append([]byte{2}, good[1:]...)},
		{"no count", "too short", []byte{1, 0, 0}},
		{"more samples than bytes", "do not fit", huge},
		{"fewer times than sequence numbers", "times", append(slices.Clone(trackerBytes([]int64{1, 2}, nil)[:5]), append(gorilla([]int64{1, 2}), gorilla([]int64{1})...)...)},
		{"sequence numbers that go down", "before the one in front", trackerBytes([]int64{10, 9}, []int64{100, 200})},
		{"times that go down", "before the one in front", trackerBytes([]int64{10, 11}, []int64{200, 100})},
		{"a time before 1970", "no time", trackerBytes([]int64{1}, []int64{-1})},
		{"a time beyond all clocks", "no time", trackerBytes([]int64{1}, []int64{1 << 50})},
	} {
		_, err := manifest.DecodeTracker(c.b)
		var field *manifest.FieldError
		if !errors.As(err, &field) || field.Field != "sequence_tracker" || !errors.Is(err, manifest.ErrCorrupt) || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for n := 1; n < len(good); n++ {
		if _, err := manifest.DecodeTracker(good[:n]); err == nil {
			t.Errorf("cut to %d of %d bytes it decodes", n, len(good))
		}
	}
}

func FuzzTracker(f *testing.F) {
	for _, b := range objects(f, "db/manifest/00000000000000000020.manifest") {
		if m, err := manifest.Decode(b); err == nil {
			f.Add(m.SequenceTracker)
		}
	}
	f.Add(trackerBytes([]int64{10, 20, 300, 9000, 1 << 31}, []int64{100, 200, 5000, 90000, 90000}))
	f.Fuzz(func(t *testing.T, b []byte) {
		tr, err := manifest.DecodeTracker(b)
		if err != nil {
			return
		}
		if len(tr.Samples) > 8*len(b) {
			t.Errorf("%d samples in %d bytes", len(tr.Samples), len(b))
		}
		for _, s := range tr.Samples {
			if after, before := tr.TimeOf(s.Seq); after.After(before) {
				t.Errorf("%d was written between %v and %v", s.Seq, after, before)
			}
			if seq, some := tr.SeqAt(s.Time); !some || seq < s.Seq {
				t.Errorf("at %v: %d, %v, but %d was there", s.Time, seq, some, s.Seq)
			}
		}
	})
}
