package regions

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// Duration is a length of time in a document: as Go writes it, with days and
// weeks beside, as in 10m, 36h, 7d, 2w. Never negative.
type Duration time.Duration

// ParseDuration reads one.
func ParseDuration(s string) (Duration, error) {
	bad := func() (Duration, error) {
		return 0, fmt.Errorf("%q: a length of time such as 10m, 36h or 7d: %w", s, ErrInvalid)
	}
	for suffix, unit := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if n, ok := strings.CutSuffix(s, suffix); ok {
			days, err := strconv.ParseUint(n, 10, 32)
			if err != nil || days > uint64(maxDuration/unit) {
				return bad()
			}
			return Duration(time.Duration(days) * unit), nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > maxDuration {
		return bad()
	}
	return Duration(d), nil
}

// maxDuration is a hundred years: longer is a slip of the pen.
const maxDuration = 100 * 365 * 24 * time.Hour

func (d Duration) String() string {
	t := time.Duration(d)
	if day := 24 * time.Hour; t >= day && t%day == 0 {
		return strconv.FormatInt(int64(t/day), 10) + "d"
	}
	s := t.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// UnmarshalText reads what [ParseDuration] does.
func (d *Duration) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDuration(string(b))
	return err
}

// MarshalText writes what [ParseDuration] reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Size is a number of bytes in a document, as in 512KiB, 50MiB, 1GB or 1000.
type Size uint64

// ParseSize reads one.
func ParseSize(s string) (Size, error) {
	n, err := humanize.ParseBytes(s)
	if err != nil {
		return 0, fmt.Errorf("%q: a number of bytes such as 50MiB or 1GB: %w", s, ErrInvalid)
	}
	return Size(n), nil
}

func (s Size) String() string { return humanize.IBytes(uint64(s)) }

// UnmarshalText reads what [ParseSize] does.
func (s *Size) UnmarshalText(b []byte) (err error) {
	*s, err = ParseSize(string(b))
	return err
}

// MarshalText writes the exact number, in bytes.
func (s Size) MarshalText() ([]byte, error) { return strconv.AppendUint(nil, uint64(s), 10), nil }
