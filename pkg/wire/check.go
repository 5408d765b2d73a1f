package wire

import (
	"fmt"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// checker reads the fields of one value and remembers the first that is wrong.
type checker struct{ err error }

// slate reads a slate's name.
func (c *checker) slate(name string) string {
	if err := catalog.CheckName(name); err != nil && c.err == nil {
		c.err = fmt.Errorf("slate: %w", err)
	}
	return name
}

// root reads a root's key; a database may lie at the bucket's own root, whose
// key is empty.
func (c *checker) root(root string) string {
	if root == "" || root == "/" {
		return root
	}
	if err := catalog.CheckName(strings.Trim(root, "/")); err != nil && c.err == nil {
		c.err = fmt.Errorf("root: %w", err)
	}
	return root
}

// id reads something that identifies: short, printable, perhaps empty.
func (c *checker) id(field, v string) string {
	if c.err != nil {
		return v
	}
	if len(v) > maxName {
		c.err = fmt.Errorf("%s: %d bytes, at most %d: %w", field, len(v), maxName, catalog.ErrInvalid)
	}
	if !printable(v) {
		c.err = fmt.Errorf("%s %.100q: printable UTF-8 only: %w", field, v, catalog.ErrInvalid)
	}
	return v
}

func printable(v string) bool {
	for i := range len(v) {
		switch b := v[i]; {
		case b < 0x20 || b == 0x7f:
			return false
		case b >= utf8.RuneSelf:
			return utf8.ValidString(v[i:]) && !strings.ContainsFunc(v[i:], func(r rune) bool { return r < 0x20 || r == 0x7f })
		}
	}
	return true
}

// text reads something for people to read.
func (c *checker) text(field, v string) string {
	if c.err == nil && len(v) > maxText {
		c.err = fmt.Errorf("%s: %d bytes, at most %d: %w", field, len(v), maxText, catalog.ErrInvalid)
	}
	return v
}

// time reads a time that may be absent; then it is zero.
func (c *checker) time(field string, t *timestamppb.Timestamp) time.Time {
	if p := c.timePtr(field, t); p != nil {
		return *p
	}
	return time.Time{}
}

func (c *checker) timePtr(field string, t *timestamppb.Timestamp) *time.Time {
	v, err := Time(t)
	if err != nil && c.err == nil {
		c.err = fmt.Errorf("%s: %w", field, err)
	}
	return v
}

// CheckKey refuses a key that cannot travel: it is UTF-8 of bounded length. Only a placement at
// the bucket's own root has an empty one.
func CheckKey(kind uint32, key string) error {
	switch {
	case key == "" && kind != uint32(catalog.FactPlacement):
		return fmt.Errorf("empty key: %w", catalog.ErrInvalid)
	case len(key) > MaxKey:
		return fmt.Errorf("key of %d bytes, at most %d: %w", len(key), MaxKey, catalog.ErrInvalid)
	case !utf8.ValidString(key):
		return fmt.Errorf("key is not UTF-8: %w", catalog.ErrInvalid)
	}
	return nil
}

// latest is the latest time that JSON can say; what is later, such as an
// expiry in the far future, is shown as this.
var latest = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)

// Stamp puts a time on the wire; the zero time is absent. Times beyond the
// year 9999 become its last second.
func Stamp(t time.Time) *timestamppb.Timestamp {
	switch {
	case t.IsZero():
		return nil
	case t.After(latest):
		return timestamppb.New(latest)
	case t.Year() < 1:
		return nil
	}
	return timestamppb.New(t)
}

func stampOf(t *time.Time) *timestamppb.Timestamp {
	if t == nil {
		return nil
	}
	return Stamp(*t)
}

// Time reads a time off the wire, in UTC; nil when it is absent.
func Time(t *timestamppb.Timestamp) (*time.Time, error) {
	if t == nil {
		return nil, nil
	}
	if err := t.CheckValid(); err != nil {
		return nil, fmt.Errorf("%w: %w", err, catalog.ErrInvalid)
	}
	v := t.AsTime()
	return &v, nil
}

func finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }

// tidy makes a text that somebody else wrote fit to travel: names that people
// read may hold any bytes in a manifest.
func tidy(s string) string {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	return clip(s, maxText)
}

// clip cuts a text to at most n bytes of valid UTF-8.
func clip(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	const more = " …"
	s = s[:n-len(more)]
	for len(s) > 0 && !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s + more
}
