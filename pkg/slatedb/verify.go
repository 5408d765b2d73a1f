package slatedb

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
	"github.com/quarry-db/quarry/pkg/slatedb/sst"
	"github.com/quarry-db/quarry/pkg/slatedb/wal"
)

// VerifyOptions say how much [Verify] looks at. The zero value asks for each
// table's size and reads its footer, and reads every WAL object.
type VerifyOptions struct {
	// Checksums reads every byte: checksums of all parts, order of all rows.
	Checksums bool
	// WALStore holds the WAL when it is not in the store of the tables.
	WALStore Store
	// InUse are the releases that are known to open the database, such as
	// "0.12.1": those that cannot, or would damage it, are findings.
	InUse []string
	// Now is the clock by which collectors are judged; nil means time.Now.
	Now func() time.Time
	// Progress is told each object when it is done and how many there are.
	// One call at a time; nil: nobody is told.
	Progress func(done, total int, key string)
}

// Report is what [Verify] found.
type Report struct {
	Root       string `json:"root"`
	ManifestID uint64 `json:"manifest_id"`
	Manifests  int    `json:"manifests"` // the newest and those of checkpoints
	Tables     int    `json:"tables"`
	TableBytes int64  `json:"table_bytes"`
	WALObjects int    `json:"wal_objects"`
	// WALClaimed is the last WAL id that the newest manifest claims when none
	// so late is there, else 0. A writer up to 0.15 that crashed leaves it so,
	// and nothing it acknowledged is missing; a lost last object looks the same.
	WALClaimed  uint64    `json:"wal_claimed,omitempty"`
	Rows        int64     `json:"rows"` // read: with checksums those of tables, always those of the WAL
	Requests    Requests  `json:"requests"`
	Findings    []Finding `json:"findings"` // by object; empty: everything needed is there
	ChecksumsOK bool      `json:"checksums"`
	// Unverified: the WAL was not looked at, because nobody knows where it
	// is. Nothing may rely on this database until it is named.
	Unverified bool `json:"unverified"`
}

// OK reports whether nothing was found.
func (r *Report) OK() bool { return len(r.Findings) == 0 }

// Verify looks at every object that the newest manifest below root and its
// live checkpoints need. What is wrong with the database is in the report; the error
// is for a database that is not there and for a store that does not answer.
// Objects that go away because the database moves on meanwhile are no findings:
// then it looks again, three times at most.
func Verify(ctx context.Context, s Store, root string, opts VerifyOptions) (Report, error) {
	c := &counter{s: s}
	var rep Report
	for range 3 {
		v := &verification{ctx: ctx, s: c, wal: c, root: root, opts: opts}
		if opts.WALStore != nil {
			v.wal = c.beside(opts.WALStore)
		}
		if err := v.run(); err != nil {
			return Report{}, err
		}
		rep = v.rep
		rep.Requests = c.count()
		slices.SortFunc(rep.Findings, func(a, b Finding) int {
			return strings.Compare(a.Object+"\x00"+string(a.Code)+a.What, b.Object+"\x00"+string(b.Code)+b.What)
		})
		if !slices.ContainsFunc(rep.Findings, func(f Finding) bool {
			return f.Code == ObjectMissing || f.Code == WALHole || f.Code == CheckpointDangling
		}) {
			break
		}
		if now, err := Latest(ctx, c, root); err != nil || now.ID == rep.ManifestID {
			break
		}
	}
	return rep, nil
}

// verification is one look at a database.
type verification struct {
	ctx  context.Context
	s    *counter
	wal  Store
	root string
	opts VerifyOptions

	mu          sync.Mutex
	rep         Report
	done, total int
}

func (v *verification) found(f Finding) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.rep.Findings = append(v.rep.Findings, f)
}

func (v *verification) tell(key string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.done++
	if v.opts.Progress != nil {
		v.opts.Progress(v.done, v.total, key)
	}
}

