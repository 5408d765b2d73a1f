package catalog

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// What the catalog slate keeps of a region beside declarations. Each has a
// version, 1, and the name and the root it speaks of, so that a row says what it
// is without its key.

// PlacementRow is slate/<name>/placement: what was last seen at a root. One
// that is seen no more stays, with seen "missing" and why (P1). Its checkpoints
// are those that are neither readers nor Quarry's holds, which have rows of
// their own.
type PlacementRow struct {
	Version int `json:"version"`
	Sighting
}

// WriterRow is slate/<name>/writer/<id>: who holds the writer epoch, as the
// newest manifest says (id epoch-<n>, one at a time), or who says by a lease
// that it writes (id lease-<id>).
type WriterRow struct {
	Version int     `json:"version"`
	Slate   string  `json:"slate"`
	Root    string  `json:"root,omitempty"`
	From    string  `json:"from"` // manifest or lease
	Epoch   *uint64 `json:"epoch,omitempty"`
	Lease   *Lease  `json:"lease,omitempty"`
}

// ReaderRow is slate/<name>/reader/<id>: a checkpoint without a name, which
// counts as a reader whatever its lifetime (id: the checkpoint's), or a
// reader's lease (id lease-<id>).
type ReaderRow struct {
	Version    int         `json:"version"`
	Slate      string      `json:"slate"`
	Root       string      `json:"root,omitempty"`
	From       string      `json:"from"` // checkpoint or lease
	Checkpoint *Checkpoint `json:"checkpoint,omitempty"`
	Lease      *Lease      `json:"lease,omitempty"`
}

// OwnerLeaseRow is slate/<name>/owner/<id>: a lease of role owner. Who is
// responsible is in the registration.
type OwnerLeaseRow struct {
	Version int    `json:"version"`
	Slate   string `json:"slate"`
	Lease   *Lease `json:"lease"`
}

// HoldRow is slate/<name>/hold/<id>: a checkpoint that Quarry made to keep
// history, as the newest manifest shows it. Its name begins with [HoldName].
type HoldRow struct {
	Version    int         `json:"version"`
	Slate      string      `json:"slate"`
	Root       string      `json:"root"`
	Checkpoint *Checkpoint `json:"checkpoint"`
}

// HoldName begins the name of every checkpoint that is a hold of Quarry's.
const HoldName = "quarry:"

// PermitRow is permit/<name>: the permit that rules, a copy for whoever follows
// the catalog. Owners go by the numbered object in .quarry/permits/, never by
// this row alone.
type PermitRow struct {
	Version     int    `json:"version"`
	Slate       string `json:"slate"`
	Root        string `json:"root"`
	Incarnation string `json:"incarnation"`
	Number      uint64 `json:"number"` // of the object; the highest rules
	Term        uint64 `json:"term"`   // of the hub that decided
	Decision    string `json:"decision"`
	// UpTo: everything at or below it may be trimmed; nil: nothing may.
	UpTo           *uint64    `json:"up_to"`
	PositionDomain string     `json:"position_domain"`
	NotAfter       *time.Time `json:"not_after"` // nil: it is not valid
}

// TombstoneRow is tombstone/<name>/<incarnation>: a slate was deleted here. The
// evidence is in the object that it names.
type TombstoneRow struct {
	Version     int        `json:"version"`
	Slate       string     `json:"slate"`
	Root        string     `json:"root"`
	Incarnation string     `json:"incarnation"`
	Object      string     `json:"object"` // key in .quarry/tombstones/
	Decision    string     `json:"decision"`
	At          *time.Time `json:"at"` // agent's clock; nil: not known
}

// The paths of a slate's rows. Names and ids are percent-encoded.

// SlatePath is what the paths of all rows of a slate but its permit and its
// tombstones begin with.
func SlatePath(slate string) string { return "slate/" + url.PathEscape(slate) + "/" }

// BesidePath is SlatePath for the second root of a name: an owner gave another
// root the name that is this one's key, and this one was not registered.
func BesidePath(slate string) string { return SlatePath(slate) + "beside/" }

// PermitPath is the row of a slate's permit.
func PermitPath(slate string) string { return "permit/" + url.PathEscape(slate) }

// TombstonePath is the row of one deletion of a slate.
func TombstonePath(slate, incarnation string) string {
	return "tombstone/" + url.PathEscape(slate) + "/" + url.PathEscape(incarnation)
}

// What follows [SlatePath] or [BesidePath].
const (
	PlacementBranch = "placement"
	writerBranch    = "writer/"
	readerBranch    = "reader/"
	ownerBranch     = "owner/"
	holdBranch      = "hold/"
)

// SightRows are the rows of what was seen at a root, by what follows
// [SlatePath].
func SightRows(s Sighting) map[string]any {
	rows := map[string]any{}
	place := PlacementRow{Version: 1, Sighting: s}
	place.Checkpoints = []Checkpoint{}
	for i := range s.Checkpoints {
		switch c := &s.Checkpoints[i]; {
		case c.Name == "":
			rows[readerBranch+url.PathEscape(c.ID)] = ReaderRow{Version: 1, Slate: s.Slate, Root: s.Root, From: "checkpoint", Checkpoint: c}
		case strings.HasPrefix(c.Name, HoldName):
			rows[holdBranch+url.PathEscape(c.ID)] = HoldRow{Version: 1, Slate: s.Slate, Root: s.Root, Checkpoint: c}
		default:
			place.Checkpoints = append(place.Checkpoints, *c)
		}
	}
	if s.WriterEpoch != nil {
		rows[fmt.Sprintf("%sepoch-%d", writerBranch, *s.WriterEpoch)] = WriterRow{Version: 1, Slate: s.Slate, Root: s.Root, From: "manifest", Epoch: s.WriterEpoch}
	}
	rows[PlacementBranch] = place
	return rows
}

