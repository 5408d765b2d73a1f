package watch

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// dropped is an object that others dropped for us, as it was last read.
type dropped struct {
	modified     time.Time
	size         int64
	registration *catalog.Registration
	lease        *catalog.Lease
	finding      *catalog.Finding
}

// drops are the objects below one prefix. They belong to its task.
type drops struct {
	prefix string
	code   string // of findings
	known  map[string]dropped
	every  time.Duration
}

// read lists the prefix and reads what is new or has changed. It returns
// whether anything has.
func (d *drops) read(ctx context.Context, w *Watcher, decode func(key string, raw []byte, modified time.Time) (dropped, error)) (bool, error) {
	listed := map[string]dropped{}
	err := w.look.Walk(ctx, d.prefix, "", func(key string, size int64, modified time.Time) error {
		if strings.HasSuffix(key, ".json") {
			listed[key] = dropped{modified: modified, size: size}
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	changed := false
	for _, key := range slices.Sorted(maps.Keys(listed)) {
		o := listed[key]
		if was, ok := d.known[key]; ok && was.size == o.size && was.modified.Equal(o.modified) {
			listed[key] = was
			continue
		}
		now, err := d.readOne(ctx, w, key, o, decode)
		if errors.Is(err, fs.ErrNotExist) {
			delete(listed, key)
			continue
		}
		if err != nil {
			return false, err
		}
		listed[key], changed = now, true
	}
	for key := range d.known {
		if _, still := listed[key]; !still {
			changed = true
		}
	}
	d.known = listed
	return changed, nil
}

func (d *drops) readOne(ctx context.Context, w *Watcher, key string, o dropped, decode func(key string, raw []byte, modified time.Time) (dropped, error)) (dropped, error) {
	var err error
	now := o
	if err = fitting(key, o.size); err == nil {
		var raw []byte
		if raw, err = w.look.Get(ctx, key); err == nil {
			now, err = decode(key, raw, o.modified)
		}
	}
	if err != nil && (bucketWide(err) || errors.Is(err, fs.ErrNotExist)) {
		return o, err
	}
	now.modified, now.size = o.modified, o.size
	if err != nil {
		now.finding = &catalog.Finding{Code: d.code, Object: key, What: err.Error() + "; it is passed over", Cure: "remove it, and write it again as its error says"}
	}
	return now, nil
}

// inboxTask reads the registrations where they lie.
func (w *Watcher) inboxTask(ctx context.Context) time.Duration {
	changed, err := w.readInbox(ctx)
	if err != nil {
		return 2 * w.o.Poll
	}
	if changed {
		w.looks.hurry(w.discovery)
		w.inbox.every = w.o.Poll
	} else {
		w.inbox.every = min(max(2*w.inbox.every, w.o.Poll), 10*w.o.Poll)
	}
	return w.inbox.every
}

func (w *Watcher) readInbox(ctx context.Context) (bool, error) {
	before := w.inbox.known
	changed, err := w.scanInbox(ctx)
	if err == nil && w.folded(before) {
		// What is gone is in the catalog by now. Until that is read it is
		// still declared: absence is never a withdrawal.
		w.catalogMu.Lock()
		err = w.refreshCatalog(ctx)
		w.catalogMu.Unlock()
		if err != nil {
			w.inbox.known = before
			return false, err
		}
	}
	if changed = w.inboxAgain.Swap(false) || changed; changed {
		w.takeRegistrations()
	}
	return changed, err
}

// scanInbox reads what lies in the inbox, and tells the region's duty.
func (w *Watcher) scanInbox(ctx context.Context) (bool, error) {
	changed, err := w.inbox.read(ctx, w, func(key string, raw []byte, _ time.Time) (dropped, error) {
		r, err := catalog.ReadRegistration(key, raw)
		return dropped{registration: &r}, err
	})
	if err == nil && len(w.inbox.known) > 0 && w.o.Declared != nil {
		w.o.Declared()
	}
	return changed, err
}

// folded reports whether a declaration that was in the inbox is there no more
// and not among what is known of the catalog.
func (w *Watcher) folded(before map[string]dropped) bool {
	w.pending.Lock()
	defer w.pending.Unlock()
	for key, o := range before {
		if _, still := w.inbox.known[key]; still || o.finding != nil {
			continue
		}
		if _, known := w.fromCatalog[o.registration.ID]; !known {
			return true
		}
	}
	return false
}

// takeRegistrations tells the registrations and works out the names.
func (w *Watcher) takeRegistrations() {
	all := map[string]catalog.Registration{}
	w.pending.Lock()
	maps.Copy(all, w.fromCatalog)
	found := slices.Clone(w.badInCatalog)
	w.pending.Unlock()
	for _, key := range slices.Sorted(maps.Keys(w.inbox.known)) {
		o := w.inbox.known[key]
		if o.finding != nil {
			found = append(found, *o.finding)
			continue
		}
		all[o.registration.ID] = *o.registration
	}
	for id, r := range all {
		if was, ok := w.toldRegistrations[id]; !ok || !sameRegistration(was, r) {
			w.to.Set(catalog.Fact{Kind: catalog.FactRegistration, Key: id, Registration: &r})
		}
	}
	for id := range w.toldRegistrations {
		if _, still := all[id]; !still {
			w.to.Withdraw(catalog.FactRegistration, id, "it is in the inbox no more, nor in the catalog")
		}
	}
	w.toldRegistrations = all
	standing, conflicts := stand(all)
	w.inboxFindings.set(w.to, append(found, conflicts...))
	w.setNames(standing)
}

func sameRegistration(a, b catalog.Registration) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return string(x) == string(y)
}

// stand says which registration of each root stands: the first that was not
// withdrawn by a later deregistration of its slate. Others that contradict it
// are findings, and so is a name that another root has already.
func stand(all map[string]catalog.Registration) (map[string]catalog.Registration, []catalog.Finding) {
	inOrder := slices.SortedFunc(maps.Values(all), func(a, b catalog.Registration) int { return cmp.Compare(a.ID, b.ID) })
	standing := map[string]catalog.Registration{}
	byName := map[string]string{}
	var conflicts []catalog.Finding
	for _, r := range inOrder {
		if r.Action == catalog.Deregister {
			if root, ok := byName[r.Slate]; ok && (r.Root == "" || r.Root == root) {
				delete(standing, root)
				delete(byName, r.Slate)
			}
			continue
		}
		first, taken := standing[r.Root]
		root, named := byName[r.Slate]
		switch {
		case taken && (first.Slate != r.Slate || first.Owner != r.Owner):
			conflicts = append(conflicts, catalog.Finding{
				Code: "registration-conflict", Slate: first.Slate, Root: r.Root, Object: catalog.InboxPrefix + r.ID + ".json",
				What: fmt.Sprintf("registers it as %q of %q; the first registration, %s, says %q of %q and stands", r.Slate, r.Owner, first.ID, first.Slate, first.Owner),
				Cure: "deregister the wrong one",
			})
		case taken:
		case named:
			conflicts = append(conflicts, catalog.Finding{
				Code: "registration-conflict", Slate: r.Slate, Root: r.Root, Object: catalog.InboxPrefix + r.ID + ".json",
				What: fmt.Sprintf("gives %s the name %q, which %s has already in this region; it keeps its root's name", r.Root, r.Slate, root),
				Cure: "register one of the two with another name",
			})
		default:
			standing[r.Root], byName[r.Slate] = r, r.Root
		}
	}
	return standing, conflicts
}

// leasesTask reads the heartbeats of owners and readers. A touched lease is an
// owner's hint: its slate is looked at at once.
func (w *Watcher) leasesTask(ctx context.Context) time.Duration {
	if err := w.readLeases(ctx); err != nil {
		return 2 * w.o.Poll
	}
	return w.leases.every
}

func (w *Watcher) readLeases(ctx context.Context) error {
	before := maps.Clone(w.leases.known)
	changed, err := w.leases.read(ctx, w, func(key string, raw []byte, modified time.Time) (dropped, error) {
		l, err := catalog.DecodeLease(key, raw, modified)
		return dropped{lease: &l}, err
	})
	if err != nil {
		return err
	}
	defer w.leasesRead.Store(true) // what follows tells of them
	if !changed {
		w.leases.every = min(max(2*w.leases.every, 2*w.o.Poll), 10*w.o.Poll)
		return nil
	}
	w.leases.every = 2 * w.o.Poll
	told := map[string]bool{}
	var found []catalog.Finding
	for key, o := range w.leases.known {
		if o.finding != nil {
			found = append(found, *o.finding)
			continue
		}
		l := o.lease
		fact := catalog.LeaseKey(l.Slate, l.Role, l.ID)
		told[fact] = true
		if was, ok := before[key]; !ok || !was.modified.Equal(o.modified) || was.size != o.size {
			w.to.Set(catalog.Fact{Kind: catalog.FactLease, Key: fact, Lease: l})
			w.hurryNamed(l.Slate)
		}
	}
	for _, o := range before {
		if o.finding != nil {
			continue
		}
		if fact := catalog.LeaseKey(o.lease.Slate, o.lease.Role, o.lease.ID); !told[fact] {
			w.to.Withdraw(catalog.FactLease, fact, "its object was removed")
		}
	}
	w.leaseFindings.set(w.to, found)
	return nil
}

// findings are those of one source outside of slates.
type findings map[string]catalog.Finding

func (f *findings) set(to Reporter, found []catalog.Finding) {
	now := findings{}
	for _, x := range found {
		key := catalog.FindingKey(x.Code, x.Root, x.Object)
		now[key] = x
		if was, ok := (*f)[key]; !ok || was != x {
			to.Set(catalog.Fact{Kind: catalog.FactFinding, Key: key, Finding: &x})
		}
	}
	for key := range *f {
		if _, still := now[key]; !still {
			to.Withdraw(catalog.FactFinding, key, "no longer so")
		}
	}
	*f = now
}
