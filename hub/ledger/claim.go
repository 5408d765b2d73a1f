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
		if err := l.store.Delete(ctx, claimKey(all[i])); err != nil {
			l.log.Warn("an old claim stays", "key", claimKey(all[i]), "error", err)
		}
	}
	return nil
}

// Check returns an error that is [ErrTaken] when another hub has claimed the
// store since.
func (l *Ledger) Check(ctx context.Context) error {
	all, err := l.numbersAfter(ctx, hubsFolder, ".json", claimKey(l.claim.Number))
	if err != nil {
		return fmt.Errorf("look for other hubs: %w", err)
	}
	if len(all) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s has claimed it after this one; stop one of the two", ErrTaken, l.holder(ctx, all[len(all)-1]))
}

func (l *Ledger) holder(ctx context.Context, n uint64) string {
	var c claim
	b, err := l.store.Get(ctx, claimKey(n))
	if err != nil || json.Unmarshal(b, &c) != nil {
		return claimKey(n)
	}
	return fmt.Sprintf("%s (started %s, %s)", c.Holder, c.Started.Format(time.RFC3339), claimKey(n))
}
