package catalog

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Paths of what decisions leave in a region's bucket (DESIGN §5).
const (
	PermitsPrefix = Prefix + "permits/"
	JournalPrefix = Prefix + "journal/"
)

// Permit is .quarry/permits/<slate>/<n>.json: how far the owner of a slate may
// cut its history. Created if absent, never overwritten; the highest number
// rules. Owners read it again before each cut: without a permit that rules, is of
// this incarnation and has not expired, nothing may be cut.
type Permit struct {
	Version     int    `json:"version"` // 1
	Number      uint64 `json:"number"`  // from 1
	Slate       string `json:"slate"`
	Root        string `json:"root"`
	Incarnation string `json:"incarnation"`
	// UpTo is inclusive: everything at or below it may go. Nil: withdrawn, nothing may.
	UpTo           *uint64 `json:"up_to"`
	PositionDomain string  `json:"position_domain,omitempty"`
	Lineage        string  `json:"lineage,omitempty"`
	// Decision, Ledger, Term and Sequence say by what right.
	Decision string `json:"decision"`
	Ledger   string `json:"ledger"`
	Term     uint64 `json:"term"`
	Sequence uint64 `json:"sequence"`
	Evidence string `json:"evidence"` // SHA-256 in hex
	// Issued and NotAfter are by the agent's clock; after NotAfter it is no
	// permit any more.
	Issued   time.Time `json:"issued"`
	NotAfter time.Time `json:"not_after"`
}

// Rules reports whether p lets anything be cut at now, by the reader's clock,
// from the database of this incarnation.
func (p *Permit) Rules(incarnation string, now time.Time) bool {
	return p.UpTo != nil && p.Incarnation == incarnation && now.Before(p.NotAfter)
}

// PermitFolder is where the permits of a slate lie.
func PermitFolder(slate string) string { return PermitsPrefix + url.PathEscape(slate) + "/" }

// PermitKey is the key of a slate's n-th permit.
func PermitKey(slate string, n uint64) string {
	return fmt.Sprintf("%s%020d.json", PermitFolder(slate), n)
}

// ParsePermitKey reads a key that [PermitKey] gave.
func ParsePermitKey(key string) (slate string, n uint64, ok bool) {
	escaped, name, ok := strings.Cut(strings.TrimPrefix(key, PermitsPrefix), "/")
	if !ok {
		return "", 0, false
	}
	slate, err := url.PathUnescape(escaped)
	if err != nil {
		return "", 0, false
	}
	n, err = strconv.ParseUint(strings.TrimSuffix(name, ".json"), 10, 64)
	return slate, n, err == nil && n > 0 && PermitKey(slate, n) == key
}

// DecodePermit reads a permit's object. A refusal wraps [ErrInvalid].
func DecodePermit(raw []byte) (Permit, error) {
	var p Permit
	if len(raw) > MaxDeclared {
		return p, fmt.Errorf("permit of %d bytes, at most %d: %w", len(raw), MaxDeclared, ErrInvalid)
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return p, fmt.Errorf("permit: %w: %w", err, ErrInvalid)
	}
	return p, p.Validate()
}

// Validate checks a permit before it is written and after it is read.
func (p *Permit) Validate() error {
	if err := CheckName(p.Slate); err != nil {
		return fmt.Errorf("permit: slate: %w", err)
	}
	switch {
	case p.Version != 1:
		return fmt.Errorf("permit: version %d, this reads 1: %w", p.Version, ErrInvalid)
	case p.Number == 0 || p.Term == 0 || p.Sequence == 0:
		return fmt.Errorf("permit: number %d, term %d and sequence %d count from 1: %w", p.Number, p.Term, p.Sequence, ErrInvalid)
	case p.Incarnation == "" || p.Decision == "" || p.Ledger == "":
		return fmt.Errorf("permit: incarnation, decision and ledger are needed: %w", ErrInvalid)
	}
	for _, s := range []struct{ field, v string }{
		{"root", p.Root}, {"incarnation", p.Incarnation}, {"position_domain", p.PositionDomain}, {"lineage", p.Lineage},
		{"decision", p.Decision}, {"ledger", p.Ledger}, {"evidence", p.Evidence},
	} {
		if len(s.v) > 1024 || !printable(s.v) {
			return fmt.Errorf("permit: %s: at most 1024 bytes of printable text: %w", s.field, ErrInvalid)
		}
	}
	return nil
}

// Pin is a checkpoint of ours in a slate, which holds its history: SlateDB's
// own collector obeys it, whether Quarry runs or not.
type Pin struct {
	Slate       string `json:"slate"`
	Region      string `json:"region" doc:"Set by the hub."`
	Root        string `json:"root"`
	Incarnation string `json:"incarnation"`
	ID          string `json:"id" doc:"Checkpoint id."`
	Name        string `json:"name" doc:"Begins with quarry: and says for what."`
	ManifestID  uint64 `json:"manifest_id" doc:"The manifest it pins."`
	// Position is the highest that it contains; what comes after it is not cut
	// because of this hold.
	Position       *uint64    `json:"position"`
	PositionDomain string     `json:"position_domain"`
	Lineage        string     `json:"lineage"`
	CreatedAt      *time.Time `json:"created_at" doc:"By the maker's clock."`
	HeldBytes      *uint64    `json:"held_bytes" doc:"Bytes of the tables that it pins; null: not known."`
	ObservedAt     time.Time  `json:"observed_at" doc:"When the hub received it."`
}

// PermitFactKey is the key of the fact of a permit: the one that rules a slate.
func PermitFactKey(slate string) string { return slate }

// PinKey is the key of the fact of a pin.
func PinKey(root, id string) string { return root + "\x00" + id }
