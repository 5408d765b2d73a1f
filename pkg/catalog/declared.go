package catalog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// Paths of Quarry's own objects below its prefix in a region's bucket
// (DESIGN §5).
const (
	Prefix             = ".quarry/"
	RegionKey          = Prefix + "region.json"
	CatalogRoot        = Prefix + "catalog"
	InboxPrefix        = Prefix + "inbox/"
	LeasesPrefix       = Prefix + "leases/"
	IncarnationsPrefix = Prefix + "incarnations/"
)

// MaxDeclared is the largest object, in bytes, that others may drop for
// Quarry; larger ones are refused unread.
const MaxDeclared = 64 << 10

// RegionDescriptor is .quarry/region.json: whose bucket this is. Written once,
// create-if-absent, never overwritten.
type RegionDescriptor struct {
	Version int    `json:"version"` // 1
	Region  string `json:"region"`
	// Bucket is the bucket's incarnation, a UUID: another bucket put in its
	// place has another.
	Bucket  string    `json:"bucket"`
	Catalog string    `json:"catalog"` // root of the catalog slate
	Created time.Time `json:"created"`
}

// Action says what an inbox object asks for.
type Action string

// What an inbox object may ask for.
const (
	Register   Action = "register"
	Deregister Action = "deregister"
)

// Registration is what an owner declares about a slate: one JSON object in
// the inbox. Unknown fields are kept out, not refused, so that newer
// registrants can talk to older agents.
type Registration struct {
	Version int               `json:"version"` // 1
	Action  Action            `json:"action"`
	Slate   string            `json:"slate"`
	Root    string            `json:"root"`
	Kind    Kind              `json:"kind,omitempty"`
	Owner   string            `json:"owner,omitempty"`
	Contact string            `json:"contact,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	Domain  string            `json:"position_domain,omitempty"`
	At      time.Time         `json:"at"`
	// ID is the name of the inbox object without folder and ending. Ids are
	// ULIDs: the lowest of a root is the first registration, which stands.
	ID string `json:"id,omitempty"`
}

// Lease is an optional heartbeat of an owner or a reader.
type Lease struct {
	Version int       `json:"version"` // 1
	Slate   string    `json:"slate"`
	Role    string    `json:"role"` // owner, writer, reader
	ID      string    `json:"id"`
	Holder  string    `json:"holder"`
	TTL     float64   `json:"ttl_seconds"`
	Renewed time.Time `json:"renewed"` // holder's clock, shown and never used
	// Touched is when the store says the object changed.
	Touched time.Time `json:"touched"`
}

// ErrInvalid is wrapped by every refusal of a declared object.
var ErrInvalid = errors.New("invalid")

// DecodeRegistration reads one inbox object. key is the object's key, for the
// id and for errors. A refusal wraps [ErrInvalid] and says what would be right.
func DecodeRegistration(key string, b []byte) (Registration, error) {
	var r Registration
	if err := decodeDeclared(b, &r); err != nil {
		return r, fmt.Errorf("registration %s: %w", key, err)
	}
	if r.ID = strings.TrimSuffix(key[strings.LastIndexByte(key, '/')+1:], ".json"); r.ID == "" {
		return r, fmt.Errorf("registration %s: its object has no name before .json: %w", key, ErrInvalid)
	}
	if err := r.Validate(); err != nil {
		return r, fmt.Errorf("registration %s: %w", key, err)
	}
	return r, nil
}

// Validate checks a registration before it is written and after it is read.
func (r *Registration) Validate() error {
	switch {
	case r.Version != 1:
		return fmt.Errorf("version %d: this agent reads version 1: %w", r.Version, ErrInvalid)
	case r.Action != Register && r.Action != Deregister:
		return fmt.Errorf("action %q: write \"register\" or \"deregister\": %w", r.Action, ErrInvalid)
	}
	if err := CheckName(r.Slate); err != nil {
		return fmt.Errorf("slate: %w", err)
	}
	if err := CheckName(strings.Trim(r.Root, "/")); err != nil && r.Action == Register {
		return fmt.Errorf("root: %w", err)
	}
	if r.Kind != "" && !r.Kind.Valid() {
		return fmt.Errorf("kind %q: one of %v: %w", r.Kind, Kinds, ErrInvalid)
	}
	for _, s := range []struct{ field, v string }{{"owner", r.Owner}, {"contact", r.Contact}, {"position_domain", r.Domain}} {
		if len(s.v) > 512 || !printable(s.v) {
			return fmt.Errorf("%s: at most 512 bytes of printable text: %w", s.field, ErrInvalid)
		}
	}
	if len(r.Labels) > 64 {
		return fmt.Errorf("labels: %d, at most 64: %w", len(r.Labels), ErrInvalid)
	}
	for k, v := range r.Labels {
		if k == "" || len(k) > 256 || len(v) > 256 || !printable(k) || !printable(v) {
			return fmt.Errorf("label %q: key and value of at most 256 printable bytes: %w", k, ErrInvalid)
		}
	}
	return nil
}

// DecodeLease reads one lease object; touched is the store's time of its last
// change.
func DecodeLease(key string, b []byte, touched time.Time) (Lease, error) {
	var l Lease
	if err := decodeDeclared(b, &l); err != nil {
		return l, fmt.Errorf("lease %s: %w", key, err)
	}
	if err := CheckName(l.Slate); err != nil {
		return l, fmt.Errorf("lease %s: slate: %w", key, err)
	}
	if l.Role != "owner" && l.Role != "writer" && l.Role != "reader" {
		return l, fmt.Errorf("lease %s: role %q: one of owner, writer, reader: %w", key, l.Role, ErrInvalid)
	}
	if l.ID == "" || len(l.ID) > 256 || !printable(l.ID) || len(l.Holder) > 512 || !printable(l.Holder) {
		return l, fmt.Errorf("lease %s: id and holder: printable text of at most 256 and 512 bytes: %w", key, ErrInvalid)
	}
	l.Touched = touched
	return l, nil
}

// DecodeRegion reads .quarry/region.json.
func DecodeRegion(b []byte) (RegionDescriptor, error) {
	var d RegionDescriptor
	if err := decodeDeclared(b, &d); err != nil {
		return d, fmt.Errorf("%s: %w", RegionKey, err)
	}
	if d.Version != 1 {
		return d, fmt.Errorf("%s: version %d, this agent reads 1: %w", RegionKey, d.Version, ErrInvalid)
	}
	if d.Region == "" || d.Bucket == "" {
		return d, fmt.Errorf("%s: region and bucket must not be empty: %w", RegionKey, ErrInvalid)
	}
	return d, nil
}

func decodeDeclared(b []byte, into any) error {
	if len(b) > MaxDeclared {
		return fmt.Errorf("%d bytes, at most %d: %w", len(b), MaxDeclared, ErrInvalid)
	}
	if !utf8.Valid(b) {
		return fmt.Errorf("not UTF-8: %w", ErrInvalid)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%w: %w", err, ErrInvalid)
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("something follows the JSON object: %w", ErrInvalid)
	}
	return nil
}

// Valid reports whether k is one of [Kinds].
func (k Kind) Valid() bool {
	for _, x := range Kinds {
		if k == x {
			return true
		}
	}
	return false
}

// CheckName refuses names that are empty, too long, not printable, or have a
// segment that would climb out of a folder.
func CheckName(name string) error {
	if name == "" {
		return fmt.Errorf("empty name: %w", ErrInvalid)
	}
	if len(name) > 900 {
		return fmt.Errorf("name of %d bytes, at most 900: %w", len(name), ErrInvalid)
	}
	if !printable(name) {
		return fmt.Errorf("name %q: printable UTF-8 only: %w", name, ErrInvalid)
	}
	for seg := range strings.SplitSeq(name, "/") {
		if seg == "" || seg == "." || seg == ".." {
			return fmt.Errorf("name %q: empty, \".\" and \"..\" segments are refused: %w", name, ErrInvalid)
		}
	}
	return nil
}

func printable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, r := range s {
		if r < 0x20 || r == 0x7f {
			return false
		}
	}
	return true
}
