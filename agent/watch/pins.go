package watch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/opendata"
	"github.com/quarry-db/quarry/pkg/slatedb"
	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// isOurs reports whether a checkpoint is a hold of Quarry's.
func isOurs(c manifest.Checkpoint) bool { return strings.HasPrefix(c.Name, catalog.HoldName) }

// sizesOf are the keys of all tables of a manifest, with their bytes, those of
// other databases that a clone borrows among them.
func sizesOf(root string, m *manifest.Manifest) map[string]uint64 {
	external := map[[16]byte]string{}
	for _, e := range m.ExternalDBs {
		for _, id := range e.Tables {
			external[id] = path.Clean(e.Path)
		}
	}
	sizes := map[string]uint64{}
	m.Tables(func(t *manifest.Table) {
		of := root
		if p, ok := external[t.ID]; ok {
			of = p
		}
		sizes[slatedb.TableKey(of, t.ID)] = t.Info.Size()
	})
	return sizes
}

// tellPins tells the holds of Quarry's among the checkpoints: where each is and
// what it costs. One whose manifest is gone is told too, for somebody has to
// let go of it.
func (d *database) tellPins(checkpoints []manifest.Checkpoint) {
	d.mu.Lock()
	newest := d.newest
	d.mu.Unlock()
	var pins map[string]catalog.Pin
	for _, cp := range checkpoints {
		if !isOurs(cp) {
			continue
		}
		h := d.care.holds[cp.ID]
		p := catalog.Pin{ID: cp.ID.String(), Name: clip(cp.Name), ManifestID: cp.ManifestID, PositionDomain: h.domain}
		if h.dangling == "" && h.unread == "" {
			p.Position = h.position
			held := uint64(0)
			for key, size := range h.needs {
				if _, still := newest[key]; !still {
					held += size
				}
			}
			if newest != nil {
				p.HeldBytes = &held
			}
		}
		if cp.Create.Unix() > 0 {
			p.CreatedAt = ptr(cp.Create)
		}
		if pins == nil {
			pins = map[string]catalog.Pin{}
		}
		pins[p.ID] = p
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.care.gapNotes = d.gaps(checkpoints, d.sight.TrimmedTo)
	if d.care.of == d.sight.Incarnation {
		d.replacePins(pins, "the checkpoint was removed")
	}
}

// replacePins is for callers who hold mu.
func (s *slate) replacePins(pins map[string]catalog.Pin, whyGone string) {
	if s.stopped.Load() || len(pins) == 0 && len(s.pins) == 0 {
		return
	}
	name := s.w.nameOf(s.root)
	for id, p := range pins {
		p.Slate, p.Root, p.Incarnation, p.Lineage = name, s.root, s.sight.Incarnation, s.sight.Lineage
		pins[id] = p
		if !reflect.DeepEqual(p, s.pins[id]) {
			s.w.to.Set(catalog.Fact{Kind: catalog.FactHold, Key: catalog.PinKey(s.root, id), Pin: &p})
		}
	}
	for id := range s.pins {
		if _, still := pins[id]; !still {
			s.w.to.Withdraw(catalog.FactHold, catalog.PinKey(s.root, id), whyGone)
		}
	}
	s.pins = pins
}

// logPositions are the position of the newest entry of a log that a checkpoint
// contains, and how far the log was cut then; nil: there is none, or it cannot
// be told now.
func (d *database) logPositions(ctx context.Context, checkpoint uuid.UUID) (head, trimmed *uint64, err error) {
	store := &dear{eyes: d.w.tend, left: maxLogRequests}
	var log opendata.LogState
	r, err := slatedb.OpenReader(ctx, store, d.root, slatedb.ReaderOptions{Checkpoint: checkpoint.String()})
	if err == nil {
		err = feed(ctx, r, &log)
	}
	_, damaged := errors.AsType[*slatedb.ObjectError](err)
	switch {
	case err != nil && !errors.Is(err, errDear) && (!damaged || bucketWide(err)):
		return nil, nil, err
	case err != nil:
		d.w.log.Debug("the positions of a log's checkpoint are unknown", "slate", d.root, "checkpoint", checkpoint, "err", err)
		return nil, nil, nil
	}
	if n, ok := log.Head(); ok {
		head = &n
	}
	if n, ok := log.TrimmedTo(); ok {
		trimmed = &n
	}
	return head, trimmed, nil
}

// gaps are the stretches of a log that its owner has cut and that no hold of
// ours contains: between two of them, and between the last and the log itself.
func (d *database) gaps(checkpoints []manifest.Checkpoint, now *uint64) []catalog.Finding {
	type held struct {
		id string
		*hold
	}
	var ours []held
	for _, cp := range checkpoints {
		if h := d.care.holds[cp.ID]; isOurs(cp) && h.domain == domainLog && h.position != nil {
			ours = append(ours, held{cp.ID.String(), h})
		}
	}
	slices.SortFunc(ours, func(a, b held) int { return cmp.Or(cmp.Compare(*a.position, *b.position), cmp.Compare(a.id, b.id)) })
	var found []catalog.Finding
	for i, h := range ours {
		cut, next := now, "the log itself"
		if i+1 < len(ours) {
			cut, next = ours[i+1].trimmed, "hold "+ours[i+1].id
		}
		if cut != nil && *cut > *h.position {
			found = append(found, catalog.Finding{
				Code: string(catalog.CodeHistoryGap), Object: h.id,
				What: fmt.Sprintf("the log was cut up to %d; hold %s ends at %d, and %s begins after the cut: what lies between is in neither", *cut, h.id, *h.position, next),
				Who:  "whoever has to read on from a position between them, in this region",
				Cure: "nothing is lost that another region has archived: see quarry explain trim; the older hold stays until all of it is",
			})
		}
	}
	return found
}
