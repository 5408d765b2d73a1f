package load

import (
	"math"
	"math/bits"
	"time"
)

// Histogram counts durations in buckets that are at most 1/16 wide of what
// they hold. Its size is fixed; the zero value is empty.
type Histogram struct {
	n      uint64
	max    time.Duration
	counts [64 * 16]uint64
}

// Add counts one duration.
func (h *Histogram) Add(d time.Duration) {
	d = max(d, 0)
	h.n++
	h.max = max(h.max, d)
	h.counts[bucketOf(uint64(d))]++
}

// Count is how many were added.
func (h *Histogram) Count() uint64 { return h.n }

// Max is the longest.
func (h *Histogram) Max() time.Duration { return h.max }

// Quantile is the duration that a share q of all does not exceed, rounded up
// by at most 1/16; zero when nothing was added.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	left := uint64(math.Ceil(q * float64(h.n)))
	left = max(1, min(left, h.n))
	for b, c := range h.counts {
		if c >= left {
			return min(time.Duration(endOf(b)), h.max)
		}
		left -= c
	}
	return h.max
}

// bucketOf: values below 32 have a bucket each, later each power of two has 16.
func bucketOf(v uint64) int {
	if v < 32 {
		return int(v)
	}
	e := bits.Len64(v) - 5 // v>>e is in 16…31
	return e*16 + int(v>>e)
}

// endOf is the largest value of a bucket.
func endOf(b int) uint64 {
	if b < 32 {
		return uint64(b)
	}
	e := b/16 - 1
	return (uint64(b-e*16)+1)<<e - 1
}
