package manifest

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"
)

// Tracker tells roughly when a sequence number was written and what the newest
// one was at a time. A writer takes a sample of its rows about once a minute
// and one after each flush, and thins old ones out. Samples ascend in both,
// not strictly.
type Tracker struct {
	Samples []Sample
}

// Sample says that the row Seq was written at Time.
type Sample struct {
	Seq  uint64
	Time time.Time // cut to whole seconds; the writer's clock
}

// trackerVersion is the only encoding there is.
const trackerVersion = 1

// lastSecond ends the year 9999: what is later has no form in JSON, and no
// clock shows it.
const lastSecond = 253402300799

// DecodeTracker reads what [Manifest.SequenceTracker] holds. Nothing at all,
// as old writers leave it, is an empty tracker. What is malformed (the core
// panics on it) is a *[FieldError] of the field sequence_tracker.
func DecodeTracker(b []byte) (*Tracker, error) {
	t := &Tracker{}
	if len(b) == 0 {
		return t, nil
	}
	if err := t.decode(b); err != nil {
		return nil, &FieldError{Field: "sequence_tracker", Err: fmt.Errorf("%w: %w", err, ErrCorrupt)}
	}
	return t, nil
}

func (t *Tracker) decode(b []byte) error {
	if b[0] != trackerVersion {
		return fmt.Errorf("version %d is not %d", b[0], trackerVersion)
	}
	if len(b) < 5 {
		return fmt.Errorf("%d bytes are too short for the count", len(b))
	}
	n := int(binary.LittleEndian.Uint32(b[1:])) // the only little-endian number in it
	seqs, used, err := gorilla(b[5:], n)
	if err != nil {
		return fmt.Errorf("sequence numbers: %w", err)
	}
	times, _, err := gorilla(b[5+used:], n)
	if err != nil {
		return fmt.Errorf("times: %w", err)
	}
	t.Samples = make([]Sample, n)
	for i := range t.Samples {
		if int64(times[i]) < 0 || times[i] > lastSecond {
			return fmt.Errorf("sample %d: %d s is no time of a clock", i, int64(times[i]))
		}
		t.Samples[i] = Sample{Seq: seqs[i], Time: time.Unix(int64(times[i]), 0).UTC()}
		// Differences are stored in 32 bits, so a writer can make a wrong
		// one; searching in what does not ascend would give nonsense.
		if i > 0 && (seqs[i] < seqs[i-1] || int64(times[i]) < int64(times[i-1])) {
			return fmt.Errorf("sample %d (%d, %d) is before the one in front of it (%d, %d)", i, seqs[i], int64(times[i]), seqs[i-1], int64(times[i-1]))
		}
	}
	return nil
}

// TimeOf returns bounds for when seq was written: not earlier than after, and
// not later than before, each to a second. Both are the same when there is a
// sample of just that row; a zero time means no bound on that side.
func (t *Tracker) TimeOf(seq uint64) (after, before time.Time) {
	i, exact := slices.BinarySearchFunc(t.Samples, seq, func(s Sample, seq uint64) int { return cmp.Compare(s.Seq, seq) })
	if exact {
		return t.Samples[i].Time, t.Samples[i].Time
	}
	if i > 0 {
		after = t.Samples[i-1].Time
	}
	if i < len(t.Samples) {
		before = t.Samples[i].Time
	}
	return after, before
}

// SeqAt returns the sequence number of the newest sample that was taken at or
// before at: what was written by then reaches at least that far. It is false
// when there is none, that is when at is before the first sample.
func (t *Tracker) SeqAt(at time.Time) (uint64, bool) {
	i, _ := slices.BinarySearchFunc(t.Samples, at, func(s Sample, at time.Time) int {
		if s.Time.After(at) {
			return 1
		}
		return -1
	})
	if i == 0 {
		return 0, false
	}
	return t.Samples[i-1].Seq, true
}

// bits reads b from the most significant bit on.
type bits struct {
	b    []byte
	next int
}

func (r *bits) take(n int) (v uint64, ok bool) {
	if n > 8*len(r.b)-r.next {
		return 0, false
	}
	for n > 0 {
		free := 8 - r.next%8
		k := min(free, n)
		part := r.b[r.next/8] >> (free - k) & byte(1<<k-1)
		v = v<<k | uint64(part)
		r.next += k
		n -= k
	}
	return v, true
}

// widths of a difference of differences, by the number of ones in front of it.
var widths = [5]int{0, 7, 9, 12, 32}

// gorilla reads n values and returns them with the bytes they took: a count,
// the first value whole, then differences of differences.
func gorilla(b []byte, n int) ([]uint64, int, error) {
	r := &bits{b: b}
	count, ok := r.take(32)
	if !ok {
		return nil, 0, fmt.Errorf("%d bytes are too short for the count", len(b))
	}
	if count != uint64(n) {
		return nil, 0, fmt.Errorf("%d values for %d samples", count, n)
	}
	if n == 0 {
		return nil, 4, nil
	}
	// Each value takes a bit at least, so a wrong count cannot ask for more
	// than the bytes pay for.
	if n > 8*len(b) {
		return nil, 0, fmt.Errorf("%d values do not fit into %d bytes", n, len(b))
	}
	first, ok := r.take(64)
	if !ok {
		return nil, 0, fmt.Errorf("the first value does not fit into %d bytes", len(b))
	}
	out := make([]uint64, n)
	out[0] = first
	var delta uint64 // arithmetic is modulo 2^64: signed and unsigned alike
	for i := 1; i < n; i++ {
		ones := 0
		for ones < 4 {
			bit, ok := r.take(1)
			if !ok {
				return nil, 0, fmt.Errorf("value %d of %d is cut off", i, n)
			}
			if bit == 0 {
				break
			}
			ones++
		}
		w := widths[ones]
		raw, ok := r.take(w)
		if !ok {
			return nil, 0, fmt.Errorf("value %d of %d is cut off", i, n)
		}
		if w > 0 && raw>>(w-1) != 0 {
			raw |= math.MaxUint64 << w // the sign
		}
		delta += raw
		out[i] = out[i-1] + delta
	}
	return out, (r.next + 7) / 8, nil
}
