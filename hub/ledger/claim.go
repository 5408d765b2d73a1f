package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// claim is hubs/<n>.json: who holds the store since when.
type claim struct {
	Number  uint64    `json:"number"`
	ID      string    `json:"id"`
	Holder  string    `json:"holder"`
	Started time.Time `json:"started"`
}

// keptClaims is how many old claims stay, to read who was here before.
const keptClaims = 20

func claimKey(n uint64) string { return numbered(hubsFolder, n, ".json") }

// takeOver claims the store with the next number. Of two that start at once
// one loses.
func (l *Ledger) takeOver(ctx context.Context, cfg Config) error {
	all, err := l.numbers(ctx, hubsFolder, ".json")
	if err != nil {
		return fmt.Errorf("list %s: %w", hubsFolder, err)
	}
	n := uint64(1)
	if len(all) > 0 {
		n = all[len(all)-1] + 1
	}
	l.claim = claim{Number: n, ID: cfg.ID, Holder: cfg.Holder, Started: cfg.Now.UTC()}
	err = l.store.PutNew(ctx, claimKey(n), marshal(l.claim))
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %s started at the same moment; start again if it is not meant to run", ErrTaken, l.holder(ctx, n))
	}
	if err != nil {
		return fmt.Errorf("claim the store: %w", err)
	}
	for i := 0; i < len(all)-keptClaims; i++ {
		if err := l.remove(ctx, claimKey(all[i])); err != nil {
			l.log.Warn("an old claim stays", "key", claimKey(all[i]), "error", err)
		}
	}
	return nil
}

// ErrEmptied says that what this hub wrote is not in the store any more.
var ErrEmptied = errors.New("the hub's store was emptied or set back")

// Check returns an error that is [ErrTaken] when another hub has claimed the
// store since, and one that is [ErrEmptied] when this hub's own claim is gone:
// then [Ledger.Reclaim] and record anew what must not be forgotten.
func (l *Ledger) Check(ctx context.Context) error {
	all, err := l.numbersAfter(ctx, hubsFolder, ".json", claimKey(l.claim.Number-1))
	if err != nil {
		return fmt.Errorf("look for other hubs: %w", err)
	}
	if len(all) == 0 {
		return fmt.Errorf("%s is gone: %w", claimKey(l.claim.Number), ErrEmptied)
	}
	if all[len(all)-1] == l.claim.Number {
		return nil
	}
	return fmt.Errorf("%w: %s has claimed it after this one; stop one of the two", ErrTaken, l.holder(ctx, all[len(all)-1]))
}

// Reclaim writes this hub's claim again, under its number. Of two hubs that do
// so one loses with [ErrTaken].
func (l *Ledger) Reclaim(ctx context.Context) error {
	if err := l.put(ctx, claimKey(l.claim.Number), marshal(l.claim)); err != nil {
		return fmt.Errorf("claim the store again: %w", err)
	}
	return nil
}

func (l *Ledger) holder(ctx context.Context, n uint64) string {
	var c claim
	b, err := l.store.Get(ctx, claimKey(n))
	if err != nil || json.Unmarshal(b, &c) != nil {
		return claimKey(n)
	}
	return fmt.Sprintf("%s (started %s, %s)", c.Holder, c.Started.Format(time.RFC3339), claimKey(n))
}
