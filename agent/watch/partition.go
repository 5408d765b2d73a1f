package watch

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/snapshots"
)

// uploadGrace is how long a snapshot folder that the pointer does not list may
// be an upload under way.
const uploadGrace = time.Hour

// partition follows one partition of a snapshot repository by reading its
// pointer.
type partition struct {
	*slate
	pointer string // hash of the pointer last taken; look's own
	begun   bool

	verified   *snapshots.Partition // upkeep's own
	verifiedAt time.Time
	verifiedOf string // the incarnation

	movedLast time.Time // under mu
	taken     string    // the pointer that the restore points are of, under mu
}

func (p *partition) afresh() { p.begun = false }

func (p *partition) turns() int { return 1 }

func partitionLineage(cluster, root, incarnation string) string {
	if cluster == "" {
		return incarnation // comparable with nothing else
	}
	name := root
	for i := len(root) - 1; i >= 0; i-- {
		if root[i] == '/' {
			name = root[i+1:]
			break
		}
	}
	return "restate:" + cluster + ":" + name
}

func (p *partition) look(ctx context.Context, _ bool) (bool, error) {
	now, err := snapshots.ReadPartition(ctx, p.w.look, p.root)
	if err != nil {
		return false, err
	}
	state := stateOf(&now)
	doubted := p.doubted.Swap(false) && now.PointerState == snapshots.PointerMissing
	if p.begun && state == p.pointer && !doubted {
		return false, nil
	}
	switch now.PointerState {
	case snapshots.PointerRead:
		err = p.takePointer(ctx, now, state)
	case snapshots.PointerUnreadable:
		err = p.takeTrouble(ctx, fmt.Sprintf("%s/latest.json: %s", p.root, now.Reason))
	case snapshots.PointerMissing:
		err = p.withoutPointer(ctx)
	}
	if err != nil {
		return false, err
	}
	p.begun, p.pointer = true, state
	return true, nil
}

// stateOf tells one state of a pointer from another.
func stateOf(p *snapshots.Partition) string { return string(p.PointerState) + p.PointerSHA256 }

func (p *partition) takePointer(ctx context.Context, now snapshots.Partition, state string) error {
	cluster := now.Pointer.Fingerprint
	at := record{identity: identity{Layout: layoutPartition, Cluster: cluster, Position: now.Pointer.LSN}}
	if _, err := p.identify(ctx, at, func(was record) (verdict, string, error) {
		if was.Layout != layoutPartition {
			return another, "it was no snapshot repository before", nil
		}
		v, why := continuousPointer(was.Cluster, was.Position, cluster, now.Pointer.LSN)
		return v, why, nil
	}); err != nil {
		return err
	}
	p.mu.Lock()
	s := &p.sight
	s.Root, s.Kind, s.KindFrom, s.Seen, s.Reason = p.root, catalog.KindSnapshots, "layout", catalog.SeenLive, ""
	s.PositionDomain, s.Position = domainLSN, ptr(now.Pointer.LSN)
	s.Archived = nil
	if archived, ok := now.ArchivedLSN(); ok {
		s.Archived = &archived
	}
	s.Lineage = partitionLineage(cluster, p.root, s.Incarnation)
	p.movedLast = time.Now()
	before, of := p.points, s.Incarnation
	p.taken = state
	p.tell()
	p.mu.Unlock()
	points := map[string]catalog.RestorePoint{}
	for _, snap := range now.Points {
		point := pointOf(snap)
		if old, ok := before[point.ID]; ok && old.State != catalog.RestoreUnreadable {
			point.State, point.Reason, point.VerifiedAt, point.Bytes = old.State, old.Reason, old.VerifiedAt, old.Bytes
		}
		points[point.ID] = point
	}
	p.setPoints(of, points, "the pointer no longer lists it")
	return nil
}

// takeTrouble: there is something, and what can be restored from it is unknown.
// No position is told, least of all 0.
func (p *partition) takeTrouble(ctx context.Context, why string) error {
	p.mu.Lock()
	known := p.identity.Incarnation != ""
	p.mu.Unlock()
	if !known {
		r, kept, err := p.recorded(ctx)
		if err != nil {
			return err
		}
		if r.Incarnation != "" && r.Layout == layoutPartition {
			p.settle(r, kept, r)
		}
	}
	p.mu.Lock()
	s := &p.sight
	s.Root, s.Kind, s.KindFrom, s.Seen, s.Reason = p.root, catalog.KindSnapshots, "layout", catalog.SeenUnreadable, why
	s.PositionDomain, s.Position, s.Archived = domainLSN, nil, nil
	if s.Lineage == "" {
		s.Lineage = partitionLineage(p.identity.Cluster, p.root, s.Incarnation)
	}
	p.movedLast = time.Now()
	of := s.Incarnation
	points := map[string]catalog.RestorePoint{}
	for id, point := range p.points {
		point.State, point.Reason, point.VerifiedAt = catalog.RestoreUnreadable, why, nil
		points[id] = point
	}
	p.tell()
	p.mu.Unlock()
	p.setPoints(of, points, "")
	return nil
}

