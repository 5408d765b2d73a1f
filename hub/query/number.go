package query

import (
	"cmp"
	"math"
	"strconv"
	"strings"
	"time"
)

// number is a whole number exactly (sign and magnitude), or a float that is
// none. Positions and epochs use all 64 bits, so nothing goes through float64
// that does not have to.
type number struct {
	neg   bool
	mag   uint64
	f     float64
	fract bool // f counts, not mag
}

func integer(i int64) number {
	if i < 0 {
		return number{neg: true, mag: uint64(-i)}
	}
	return number{mag: uint64(i)}
}

func float(f float64) number {
	if f == math.Trunc(f) && math.Abs(f) < 1<<64 {
		if f < 0 {
			return number{neg: true, mag: uint64(-f)}
		}
		return number{mag: uint64(f)}
	}
	return number{f: f, fract: true}
}

func (n number) float() float64 {
	switch {
	case n.fract:
		return n.f
	case n.neg:
		return -float64(n.mag)
	}
	return float64(n.mag)
}

func (n number) compare(o number) int {
	switch {
	case n.fract || o.fract:
		return cmp.Compare(n.float(), o.float())
	case n.neg != o.neg:
		if n.neg {
			return -1
		}
		return 1
	case n.neg:
		return cmp.Compare(o.mag, n.mag)
	}
	return cmp.Compare(n.mag, o.mag)
}

func (n number) String() string {
	switch {
	case n.fract:
		return strconv.FormatFloat(n.f, 'g', -1, 64)
	case n.neg:
		return "-" + strconv.FormatUint(n.mag, 10)
	}
	return strconv.FormatUint(n.mag, 10)
}

// units of sizes. Letters alone are decimal, as disks are sold; with an i they
// are binary.
var units = map[string]float64{
	"": 1, "b": 1,
	"k": 1e3, "kb": 1e3, "ki": 1 << 10, "kib": 1 << 10,
	"m": 1e6, "mb": 1e6, "mi": 1 << 20, "mib": 1 << 20,
	"g": 1e9, "gb": 1e9, "gi": 1 << 30, "gib": 1 << 30,
	"t": 1e12, "tb": 1e12, "ti": 1 << 40, "tib": 1 << 40,
	"p": 1e15, "pb": 1e15, "pi": 1 << 50, "pib": 1 << 50,
}

// parseNumber reads 42, -1.5, 1e9, 1GiB, 2.5k.
func parseNumber(s string) (number, bool) {
	if s == "" || len(s) > 64 {
		return number{}, false
	}
	body, neg := strings.CutPrefix(s, "-")
	if u, err := strconv.ParseUint(body, 10, 64); err == nil {
		return number{neg: neg && u != 0, mag: u}, true
	}
	end := len(body)
	for end > 0 && (body[end-1] < '0' || body[end-1] > '9') && body[end-1] != '.' {
		end--
	}
	unit, ok := units[strings.ToLower(body[end:])]
	if !ok || end == 0 || strings.Trim(body[:end], "0123456789.eE+-") != "" {
		return number{}, false
	}
	if u, err := strconv.ParseUint(body[:end], 10, 64); err == nil && unit < 1<<60 && u <= math.MaxUint64/uint64(unit) {
		return number{neg: neg && u != 0, mag: u * uint64(unit)}, true
	}
	f, err := strconv.ParseFloat(body[:end], 64)
	if err != nil || math.IsInf(f*unit, 0) {
		return number{}, false
	}
	if neg {
		f = -f
	}
	return float(f * unit), true
}

// moment is a time, or one that counts from now.
type moment struct {
	t        time.Time
	relative bool
	off      time.Duration
}

func (m moment) at(now time.Time) time.Time {
	if m.relative {
		return now.Add(m.off)
	}
	return m.t
}

// parseMoment reads 2026-11-21T04:00:00Z, 2026-11-21, now, now-10m, now+1h30m.
func parseMoment(s string) (moment, bool) {
	if rest, ok := strings.CutPrefix(s, "now"); ok {
		if rest == "" {
			return moment{relative: true}, true
		}
		d, ok := parseAge(rest[1:])
		if rest[0] == '-' {
			d = -d
		} else if rest[0] != '+' {
			return moment{}, false
		}
		return moment{relative: true, off: d}, ok
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04Z07:00", time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return moment{t: t}, true
		}
	}
	return moment{}, false
}

// parseAge reads Go's durations, and days and weeks: 90s, 1h30m, 7d, 2w.
func parseAge(s string) (time.Duration, bool) {
	if s == "" || strings.ContainsAny(s, "+-") {
		return 0, false
	}
	var whole time.Duration
	for {
		i := strings.IndexAny(s, "dw")
		if i < 0 {
			break
		}
		n, err := strconv.ParseUint(s[:i], 10, 16)
		if err != nil {
			return 0, false
		}
		unit := 24 * time.Hour
		if s[i] == 'w' {
			unit *= 7
		}
		whole += time.Duration(n) * unit
		if s = s[i+1:]; s == "" {
			return whole, whole <= maxAge
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > maxAge || whole > maxAge {
		return 0, false
	}
	return whole + d, true
}

const maxAge = 100 * 365 * 24 * time.Hour

// ParseAge reads how old something may be: 30s, 10m, 1h30m, 7d, 2w.
func ParseAge(s string) (time.Duration, bool) { return parseAge(s) }
