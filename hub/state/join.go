package state

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/quarry-db/quarry/hub/table"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// standing is what owners' declarations about one root come to.
type standing struct {
	registration *catalog.Registration // nil: none stands
	first        *catalog.Registration // what the conflicts differ from
	conflicts    []*catalog.Registration
	gone         bool // one stood, and was declared gone
}

// standing reads the declarations in the order of their ids: the first
// registration stands until a deregistration, later ones that differ are
// conflicts (DESIGN §5).
func (st *seat) standing(r *region) standing {
	var all []*catalog.Registration
	var slates []string
	for _, sd := range st.said {
		if sd.key.kind == catalog.FactRegistration {
			all = append(all, sd.registration)
			if !slices.Contains(slates, sd.registration.Slate) {
				slates = append(slates, sd.registration.Slate)
			}
		}
	}
	if all == nil {
		return standing{}
	}
	for _, name := range slates {
		for _, sd := range r.rootless[name] {
			all = append(all, sd.registration)
		}
	}
	slices.SortFunc(all, func(a, b *catalog.Registration) int { return strings.Compare(a.ID, b.ID) })
	var out standing
	for _, reg := range all {
		switch {
		case reg.Action == catalog.Deregister:
			out = standing{gone: out.registration != nil || out.gone}
		case out.registration == nil:
			out = standing{registration: reg, first: reg}
		case differs(out.registration, reg) != "":
			out.conflicts = append(out.conflicts, reg)
		}
	}
	return out
}

// differs names the fields in which two registrations differ.
func differs(a, b *catalog.Registration) string {
	var out []string
	for _, f := range []struct {
		name string
		not  bool
	}{
		{"slate", a.Slate != b.Slate},
		{"kind", a.Kind != b.Kind},
		{"owner", a.Owner != b.Owner},
		{"contact", a.Contact != b.Contact},
		{"position_domain", a.Domain != b.Domain},
		{"labels", !maps.Equal(a.Labels, b.Labels)},
	} {
		if f.not {
			out = append(out, f.name)
		}
	}
	return strings.Join(out, ", ")
}

// readers fills in who reads a placement, or may: every unnamed checkpoint
// whatever its lifetime, and leases of readers. One that has not changed for
// its lifetime and a margin, on the hub's clock and while the region could be
// seen, is listed and no longer counted.
func (s *State) readers(r *region, st *seat, row *catalog.Placement) {
	row.Readers = []catalog.Reader{}
	st.late = false
	var next time.Duration
	lapses := func(since, life time.Duration) bool {
		at := max(since, r.freshSince) + life + s.cfg.ReaderMargin
		if r.rowsStale {
			st.late = true // nobody looked
			return false
		}
		if at > s.mono && (next == 0 || at < next) {
			next = at
		}
		return at <= s.mono
	}
	before := st.looks()
	var since []time.Duration
	for _, c := range row.Checkpoints {
		if c.Name != "" {
			continue
		}
		at, lapsed := s.mono, false
		if was, ok := before(c.ID); ok && was.manifest == c.ManifestID && was.expires.Equal(timeOf(c.Expires)) {
			at, lapsed = was.since, was.lapsed
		}
		if !lapsed && c.Expires != nil && c.Created != nil {
			lapsed = lapses(at, max(0, c.Expires.Sub(*c.Created)))
		}
		since = append(since, at)
		row.Readers = append(row.Readers, catalog.Reader{
			ID: c.ID, ManifestID: c.ManifestID, Expires: c.Expires, From: "checkpoint", Looks: c.Looks, Lapsed: lapsed,
		})
	}
	for len(since) > 0 && since[len(since)-1] == 0 {
		since = since[:len(since)-1] // since the hub began: that goes without saying
	}
	st.since = since
	row.Leases = nil
	of := r.leases[row.Slate]
	for _, k := range sortedKeys(of) {
		sd := of[k]
		row.Leases = append(row.Leases, *sd.lease)
		if !sd.lapsed && sd.lease.TTL > 0 {
			sd.lapsed = lapses(sd.since, time.Duration(min(sd.lease.TTL, 1e9)*float64(time.Second)))
		}
		if sd.lease.Role == "reader" {
			row.Readers = append(row.Readers, catalog.Reader{ID: sd.lease.ID, Name: sd.lease.Holder, From: "lease", Lapsed: sd.lapsed})
		}
	}
	st.next = next
}

// look is how long a checkpoint has looked the same.
type look struct {
	manifest uint64
	expires  time.Time
	since    time.Duration
	lapsed   bool
}

// looks gives how the row's unnamed checkpoints looked when it was settled
// last, by their ids.
func (st *seat) looks() func(id string) (look, bool) {
	if st.row == nil {
		return func(string) (look, bool) { return look{}, false }
	}
	is := make(map[string]look, len(st.row.Checkpoints))
	n := 0
	for _, c := range st.row.Checkpoints {
		if c.Name != "" {
			continue
		}
		l := look{manifest: c.ManifestID, expires: timeOf(c.Expires)}
		if n < len(st.since) {
			l.since = st.since[n]
		}
		n++
		is[c.ID] = l
	}
	for i := range st.row.Readers {
		if rd := &st.row.Readers[i]; rd.Lapsed && rd.From == "checkpoint" {
			l := is[rd.ID]
			l.lapsed = true
			is[rd.ID] = l
		}
	}
	return func(id string) (l look, ok bool) { l, ok = is[id]; return l, ok }
}

// live counts the readers that have not lapsed.
func live(readers []catalog.Reader) (n int) {
	for i := range readers {
		if !readers[i].Lapsed {
			n++
		}
	}
	return n
}

// wake has the placement of a seat looked at again when that is due.
func (s *State) wake(r *region, st *seat, slot table.Slot) {
	if st.due != st.next {
		if st.due != 0 {
			s.due.Delete(deadline{st.due, slot})
		}
		if st.due = st.next; st.due != 0 {
			s.due.Set(deadline{st.due, slot})
		}
	}
	if st.late {
		if k := r.kept[st.root]; k == nil || !k.late {
			r.late = append(r.late, slot)
		}
	}
}

const movingText = "declared gone, epoch still moving"

// disagreement says where declaration and store contradict each other.
func (s *State) disagreement(r *region, st *seat, own standing, row *catalog.Placement) string {
	var out []string
	if own.gone && st.movedSinceGone {
		out = append(out, movingText)
	}
	writers := map[string]bool{}
	for _, sd := range r.leases[row.Slate] {
		if sd.lease.Role == "writer" && !sd.lapsed {
			writers[sd.lease.ID] = true
		}
	}
	if len(writers) > 1 {
		out = append(out, "two writers declared")
	}
	return strings.Join(out, "; ")
}

// repin keeps up which clones read which parents. A clone that is missing
// still pins: nobody knows that it is gone (P2).
func (s *State) repin(r *region, st *seat, before, after []catalog.ExternalDB) {
	for _, x := range before {
		s.unpin(r, x.Path, st.root)
	}
	for _, x := range after {
		parent := strings.Trim(x.Path, "/")
		of := r.pins[parent]
		if of == nil {
			of = map[string]bool{}
			r.pins[parent] = of
		}
		of[st.root] = true
		if s.known(r, parent) {
			s.touch(r, parent)
		}
	}
}

func (s *State) unpin(r *region, path, clone string) {
	parent := strings.Trim(path, "/")
	delete(r.pins[parent], clone)
	if len(r.pins[parent]) == 0 {
		delete(r.pins, parent)
	}
	if s.known(r, parent) {
		s.touch(r, parent)
	}
}
