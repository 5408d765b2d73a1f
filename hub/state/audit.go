package state

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// AuditEntry is one line of the audit: who did what, when and why. Entries are
// only ever added, numbered from 1 without gaps, and each holds the hash of the
// one before (P9).
type AuditEntry struct {
	Version int       `json:"version"` // 1
	Number  uint64    `json:"number" doc:"From 1, without gaps."`
	At      time.Time `json:"at" doc:"When, by the hub's clock."`
	Who     string    `json:"who" doc:"Who asked for it; hub: the hub itself, by a policy."`
	What    string    `json:"what" doc:"What was done, in one word: applied, removed, held, released, frozen, thawed, joined, activated, retiring, kept, retired, accepted, forgotten, approved, refused, decided, settled."`
	Of      string    `json:"of" doc:"What it was done to, as in policy/archives."`
	Why     string    `json:"why,omitempty" doc:"In words."`
	// Evidence is the SHA-256, in hex, of what the decision rests on.
	Evidence string `json:"evidence,omitempty" doc:"SHA-256 of what it rests on, in hex."`
	Previous string `json:"previous" doc:"Hash of the entry before; empty in the first."`
}

// AuditHead is the end of the audit: the newest entry and its hash. Whoever
// keeps one sees later whether the entries up to there are still those.
type AuditHead struct {
	Number uint64 `json:"number" doc:"0: there is no entry yet."`
	Hash   string `json:"hash" doc:"SHA-256 in hex; empty: there is no entry yet."`
}

func (h AuditHead) String() string { return fmt.Sprintf("%d:%s", h.Number, h.Hash) }

// ParseAuditHead reads what [AuditHead.String] wrote.
func ParseAuditHead(s string) (AuditHead, error) {
	n, hash, ok := strings.Cut(s, ":")
	number, err := strconv.ParseUint(n, 10, 64)
	if raw, herr := hex.DecodeString(hash); !ok || err != nil || herr != nil || len(raw) != sha256.Size {
		return AuditHead{}, fmt.Errorf("%q is no head of an audit: a number, a colon and 64 hex digits, as `quarry audit --verify` prints it", s)
	}
	return AuditHead{number, hash}, nil
}

const auditPrefix = "audit/"

// maxAudit bounds an entry, in bytes: its words are cut before.
const maxAudit = 16 << 10

// AuditKey is the key of an entry's record. Keys sort as numbers do.
func AuditKey(n uint64) string { return fmt.Sprintf("%s%020d", auditPrefix, n) }

// AuditNumber is the number of the entry with this key; other keys are an error.
func AuditNumber(key string) (uint64, error) {
	digits, ok := strings.CutPrefix(key, auditPrefix)
	n, err := strconv.ParseUint(digits, 10, 64)
	if !ok || err != nil || n == 0 || AuditKey(n) != key {
		return 0, fmt.Errorf("%q is no key of the audit", key)
	}
	return n, nil
}

var errNotAudit = errors.New("no entry of the audit that this version of quarry reads")

// DecodeAudit reads an entry. It is strict: what it has no field for is not
// covered by the hash.
func DecodeAudit(value []byte) (AuditEntry, error) {
	var e AuditEntry
	if len(value) > 2*maxAudit {
		return e, fmt.Errorf("%d bytes: %w", len(value), errNotAudit)
	}
	d := json.NewDecoder(bytes.NewReader(value))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		return AuditEntry{}, fmt.Errorf("%w: %w", err, errNotAudit)
	}
	if _, err := d.Token(); err != io.EOF {
		return AuditEntry{}, fmt.Errorf("something follows the entry: %w", errNotAudit)
	}
	if e.Version != 1 || e.Number == 0 {
		return AuditEntry{}, fmt.Errorf("version %d, number %d: %w", e.Version, e.Number, errNotAudit)
	}
	return e, nil
}

// Encode gives the entry as it is stored.
func (e *AuditEntry) Encode() []byte {
	b, err := json.Marshal(e)
	if err != nil {
		panic(err) // plain texts and a time of this millennium
	}
	return b
}

// Hash is the SHA-256, in hex, of the entry as it is stored, which the next one
// holds. It does not depend on how a copy is indented.
func (e *AuditEntry) Hash() string {
	sum := sha256.Sum256(e.Encode())
	return hex.EncodeToString(sum[:])
}

// AuditHead is the end of the audit as this state knows it.
func (s *State) AuditHead() AuditHead { return s.audited }

// audit adds an entry to the records of this step: Who, What and Of are needed,
// Why and Evidence wanted.
func (s *State) audit(e AuditEntry) {
	e.Version, e.Number, e.At, e.Previous = 1, s.audited.Number+1, s.wall.Round(0), s.audited.Hash
	for _, text := range []*string{&e.Who, &e.What, &e.Of, &e.Why, &e.Evidence} {
		*text = strings.ToValidUTF8(*text, "?")
		if most := maxAudit / 8; len(*text) > most {
			*text = strings.ToValidUTF8((*text)[:most], "") + "…"
		}
	}
	e.Who = cmp.Or(e.Who, "somebody")
	s.audited = AuditHead{e.Number, e.Hash()}
	s.out.Records = append(s.out.Records, Record{AuditKey(e.Number), e.Encode()})
}

// deeds are what the audit calls what the event log tells of.
var deeds = map[string]struct{ what, folder string }{
	catalog.EventPolicyApplied:  {"applied", policyFolder},
	catalog.EventPolicyRemoved:  {"removed", policyFolder},
	catalog.EventHoldApplied:    {"applied", holdFolder},
	catalog.EventHoldReleased:   {"released", holdFolder},
	catalog.EventFrozen:         {"frozen", freezeFolder},
	catalog.EventThawed:         {"thawed", freezeFolder},
	catalog.EventRegionJoining:  {"joined", regionFolder},
	catalog.EventRegionActive:   {"activated", regionFolder},
	catalog.EventRegionRetired:  {"retired", regionFolder},
	catalog.EventRegionRetiring: {"retiring", regionFolder},
	catalog.EventRegionStays:    {"kept", regionFolder},
}