// LeaseRow is the path and the row of a lease.
func LeaseRow(l Lease) (path string, row any) {
	id := "lease-" + url.PathEscape(l.ID)
	switch l.Role {
	case "writer":
		return SlatePath(l.Slate) + writerBranch + id, WriterRow{Version: 1, Slate: l.Slate, From: "lease", Lease: &l}
	case "reader":
		return SlatePath(l.Slate) + readerBranch + id, ReaderRow{Version: 1, Slate: l.Slate, From: "lease", Lease: &l}
	default:
		return SlatePath(l.Slate) + ownerBranch + id, OwnerLeaseRow{Version: 1, Slate: l.Slate, Lease: &l}
	}
}

// Still is s without the numbers that go on while nothing happens to it but
// writes and compactions: two sightings whose Still is equal are the same to
// whoever asks what exists, who holds it and who reads it.
func Still(s Sighting) Sighting {
	s.ManifestID, s.LastL0Seq, s.ReplayAfterWAL, s.WALTail, s.WALGap = nil, nil, nil, nil, nil
	s.L0Count, s.RunCount, s.SegmentCount, s.Compaction = nil, nil, nil, ""
	s.Position, s.TrimmedTo, s.Archived, s.Backlog = nil, nil, nil, nil
	s.Bytes, s.ListedBytes, s.ListedObjects, s.ListedAt = nil, nil, nil, nil
	return s
}

// Branch takes the path of a row below slate/ apart: the slate's name, whether
// it is the second root of that name, and what follows. It is false for other
// paths.
func Branch(path string) (slate string, beside bool, rest string, ok bool) {
	rest, ok = strings.CutPrefix(path, "slate/")
	if !ok {
		return "", false, "", false
	}
	name, rest, ok := strings.Cut(rest, "/")
	slate, err := url.PathUnescape(name)
	if !ok || err != nil || slate == "" || url.PathEscape(slate) != name {
		return "", false, "", false
	}
	rest, beside = strings.CutPrefix(rest, "beside/")
	return slate, beside, rest, rest != ""
}

// ReadRow reads the value of a row as what its path says it is: a pointer to
// one of the types of rows, or a [Registration]. Fields that this process does
// not know are kept out. It returns nil without an error for paths that it does
// not know: newer agents have more. A refusal wraps [ErrInvalid].
func ReadRow(r Row) (any, error) {
	var into any
	name, _, rest, ok := Branch(r.Path)
	switch {
	case HoldsDeclaration(r.Path):
		var id struct{ ID string }
		if err := json.Unmarshal(r.Value, &id); err != nil || id.ID == "" {
			return nil, fmt.Errorf("row %q: a declaration without an id: %w", r.Path, ErrInvalid)
		}
		reg, err := ReadRegistration(id.ID+".json", r.Value)
		return reg, err
	case ok && rest == PlacementBranch:
		into = new(PlacementRow)
	case ok && strings.HasPrefix(rest, writerBranch):
		into = new(WriterRow)
	case ok && strings.HasPrefix(rest, readerBranch):
		into = new(ReaderRow)
	case ok && strings.HasPrefix(rest, ownerBranch):
		into = new(OwnerLeaseRow)
	case ok && strings.HasPrefix(rest, holdBranch):
		into = new(HoldRow)
	case strings.HasPrefix(r.Path, "permit/"):
		into = new(PermitRow)
	case strings.HasPrefix(r.Path, "tombstone/"):
		into = new(TombstoneRow)
	default:
		return nil, nil
	}
	if err := json.Unmarshal(r.Value, into); err != nil {
		return nil, fmt.Errorf("row %q: %w: %w", r.Path, err, ErrInvalid)
	}
	if why := amiss(into, r.Path, name); why != "" {
		return nil, fmt.Errorf("row %q: %s: %w", r.Path, why, ErrInvalid)
	}
	return into, nil
}

// amiss says what is wrong with a row at path, which is of a slate unless it is
// of a permit or a tombstone.
func amiss(row any, path, slate string) string {
	said := slate
	switch x := row.(type) {
	case *PlacementRow:
		switch said = x.Slate; {
		case x.Root == "":
			return "no root"
		case !slices.Contains([]Seen{SeenLive, SeenMissing, SeenUnreadable}, x.Seen):
			return fmt.Sprintf("seen %q", x.Seen)
		}
	case *WriterRow:
		if said = x.Slate; x.Epoch == nil && x.Lease == nil {
			return "neither an epoch nor a lease"
		}
	case *ReaderRow:
		if said = x.Slate; x.Checkpoint == nil && x.Lease == nil {
			return "neither a checkpoint nor a lease"
		}
	case *OwnerLeaseRow:
		if said = x.Slate; x.Lease == nil {
			return "no lease"
		}
	case *HoldRow:
		if said = x.Slate; x.Checkpoint == nil {
			return "no checkpoint"
		}
	case *PermitRow:
		if x.Slate == "" || x.Incarnation == "" || PermitPath(x.Slate) != path {
			return fmt.Sprintf("it permits %q of %q", x.Incarnation, x.Slate)
		}
	case *TombstoneRow:
		if x.Slate == "" || x.Incarnation == "" || TombstonePath(x.Slate, x.Incarnation) != path {
			return fmt.Sprintf("it is of %q of %q", x.Incarnation, x.Slate)
		}
	}
	if said != slate {
		return fmt.Sprintf("it speaks of %q", said)
	}
	return ""
}
