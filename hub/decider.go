package hub

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/quarry-db/quarry/hub/ledger"
	"github.com/quarry-db/quarry/hub/state"
)

// openJournal claims the ledger and replays it: before that the hub knows no
// policy, and would decide as if there were none.
func (h *Hub) openJournal(ctx context.Context) (err error) {
	h.journal, err = ledger.OpenJournal(ctx, h.cfg.Store, ledger.JournalConfig{
		Holder: h.cfg.Holder, ID: h.cfg.ID, Now: h.cfg.Now, Log: h.log,
	})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			h.Close()
		}
	}()
	// Of two that started at once the one with the higher claim rules, whichever
	// opened the ledger last; see regain.
	if err = h.check(ctx); errors.Is(err, ledger.ErrTaken) {
		return err
	}
	members := false
	for rec, err := range h.journal.Replay(ctx) {
		if err == nil {
			err = h.state.Replay(rec)
		}
		if err != nil {
			return fmt.Errorf("replay the ledger: %w", err)
		}
		members = members || state.IsMember(rec)
	}
	h.tell()
	if !members {
		// A store of an older version, or a new one: its region set is taken over
		// once. From then on the ledger says who must agree.
		if err = h.journal.Append(ctx, h.state.Found(h.cfg.Now())); err != nil {
			return fmt.Errorf("take the region set into the ledger: %w", err)
		}
	}
	h.noteAudit()
	return nil
}

// Close gives the ledger back; Run does so at its end. What was recorded stays.
func (h *Hub) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), storeWait)
	defer cancel()
	if err := h.journal.Close(ctx); err != nil {
		h.log.Warn("the ledger was not closed; the next start replays it", "error", err)
	}
}

// Ledger is the UUID of the hub's ledger: agents obey no other until they are
// started with --ledger and this one. Anybody may call it at any time.
func (h *Hub) Ledger() string { return h.journal.ID() }

// Deciding says why this hub decides nothing, as an error that wraps
// [ledger.ErrNotDeciding]; nil: it decides. What it shows stays true to what its
// agents say. Anybody may call it at any time.
func (h *Hub) Deciding() error {
	if err := h.deposed.Load(); err != nil {
		return *err
	}
	return h.journal.Deciding()
}

// tell says to the state under which right it decides from now on.
func (h *Hub) tell() {
	o := state.Office{Term: h.journal.Term(), Ledger: h.journal.ID()}
	if err := h.Deciding(); err != nil {
		o.Why = err.Error()
	}
	if o == h.state.Office() {
		return
	}
	ready := h.state.Step(o, h.cfg.Now())
	h.owe(ready.Objects)
	h.held = append(h.held, ready.Send...)
}

// depose ends this hub's deciding: another one holds the store.
func (h *Hub) depose(ctx context.Context, err error) {
	if h.deposed.Load() != nil {
		return
	}
	if !errors.Is(err, ledger.ErrNotDeciding) {
		ctx, cancel := context.WithTimeout(ctx, storeWait)
		defer cancel()
		err = h.journal.Depose(ctx, err)
	}
	if h.deposed.CompareAndSwap(nil, &err) {
		h.log.Error("this hub decides and records nothing any more, and goes on answering", "error", err)
	}
	h.tell()
}

// record makes what was decided durable.
func (h *Hub) record(ctx context.Context, records []state.Record) error {
	if len(records) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeWait)
	defer cancel()
	err := h.Deciding()
	if err == nil {
		err = h.journal.Append(ctx, records)
	}
	if err == nil {
		h.noteAudit()
		return nil
	}
	h.stats.failures.Add(1)
	if errors.Is(err, ledger.ErrTaken) {
		return err // what was decided is undone before what another decided is learnt; see let
	}
	h.log.Error("what was decided could not be recorded, and so did not happen", "error", err, "records", len(records))
	h.tell()
	return err
}

// hearTerm holds the highest term that a region's agents have obeyed against this
// ledger's: one that it did not give out means that it was set back.
func (h *Hub) hearTerm(e state.Hello) {
	if !e.Obeys.Known || e.Obeys.Term == 0 || e.Obeys.Ledger != h.journal.ID() || h.deposed.Load() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeWait)
	defer cancel()
	if err := h.journal.SawTerm(ctx, e.Region, e.Obeys.Term); err != nil {
		h.log.Error("this hub decides nothing", "region", e.Region, "error", err)
		h.tell()
	}
}

// undo takes a batch back whose records are not durable. Of people's commands
// nothing stays, and they are told; of what agents said all does but the
// decisions that followed from it.
func (h *Hub) undo(b *batch, why error) {
	h.state.Undo(b.mark)
	if b.commands {
		b.objects, b.send = nil, nil
	}
	b.send = slices.DeleteFunc(b.send, func(m state.Send) bool {
		switch m.Message.(type) {
		case state.Decide, state.Settle:
			return true
		}
		return false
	})
	for i := range b.answers {
		if a := &b.answers[i]; a.err == nil {
			a.err = why
		}
	}
}

// regain is for a hub whose ledger was taken. When that was by one that claimed
// the store before this one and was slow to open the ledger, this one rules and
// opens it again; otherwise it is over.
func (h *Hub) regain(ctx context.Context, why error) {
	if err := h.ledger.Check(ctx); err != nil {
		h.depose(ctx, why)
		return
	}
	h.reclaim(ctx)
}

// reclaim claims the ledger again and takes in what is durable.
func (h *Hub) reclaim(ctx context.Context) {
	changed, err := h.journal.Recover(ctx)
	if err != nil {
		h.calmTill = h.cfg.Now().Add(storeRest)
		h.log.Error("the ledger cannot be opened: nothing is decided; it is tried again", "error", err)
		return
	}
	if len(changed) > 0 {
		if err := h.state.Relearn(h.journal.Replay(ctx)); err != nil {
			h.calmTill = h.cfg.Now().Add(storeRest)
			h.journal.Break(err)
			h.log.Error("the ledger cannot be replayed: nothing is decided; it is tried again", "error", err)
		}
	}
	h.noteAudit()
	h.log.Info("the ledger is open again", "term", h.journal.Term(), "found", len(changed))
	h.tell()
}

// tend claims a ledger again whose writer the store has ended, and says to the
// state when that is so.
func (h *Hub) tend(ctx context.Context) {
	err := h.Deciding()
	if err == nil || h.deposed.Load() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, storeWait)
	defer cancel()
	switch broken, ok := errors.AsType[*ledger.NotDecidingError](err); {
	case errors.Is(err, ledger.ErrTaken):
		h.regain(ctx, h.journal.Look(ctx))
	case ok && broken.Seen == 0 && !h.cfg.Now().Before(h.calmTill):
		h.reclaim(ctx)
	}
	h.tell()
}

// Audit reads the audit's records after a number from the ledger, in order.
// Anybody may call it; it reads the store.
func (h *Hub) Audit(ctx context.Context, after uint64) iter.Seq2[state.Record, error] {
	return h.journal.Audit(ctx, after)
}

// AuditHead is the end of the audit as this hub made it durable. Anybody may
// call it at any time.
func (h *Hub) AuditHead() state.AuditHead {
	if head := h.audited.Load(); head != nil {
		return *head
	}
	return state.AuditHead{}
}

// noteAudit shows the end of the audit, which is durable now.
func (h *Hub) noteAudit() {
	if head := h.state.AuditHead(); head != h.AuditHead() {
		h.audited.Store(&head)
	}
}