// auditDeed adds what a person did to a document, a freeze or a region.
func (s *State) auditDeed(typ, by, why, about, what string) {
	d := deeds[typ]
	s.audit(AuditEntry{Who: by, What: cmp.Or(d.what, typ), Of: d.folder + about, Why: withWhy(what, why)})
}

// replayAudit takes an entry as the newest. Whether the chain is whole is for
// [VerifyAudit] to say: a hub with a damaged audit must still hold back.
func (s *State) replayAudit(rec Record) error {
	n, err := AuditNumber(rec.Key)
	if err != nil || n < s.audited.Number {
		return nil
	}
	e, err := DecodeAudit(rec.Value)
	if err != nil {
		sum := sha256.Sum256(rec.Value)
		s.audited = AuditHead{n, hex.EncodeToString(sum[:])}
		return nil
	}
	s.audited = AuditHead{n, e.Hash()}
	return nil
}

// AuditProblem is what is wrong with a copy of the audit.
type AuditProblem struct {
	Number uint64 `json:"number" doc:"The entry."`
	What   string `json:"what" doc:"edited, missing, swapped or unreadable."`
	Text   string `json:"text" doc:"A sentence."`
}

// AuditReport is what [VerifyAudit] found.
type AuditReport struct {
	Entries  int            `json:"entries"`
	Head     AuditHead      `json:"head"` // of the copy: keep it, to see later whether the end was cut off
	Problems []AuditProblem `json:"problems"`
}

// VerifyAudit looks whether records, in the order in which they are stored, are
// the audit from its first entry to head, whole and unchanged. It names entries
// that were edited, are missing, or stand in another's place.
//
// An end that was cut off, or a last entry that was edited, can only be seen
// against a head that somebody kept: pass the zero head when there is none. One
// who can write the store could also make all entries after one of them anew;
// that too is seen against a head that was kept elsewhere, and only so.
func VerifyAudit(records []Record, head AuditHead) AuditReport {
	r := AuditReport{Problems: []AuditProblem{}}
	found := func(n uint64, what, format string, args ...any) {
		r.Problems = append(r.Problems, AuditProblem{n, what, fmt.Sprintf(format, args...)})
	}
	type place struct {
		entry AuditEntry
		hash  string
		bad   bool
	}
	at := map[uint64]*place{}
	highest, before := uint64(0), uint64(0)
	for _, rec := range records {
		n, err := AuditNumber(rec.Key)
		if err != nil {
			continue
		}
		r.Entries++
		if n < before {
			found(n, "swapped", "entry %d stands after entry %d", n, before)
		}
		before = n
		highest = max(highest, n)
		p := &place{}
		switch e, err := DecodeAudit(rec.Value); {
		case err != nil:
			p.bad = true
			found(n, "unreadable", "entry %d cannot be read: %v", n, err)
		case e.Number != n:
			p.bad = true
			found(n, "swapped", "entry %d stands in the place of entry %d", e.Number, n)
		default:
			p.entry, p.hash = e, e.Hash()
		}
		if was := at[n]; was != nil && (was.bad || p.bad || was.hash != p.hash) {
			found(n, "edited", "entry %d is there twice, with different contents", n)
		}
		at[n] = p
	}
	last := max(highest, head.Number)
	missing := func(from, to uint64) {
		switch {
		case from > highest:
			found(from, "missing", "entries %d to %d are missing: the end was cut off", from, to)
		case from == to:
			found(from, "missing", "entry %d is missing", from)
		default:
			found(from, "missing", "entries %d to %d are missing", from, to)
		}
	}
	// Numbers come from whoever wrote the copy: gaps are walked by what is there.
	numbers := make([]uint64, 0, len(at))
	for n := range at {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	next := uint64(1)
	for _, n := range numbers {
		if n > next {
			missing(next, n-1)
		}
		next = n + 1
	}
	if last >= next && next != 0 {
		missing(next, last)
	}
	// An entry is vouched for by the one after it, the last one by the head. Of
	// two that do not fit the one that nobody vouches for is blamed.
	blamed := map[uint64]bool{}
	for i := len(numbers) - 1; i >= 0; i-- {
		n := numbers[i]
		p := at[n]
		if p.bad {
			continue
		}
		if n == head.Number && p.hash != head.Hash && !blamed[n] {
			blamed[n] = true
			found(n, "edited", "entry %d is not the one that the head %s was kept of", n, head)
		}
		if n == 1 && p.entry.Previous != "" && !blamed[n] {
			blamed[n] = true
			found(n, "edited", "entry 1 names a hash of an entry before it")
		}
		b := at[n-1]
		if n == 1 || b == nil || b.bad || b.hash == p.entry.Previous {
			continue
		}
		if blamed[n] {
			continue // what it says of the one before is not to be believed
		}
		blamed[n-1] = true
		if n == highest && n != head.Number {
			found(n-1, "edited", "entry %d or entry %d, the last one, was edited: the hash of one is not what the other says", n-1, n)
		} else {
			found(n-1, "edited", "entry %d was edited: its hash is not what entry %d says", n-1, n)
		}
	}
	if p := at[highest]; p != nil && !p.bad {
		r.Head = AuditHead{highest, p.hash}
	}
	slices.SortStableFunc(r.Problems, func(a, b AuditProblem) int { return cmp.Compare(a.Number, b.Number) })
	return r
}