// pinnedState is a manifest that must be readable with all it needs.
type pinnedState struct {
	id         uint64
	m          *manifest.Manifest
	checkpoint bool
}

// need is a table and what the manifests say of it.
type need struct {
	key   string
	views []neededView
}

type neededView struct {
	manifestID uint64
	table      manifest.Table
}

func (v *verification) run() error {
	v.rep = Report{Root: v.root, ChecksumsOK: v.opts.Checksums, Findings: []Finding{}}
	head, err := Latest(v.ctx, v.s, v.root)
	if err != nil {
		return v.headless(err)
	}
	v.rep.ManifestID = head.ID
	if !head.Manifest.Initialized {
		v.found(Finding{
			Code: Uninitialized, Object: ManifestKey(v.root, head.ID), What: ErrUninitialized.Error(),
			Who: "readers, which cannot open it; a writer can, and what it is missing stays missing", Cure: "make the clone once more, which finishes it (`quarry slatedb clone` of the same two), or delete it",
		})
	}
	o := LookOptions{Head: head, WALStore: v.opts.WALStore, InUse: v.opts.InUse, Now: v.opts.Now}
	sight, err := Look(v.ctx, v.s, v.root, o)
	if err != nil {
		return err
	}
	states := append([]pinnedState{{head.ID, head.Manifest, false}}, v.checkpoints(head, sight.Now)...)
	for _, f := range Symptoms(sight) {
		switch f.Code {
		case FilterFormatMismatch: // told of each table, by the table itself
		case CheckpointDangling: // told by reading
		case WALHole: // told for checkpoints too
		case WALStoreUnmarked:
			v.rep.Unverified = true
			fallthrough
		default:
			v.found(f)
		}
	}
	v.rep.Manifests = len(states)

	needs := needed(v.root, states)
	v.rep.Tables = len(needs)
	var ids []uint64
	if !v.rep.Unverified {
		ids = v.walNeeded(states)
	}
	v.rep.WALObjects = len(ids)
	v.total = len(needs) + len(ids)

	if err := v.each(needs, v.table); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(v.ctx)
	g.SetLimit(atOnce)
	for _, id := range ids {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			v.walObject(id)
			v.tell(WALKey(v.root, id))
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return v.ctx.Err()
}

// each calls look with every table, some at once.
func (v *verification) each(needs []*need, look func(*need)) error {
	g, ctx := errgroup.WithContext(v.ctx)
	g.SetLimit(atOnce)
	for _, n := range needs {
		g.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			look(n)
			v.tell(n.key)
			return nil
		})
	}
	return g.Wait()
}

// headless tells what it means that the newest manifest cannot be read.
func (v *verification) headless(err error) error {
	f, ok := Headless(err)
	if !ok {
		return err
	}
	v.found(f)
	return nil
}

// undecodable tells bytes that are no manifest from a store that gave none.
func undecodable(err error) bool {
	_, version := errors.AsType[*manifest.VersionError](err)
	_, field := errors.AsType[*manifest.FieldError](err)
	return version || field || errors.Is(err, manifest.ErrEmpty) || errors.Is(err, manifest.ErrCorrupt)
}

// checkpoints reads the manifests that checkpoints of head pin. One that has
// expired pins nothing: any collector may have taken what it names.
func (v *verification) checkpoints(head *Head, now time.Time) []pinnedState {
	var out []pinnedState
	seen := map[uint64]bool{head.ID: true}
	for _, cp := range head.Manifest.Checkpoints {
		if cp.ManifestID == head.ID {
			// The newest state is looked at anyway, with more of the WAL.
			continue
		}
		if seen[cp.ManifestID] || cp.Expired(now) {
			continue
		}
		seen[cp.ManifestID] = true
		key := ManifestKey(v.root, cp.ManifestID)
		m, err := readManifest(v.ctx, v.s, key)
		switch {
		case err == nil:
			out = append(out, pinnedState{cp.ManifestID, m, true})
		case errors.Is(err, ErrMissing):
			v.found(dangling(v.root, cp.ID, cp.ManifestID))
		case undecodable(err):
			v.found(Finding{
				Code: ManifestUnreadable, Object: key, What: fmt.Sprintf("checkpoint %s pins it: %v", cp.ID, err), Who: pinnedReads,
				Cure: "delete the checkpoint, or put the manifest back from a copy",
			})
		default:
			v.found(unreadable(key, err))
		}
	}
	return out
}

