package snapshots

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// ErrUnreadablePointer is wrapped by every error about a latest.json that is
// there and cannot be trusted: empty, not JSON, of an unknown version, or at
// odds with itself.
var ErrUnreadablePointer = errors.New("pointer is unreadable")

// maxPointer is the size in bytes above which latest.json is refused unread.
// A real one with 255 retained snapshots, the most Restate can keep, has 60 KB.
const maxPointer = 1 << 20

// Pointer is what latest.json says.
type Pointer struct {
	// Version is "V1" (one snapshot) or "V2" (a list).
	Version   string
	Partition uint64
	// LogID is nil when a V1 pointer does not have it.
	LogID   *uint64
	Cluster string
	// Fingerprint of the cluster as a decimal number, "" when the pointer
	// does not have one. It exceeds 2^53, hence text.
	Fingerprint string
	Node        string
	CreatedAt   time.Time
	// ID, LSN and Path are the newest snapshot's.
	ID   string
	LSN  uint64
	Path string
	// Retained are all listed snapshots, newest first, the newest included.
	Retained []Reference
}

// Reference is one snapshot in a pointer's list.
type Reference struct {
	ID        string
	LSN       uint64
	CreatedAt time.Time
	Path      string
}

// ParsePointer reads a latest.json. Unknown fields are ignored, as Restate
// does. Every error wraps [ErrUnreadablePointer] and names the field.
func ParsePointer(b []byte) (Pointer, error) {
	p, err := parsePointer(b)
	if err != nil {
		return Pointer{}, fmt.Errorf("%w: %w", ErrUnreadablePointer, err)
	}
	return p, nil
}

func parsePointer(b []byte) (Pointer, error) {
	if len(bytes.TrimSpace(b)) == 0 {
		return Pointer{}, errors.New("it is empty")
	}
	f, err := parseFields(b)
	if err != nil {
		return Pointer{}, err
	}
	var p Pointer
	p.Version = f.text("version")
	if f.err == nil && p.Version != "V1" && p.Version != "V2" {
		return Pointer{}, fmt.Errorf("version %q is unknown, V1 and V2 are known", p.Version)
	}
	p.Partition = f.number("partition_id")
	if f.has("log_id") || p.Version == "V2" {
		n := f.number("log_id")
		p.LogID = &n
	}
	p.Cluster = f.text("cluster_name")
	p.Fingerprint = f.fingerprint()
	p.Node = f.text("node_name")
	newest := f.reference()
	p.ID, p.LSN, p.CreatedAt, p.Path = newest.ID, newest.LSN, newest.CreatedAt, newest.Path
	list := f.list("retained_snapshots")
	if f.err != nil {
		return Pointer{}, f.err
	}
	if p.Version == "V1" || len(list) == 0 {
		// Restate reads a V2 pointer without a list as a list of one.
		p.Retained = []Reference{newest}
		return p, nil
	}
	for i, raw := range list {
		f, err := parseFields(raw)
		if err != nil {
			return Pointer{}, fmt.Errorf("retained_snapshots[%d]: %w", i, err)
		}
		r := f.reference()
		if f.err != nil {
			return Pointer{}, fmt.Errorf("retained_snapshots[%d]: %w", i, f.err)
		}
		p.Retained = append(p.Retained, r)
	}
	return p, p.checkRetained(newest)
}

// checkRetained puts the list newest first and refuses one that does not fit
// the rest of the pointer: trusting either half would be a guess.
func (p *Pointer) checkRetained(newest Reference) error {
	slices.SortStableFunc(p.Retained, func(a, b Reference) int { return cmp.Compare(b.LSN, a.LSN) })
	paths := map[string]bool{}
	for _, r := range p.Retained {
		if paths[r.Path] {
			return fmt.Errorf("retained_snapshots lists %s twice", r.Path)
		}
		paths[r.Path] = true
		if r.LSN > newest.LSN {
			return fmt.Errorf("retained_snapshots lists LSN %d, above the pointer's own %d", r.LSN, newest.LSN)
		}
		if r.Path == newest.Path && (r.ID != newest.ID || r.LSN != newest.LSN) {
			return fmt.Errorf("retained_snapshots gives %s another id or LSN than the pointer itself", r.Path)
		}
	}
	if !paths[newest.Path] {
		return fmt.Errorf("retained_snapshots does not list %s, which the pointer itself points to", newest.Path)
	}
	return nil
}

// fields are the members of one JSON object. Names are compared exactly, which
// encoding/json's struct decoding would not do. The first failure stays in err
// and makes the rest return zero values.
type fields struct {
	members map[string]json.RawMessage
	err     error
}

func parseFields(b []byte) (*fields, error) {
	f := &fields{}
	if err := json.Unmarshal(b, &f.members); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	if f.members == nil {
		return nil, errors.New("not a JSON object: null")
	}
	return f, nil
}

func (f *fields) has(name string) bool {
	raw, ok := f.members[name]
	return ok && string(raw) != "null"
}

func (f *fields) get(name string, into any) {
	if f.err != nil {
		return
	}
	if !f.has(name) {
		f.err = fmt.Errorf("%s is missing", name)
		return
	}
	if err := json.Unmarshal(f.members[name], into); err != nil {
		f.err = fmt.Errorf("%s: %w", name, err)
	}
}

func (f *fields) text(name string) (s string) {
	f.get(name, &s)
	return s
}

// number reads an unsigned integer of up to 64 bits without passing through a
// float.
func (f *fields) number(name string) (n uint64) {
	f.get(name, &n)
	return n
}

func (f *fields) time(name string) (t time.Time) {
	s := f.text(name)
	if f.err != nil {
		return t
	}
	// This layout takes any number of fractional digits, none included.
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		f.err = fmt.Errorf("%s: %w", name, err)
	}
	return t.UTC()
}

func (f *fields) list(name string) (l []json.RawMessage) {
	if f.has(name) {
		f.get(name, &l)
	}
	return l
}

func (f *fields) fingerprint() string {
	if f.err != nil || !f.has("cluster_fingerprint") {
		return ""
	}
	return strconv.FormatUint(f.number("cluster_fingerprint"), 10)
}

func (f *fields) reference() Reference {
	r := Reference{
		ID:        f.text("snapshot_id"),
		LSN:       f.lsn("min_applied_lsn"),
		CreatedAt: f.time("created_at"),
		Path:      f.text("path"),
	}
	if f.err == nil {
		f.err = checkFolderPath(r.Path)
	}
	return r
}

// lsn reads a position. Restate's 0 means "invalid", so it is no position.
func (f *fields) lsn(name string) uint64 {
	n := f.number(name)
	if f.err == nil && n == 0 {
		f.err = fmt.Errorf("%s is 0, which is not a position", name)
	}
	return n
}
