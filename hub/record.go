package hub

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/quarry-db/quarry/hub/ledger"
	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/hub/view"
)

// owe adds records to what has to become durable. Events of steps that follow
// each other share a record, up to a size that a slow store can take; but none
// joins a record that was tried already: it may have been written although the
// store said no, and the second try must bring the same bytes.
func (h *Hub) owe(records []state.Object) {
	for _, rec := range records {
		e, ok := rec.(state.EventsRecord)
		if !ok {
			h.owed = append(h.owed, rec)
			continue
		}
		for len(e.Events) > 0 {
			n := min(len(e.Events), maxOwed)
			if last := h.lastOwed(); last != nil && len(last.Events) < maxOwed {
				n = min(n, maxOwed-len(last.Events))
				last.Events = append(last.Events, e.Events[:n]...)
				h.owed[len(h.owed)-1] = *last
			} else {
				h.owed = append(h.owed, state.EventsRecord{Events: slices.Clone(e.Events[:n])})
			}
			e.Events = e.Events[n:]
		}
	}
	h.shedEvents()
}

// lastOwed is the record that more events may join; nil: none.
func (h *Hub) lastOwed() *state.EventsRecord {
	if n := len(h.owed); n > 1 || n == 1 && !h.failing {
		if last, ok := h.owed[n-1].(state.EventsRecord); ok {
			return &last
		}
	}
	return nil
}

// shedEvents bounds what waits for a store that fails for long: more events
// than the log keeps would be deleted as soon as they were written.
func (h *Hub) shedEvents() {
	n, kept := 0, cmp.Or(h.cfg.State.MaxEvents, view.DefaultMaxEvents)
	for _, rec := range h.owed {
		if e, ok := rec.(state.EventsRecord); ok {
			n += len(e.Events)
		}
	}
	for i := 1; i < len(h.owed) && n > kept+maxOwed; i++ { // the first may be half written
		if e, ok := h.owed[i].(state.EventsRecord); ok && len(e.Events) > 0 {
			n -= len(e.Events)
			h.log.Error("events were never recorded: the hub's store has failed for too long",
				"from", e.Events[0].Seq, "to", e.Events[len(e.Events)-1].Seq)
			h.owed = slices.Delete(h.owed, i, i+1)
			i--
		}
	}
}

// recordAnew gives a store that was emptied everything back that must not be
// forgotten: without it the next start would begin another life, with no
// bucket known, no policy, and every event told again.
func (h *Hub) recordAnew(ctx context.Context) {
	limited, cancel := context.WithTimeout(ctx, storeWait)
	defer cancel()
	if err := h.ledger.Reclaim(limited); errors.Is(err, ledger.ErrTaken) {
		h.depose(ctx, err)
		return
	} else if err != nil {
		return // found again by the next check
	}
	h.reclaim(limited)
	events, _ := h.state.View().Events(0, 0)
	h.owed, h.failing = nil, false // all of it is among these
	h.owe([]state.Object{state.RegionsRecord{Set: h.state.Set()}, state.EventsRecord{Events: events}})
	_, _ = h.persist(ctx) // what does not work is logged and tried again
	h.post(nil)
}

// persist makes the owed records durable. A store that fails does not stop
// the hub from showing what it sees (P10): records are kept and tried again,
// loudly.
func (h *Hub) persist(ctx context.Context) (unsaved bool, err error) {
	if h.deposed.Load() != nil {
		h.owed = nil // the store is another hub's
	}
	if len(h.owed) == 0 {
		return false, nil
	}
	if h.failing && h.cfg.Now().Before(h.restTill) {
		h.stats.unsaved.Store(int64(len(h.owed)))
		return true, errStoreRests
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeWait)
	defer cancel()
	for len(h.owed) > 0 {
		if err := h.ledger.Append(ctx, h.owed[0]); err != nil {
			if errors.Is(err, ledger.ErrTaken) {
				h.depose(ctx, err)
				return false, nil
			}
			h.failing, h.restTill = true, h.cfg.Now().Add(storeRest)
			h.stats.failures.Add(1)
			h.stats.unsaved.Store(int64(len(h.owed)))
			h.log.Error("the hub's store fails: events are shown and not recorded; it is tried again", "error", err, "records", len(h.owed))
			return true, err
		}
		h.owed = h.owed[1:]
	}
	if h.failing {
		h.failing = false
		h.log.Info("the hub's store works again; all events are recorded")
	}
	h.stats.unsaved.Store(0)
	h.owed = nil
	return false, nil
}

var errStoreRests = errors.New("the store failed a moment ago")

// post lets messages out, but none while a region set is not durable: an
// agent must not act on a bucket's incarnation that a crash would make the
// hub forget.
func (h *Hub) post(send []state.Send) {
	h.held = append(h.held, send...)
	for _, rec := range h.owed {
		if _, ok := rec.(state.RegionsRecord); ok {
			h.shedAcks()
			return
		}
	}
	for _, m := range h.held {
		if d, ok := m.Message.(state.Decide); ok {
			h.journal.Told(d.Decision.Region)
		}
		h.cfg.Post(m.To, m.Message)
	}
	h.held = nil
}

// shedAcks keeps only the newest acknowledgement of each session among the
// held messages, so that they stay few.
func (h *Hub) shedAcks() {
	newest := map[state.SessionID]int{}
	for i, m := range h.held {
		if _, ok := m.Message.(state.Ack); ok {
			newest[m.To] = i
		}
	}
	kept := h.held[:0]
	for i, m := range h.held {
		if _, ok := m.Message.(state.Ack); !ok || newest[m.To] == i {
			kept = append(kept, m)
		}
	}
	h.held = kept
}