// withoutPointer tells a repository that was swept away from one whose pointer
// alone is not there.
func (p *partition) withoutPointer(ctx context.Context) error {
	some, err := p.w.anything(ctx, p.w.look, p.root+"/")
	if err != nil {
		return err
	}
	p.headless.Store(some)
	if some {
		return p.takeTrouble(ctx, p.root+"/latest.json is not there: which of the snapshot folders can be restored is unknown")
	}
	return p.gone(ctx, layoutPartition, "nothing is listed below "+p.root+"/ any more")
}

// gone: what makes the root what it is is not there any more.
func (s *slate) gone(ctx context.Context, l layout, why string) error {
	s.mu.Lock()
	known := s.sight.Root != ""
	s.mu.Unlock()
	if !known {
		r, kept, err := s.recorded(ctx)
		if err != nil {
			return err
		}
		if r.Incarnation == "" || r.Layout != l {
			return errNothing
		}
		s.fromRecord(r, kept)
	}
	s.vanished(why)
	return nil
}

func pointOf(s snapshots.Snapshot) catalog.RestorePoint {
	point := catalog.RestorePoint{
		ID: s.Path, Name: s.ID, Source: catalog.SourceSnapshot, Position: ptr(s.LSN), PositionDomain: domainLSN,
		State: catalog.RestoreState(s.State), Reason: s.Reason,
	}
	if s.State == "" {
		point.State = catalog.RestoreListed
	}
	if !s.CreatedAt.IsZero() {
		point.CreatedAt = ptr(s.CreatedAt.UTC())
	}
	return point
}

// maxOrphans keeps a sighting within a frame.
const maxOrphans = 200

func (p *partition) upkeep(ctx context.Context) (time.Duration, error) {
	p.mu.Lock()
	moved, seen, of := p.movedLast, p.sight.Seen, p.sight.Incarnation
	p.mu.Unlock()
	if p.verifiedOf != of {
		p.verified, p.verifiedAt, p.verifiedOf = nil, time.Time{}, of
	}
	if seen != catalog.SeenLive && seen != catalog.SeenUnreadable {
		return listEvery, nil
	}
	if age := time.Since(p.verifiedAt); !moved.After(p.verifiedAt) && age < verifyEvery && !p.anew.Load() {
		return verifyEvery - age, nil
	}
	began := time.Now()
	now, err := snapshots.Verify(ctx, p.w.tend, p.root, p.verified)
	if err != nil {
		return 0, err
	}
	p.mu.Lock()
	if now.PointerState == snapshots.PointerRead && p.taken != stateOf(&now) || p.sight.Incarnation != of {
		// The pointer was overwritten meanwhile. What it lists is the look's
		// to tell first: an older list must not follow a newer one.
		p.mu.Unlock()
		p.w.looks.hurry(p.lookTask)
		return 2 * p.w.o.Poll, nil
	}
	p.verified, p.verifiedAt = &now, began
	s := &p.sight
	s.Orphans = nil
	for _, snap := range now.Unlisted {
		if len(s.Orphans) < maxOrphans {
			s.Orphans = append(s.Orphans, orphanOf(snap, began))
		}
	}
	bytes, objects := uint64(now.Bytes), uint64(now.Objects)
	s.Bytes, s.ListedBytes, s.ListedObjects = ptr(bytes), &bytes, &objects
	if now.PointerState != snapshots.PointerRead {
		p.tell()
		p.mu.Unlock()
		return listEvery, nil // the next look says so
	}
	p.mu.Unlock()
	points := map[string]catalog.RestorePoint{}
	var found []catalog.Finding
	for _, snap := range now.Points {
		point := pointOf(snap)
		point.Bytes = ptr(uint64(snap.Bytes))
		if snap.State == snapshots.Verified {
			point.VerifiedAt = ptr(began.UTC())
		}
		points[point.ID] = point
		for _, problem := range snap.Problems {
			found = append(found, catalog.Finding{
				Code: "object-missing", Object: problem.Key, What: problem.String() + ": the snapshot cannot be restored",
				Cure: "have the cluster take a new snapshot; put the object back from a copy if there is one",
			})
		}
	}
	p.setPoints(of, points, "the pointer no longer lists it")
	p.setFindings(found)
	p.anew.Store(false)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sight.Incarnation == of { // findings first: see [catalog.Sighting].ListedAt
		s.ListedAt = ptr(began.UTC())
		p.tell()
	}
	return verifyEvery, nil
}

func orphanOf(s snapshots.Snapshot, now time.Time) catalog.Orphan {
	o := catalog.Orphan{Path: s.Path, Position: s.LSN, Bytes: uint64(s.Bytes), Complete: s.State == snapshots.Verified}
	if !s.Modified.IsZero() {
		o.ChangedAt = ptr(s.Modified.UTC())
	}
	switch {
	case s.MayBeInProgress(now, uploadGrace) && s.Standing != snapshots.OrphanOlder:
		o.What = "maybe-uploading"
	case !o.Complete:
		o.What = "incomplete"
	case s.Standing == snapshots.OrphanOlder:
		o.What = "evicted"
	default:
		o.What = "failed-upload"
	}
	return o
}

func hexOf(sum [32]byte) string { return hex.EncodeToString(sum[:]) }
