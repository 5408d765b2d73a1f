package catalog

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// Revision orders what one agent reports: the agent's start (unix
// milliseconds on its clock, also its identity) and a counter within it.
// Revisions of different starts are ordered by start, but nothing is resumed
// across starts.
type Revision struct {
	Start   uint64 `json:"start"`
	Counter uint64 `json:"counter"`
}

// Compare orders revisions.
func (r Revision) Compare(o Revision) int {
	return cmp.Or(cmp.Compare(r.Start, o.Start), cmp.Compare(r.Counter, o.Counter))
}

// ParseRevision reads what [Revision.String] wrote.
func ParseRevision(s string) (Revision, error) {
	start, counter, ok := strings.Cut(s, ".")
	var r Revision
	var err, err2 error
	r.Start, err = strconv.ParseUint(start, 10, 64)
	r.Counter, err2 = strconv.ParseUint(counter, 10, 64)
	if !ok || err != nil || err2 != nil {
		return Revision{}, fmt.Errorf("%q is no revision: %w", s, ErrInvalid)
	}
	return r, nil
}

func (r Revision) String() string { return fmt.Sprintf("%d.%d", r.Start, r.Counter) }

// FactKind says which value a [Fact] carries.
type FactKind uint8

// The kinds of facts agents send.
const (
	FactPlacement    FactKind = iota + 1 // Sighting; key: root
	FactRestorePoint                     // RestorePoint; key: root, NUL, id
	FactRegistration                     // Registration; key: id
	FactLease                            // Lease; key: slate, NUL, role-id
	FactFinding                          // Finding; key: code, NUL, root, NUL, object
	FactHold                             // Pin; key: root, NUL, id
	FactPermit                           // Permit, the one that rules; key: slate
)

// Fact is one record of an agent's report. Exactly the pointer of its kind is
// set, or none when Gone says why the fact is withdrawn. A placement is never
// withdrawn: it becomes a Sighting that says missing (P1).
type Fact struct {
	Kind     FactKind
	Key      string
	Revision Revision
	Gone     string
	// Sum is what this record adds to a [Digest]: computed from the bytes that
	// travelled, which may hold fields this process does not know. Zero for
	// facts that did not come over the wire. A withdrawn fact's is zero too.
	Sum Sum
	// Ordinal is what the session calls this placement in its moves; 0: nothing.
	Ordinal uint32

	Sighting     *Sighting
	RestorePoint *RestorePoint
	Registration *Registration
	Lease        *Lease
	Finding      *Finding
	Pin          *Pin
	Permit       *Permit
}

// PlacementKey is the key of a sighting's fact.
func PlacementKey(root string) string { return root }

// RestorePointKey is the key of a restore point's fact.
func RestorePointKey(root, id string) string { return root + "\x00" + id }

// LeaseKey is the key of a lease's fact.
func LeaseKey(slate, role, id string) string { return slate + "\x00" + role + "-" + id }

// FindingKey is the key of a finding's fact.
func FindingKey(code, root, object string) string { return code + "\x00" + root + "\x00" + object }