// needed returns the tables of all states, each once.
func needed(root string, states []pinnedState) []*need {
	byKey := map[string]*need{}
	var all []*need
	for _, st := range states {
		keyOf := tableKeys(root, st.m)
		st.m.Tables(func(t *manifest.Table) {
			key := keyOf(t.ID)
			n := byKey[key]
			if n == nil {
				n = &need{key: key}
				byKey[key] = n
				all = append(all, n)
			}
			n.views = append(n.views, neededView{st.id, *t})
		})
	}
	return all
}

// walNeeded returns the WAL objects to be read and tells the holes among them.
func (v *verification) walNeeded(states []pinnedState) []uint64 {
	var all []uint64
	for _, st := range states {
		if st.m.WALStoreMarked && v.opts.WALStore == nil {
			v.rep.Unverified = true
			v.found(walMarked(v.root, st.id))
			continue
		}
		ids, err := walIDs(v.ctx, v.wal, v.root, st.m, st.checkpoint)
		if err != nil {
			v.found(unreadable(WALKey(v.root, st.m.ReplayAfterWAL+1), err))
			continue
		}
		if h, ok := v.hole(st, ids); ok {
			what := fmt.Sprintf("%v; manifest %d replays from %d", h, st.id, st.m.ReplayAfterWAL+1)
			if len(ids) == 0 {
				what += " and there is no WAL object at all"
			}
			v.found(walHole(v.root, h.ID, what))
		}
		all = append(all, ids...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// hole returns what is missing among ids, the WAL objects that st needs.
func (v *verification) hole(st pinnedState, ids []uint64) (*wal.Hole, bool) {
	if st.checkpoint {
		return errors.AsType[*wal.Hole](checkPinned(v.ctx, v.wal, v.root, st.m, ids))
	}
	any := len(ids) > 0
	if !any && st.m.ReplayAfterWAL > 0 {
		_, _, err := v.wal.Stat(v.ctx, WALKey(v.root, st.m.ReplayAfterWAL))
		any = err == nil
	}
	h, ok := tailHole(st.m, ids, any)
	if last := slices.Max(append(ids, st.m.ReplayAfterWAL)); !ok && st.m.WALLastSeen > last {
		v.rep.WALClaimed = st.m.WALLastSeen
	}
	return h, ok
}

func (v *verification) walObject(id uint64) {
	key := WALKey(v.root, id)
	o, err := readWAL(v.ctx, v.wal, key)
	if oe, ok := errors.AsType[*ObjectError](err); ok {
		err = oe.Err // the finding names the object already
	}
	switch {
	case err == nil:
		v.mu.Lock()
		v.rep.Rows += int64(len(o.Rows))
		v.mu.Unlock()
	case errors.Is(err, ErrMissing):
		v.found(Finding{Code: WALHole, Object: key, What: "went away while it was looked at", Who: "nobody, if the database moved on", Cure: "verify again"})
	case errors.Is(err, sst.ErrFormat):
		v.found(unknownFormat(key, err))
	case errors.Is(err, sst.ErrCorrupt):
		v.found(Finding{
			Code: WALDamaged, Object: key, What: err.Error(), Who: "whoever opens the database: SlateDB refuses (checksum mismatch)",
			Cure: "put it back from a copy",
		})
	default:
		v.found(unreadable(key, err))
	}
}
