package slatedb

import (
	"encoding/json"
	"time"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// CheckpointKind says what a checkpoint looks like from storage alone. It is
// for people's eyes: no rule may release anything because of it, for four
// kinds differ in nothing but their lifetime, which users can set.
type CheckpointKind string

// The kinds, and what makes a checkpoint look like one. Only releases from
// 0.12 to 0.18 with default settings were looked at.
const (
	// KindNamed: it has a name. Tools and people make these; the core's
	// own never have one.
	KindNamed CheckpointKind = "named"
	// KindPin: no name, no expiry. The final checkpoint that a clone put
	// into its parent, or an unnamed one of an application (OpenData's
	// time series make some). The clone's own manifest can prove the first:
	// it lists the id.
	KindPin CheckpointKind = "clone-pin"
	// KindSource: no name, and exactly 300 s from creation to expiry. Made
	// when a clone is asked for without a checkpoint.
	KindSource CheckpointKind = "clone-source"
	// KindGuard: no name, and exactly 900 s from creation to expiry. A
	// compactor keeps its inputs with it. From 0.17 on its lifetime is a
	// setting; and a reader with the default lifetime of 600 s that was
	// refreshed at its half looks alike for a moment.
	KindGuard CheckpointKind = "guard"
	// KindReader: no name, and any other lifetime. A managed reader makes
	// it, replaces it when tables change and prolongs it otherwise.
	KindReader CheckpointKind = "reader"
)

const (
	sourceLifetime = 300 * time.Second
	guardLifetime  = 900 * time.Second
)

// KindOf classifies c for display.
func KindOf(c manifest.Checkpoint) CheckpointKind {
	switch {
	case c.Named:
		return KindNamed
	case c.Expire.IsZero():
		return KindPin
	case c.Lifetime() == sourceLifetime:
		return KindSource
	case c.Lifetime() == guardLifetime:
		return KindGuard
	}
	return KindReader
}

// CheckpointRow is a checkpoint with what can be said of it at one moment.
type CheckpointRow struct {
	manifest.Checkpoint
	Kind CheckpointKind
	// Expired: the next run of a collector removes it.
	Expired bool
}

// Checkpoints returns the checkpoints of h in the manifest's order, as they
// are at now. It is empty for a head without a manifest.
func (h *Head) Checkpoints(now time.Time) []CheckpointRow {
	if h.Manifest == nil {
		return nil
	}
	rows := make([]CheckpointRow, len(h.Manifest.Checkpoints))
	for i, c := range h.Manifest.Checkpoints {
		rows[i] = CheckpointRow{Checkpoint: c, Kind: KindOf(c), Expired: c.Expired(now)}
	}
	return rows
}

// MarshalJSON writes the checkpoint as [manifest.JSON] has it, with kind and
// expired.
func (r CheckpointRow) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		manifest.CheckpointJSON
		Kind    CheckpointKind `json:"kind"`
		Expired bool           `json:"expired"`
	}{r.Checkpoint.JSON(), r.Kind, r.Expired})
}
