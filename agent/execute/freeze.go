package execute

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/reaction"
)

// frost is .quarry/freeze/<n>.json: whether anything irreversible may be done
// in this region. It is in the bucket, so that a restart does not thaw.
type frost struct {
	Version  int       `json:"version"` // 1
	Frozen   bool      `json:"frozen"`
	Decision string    `json:"decision"`
	Ledger   string    `json:"ledger"`
	Sequence uint64    `json:"sequence"`
	Reason   string    `json:"reason"`
	At       time.Time `json:"at"` // agent's clock
}

func (e *Executor) frost(ctx context.Context) (uint64, *frost, error) {
	n, raw, err := e.numbered(ctx, freezePrefix)
	if err != nil || n == 0 {
		return 0, nil, err
	}
	var f frost
	if err := json.Unmarshal(raw, &f); err != nil || f.Version != 1 {
		return n, nil, refused(catalog.CodeFrozen, "%s cannot be understood, so nothing irreversible is done: %v", numberedKey(freezePrefix, n), err)
	}
	return n, &f, nil
}

// thawed is nil when nothing is frozen. That it cannot be read is an error too
// (P2).
func (e *Executor) thawed(ctx context.Context) error {
	n, f, err := e.frost(ctx)
	if err != nil || f == nil || !f.Frozen {
		return err
	}
	return refused(catalog.CodeFrozen, "this region was frozen (%d): %s; see quarry thaw", n, f.Reason)
}

// freeze freezes or thaws.
func (e *Executor) freeze(t *task) work {
	frozen := t.d.Verb == catalog.VerbFreeze
	set := func(ctx context.Context) error {
		i := frost{Version: 1, Frozen: frozen, Decision: t.d.ID, Ledger: t.d.Ledger, Sequence: t.d.Sequence, Reason: t.d.Parameters.Reason, At: time.Now().UTC()}
		if err := e.record(ctx, t, "2-"+string(t.d.Verb), i, &i); err != nil {
			return err
		}
		// The number is no part of what was written down: when another took it,
		// this is the next.
		n, now, err := e.frost(ctx)
		if err != nil && !isRefusal(err) {
			return err
		}
		if now != nil && now.Ledger == i.Ledger && now.Sequence > i.Sequence {
			return refused(catalog.CodeReplayed, "what rules (%d) was decided later", n)
		}
		raw, err := json.Marshal(i)
		if err != nil {
			return err
		}
		err = e.b.PutNew(ctx, numberedKey(freezePrefix, n+1), raw)
		if errors.Is(err, fs.ErrExist) {
			err = nil // reading it back tells whose it is
		}
		return err
	}
	return work{
		check: nothing,
		act:   []*reaction.Step{reaction.Do("write it down for all agents", quiet(set))},
		observe: func(ctx context.Context) error {
			_, f, err := e.frost(ctx)
			if err != nil {
				return err
			}
			if f == nil || f.Decision != t.d.ID {
				return fmt.Errorf("it is not what rules: %w", errNotSeen)
			}
			return nil
		},
	}
}
