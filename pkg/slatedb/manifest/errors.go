package manifest

import (
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/quarry-db/quarry/pkg/slatedb/internal/fb"
)

// ErrEmpty says that an object has not even the two bytes of a version. A
// database whose newest manifest is so cannot be opened by anyone.
var ErrEmpty = errors.New("empty manifest")

// ErrCorrupt is wrapped by every *[FieldError]: the object is not what any
// release of SlateDB writes or reads.
var ErrCorrupt = fb.ErrCorrupt

// VersionError says that an object has a version that this package cannot
// read.
type VersionError struct {
	Format  string // "manifest" or "compactions"
	Version uint16
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("%s format version %d is not one of 1, 2; a newer SlateDB may have written it, read it with a newer quarry", e.Format, e.Version)
}

// FieldError says which field of an object is wrong. It wraps what is wrong
// with it.
type FieldError struct {
	Field string // as in "compacted[0].ssts[3].info.index_len"
	Err   error
}

func (e *FieldError) Error() string { return fmt.Sprintf("field %s: %v", e.Field, e.Err) }

func (e *FieldError) Unwrap() error { return e.Err }

// Pill is the error for a manifest that is no manifest but a notice that the
// database is being deleted: version FF FF, then a JSON reason.
type Pill struct {
	// Reason is what follows the version, as text: fit to be printed, and
	// cut when it is long.
	Reason string
}

func (p *Pill) Error() string {
	return fmt.Sprintf("this database has been closed for deletion (pill manifest): %s", p.Reason)
}

// maxReason is the length in bytes to which a pill's reason is cut.
const maxReason = 4096

// newPill returns the pill with the given bytes behind its version. Anyone may
// have written them, so nothing of it reaches a terminal that is not text.
func newPill(b []byte) *Pill {
	cut := ""
	if len(b) > maxReason {
		b, cut = b[:maxReason], "…"
	}
	text := strings.Map(func(r rune) rune {
		if unicode.IsGraphic(r) {
			return r
		}
		if unicode.IsSpace(r) {
			return ' '
		}
		return unicode.ReplacementChar
	}, strings.ToValidUTF8(string(b), string(unicode.ReplacementChar)))
	if text = strings.TrimSpace(text); text == "" {
		text = "no reason given"
	}
	return &Pill{Reason: text + cut}
}
