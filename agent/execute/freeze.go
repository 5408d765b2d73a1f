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
	type intent struct {
		Number uint64 `json:"number"`
		frost
	}
	set := func(ctx context.Context) error {
		n, _, err := e.frost(ctx)
		if err != nil && !isRefusal(err) {
			return err
		}
		i := intent{n + 1, frost{Version: 1, Frozen: frozen, Decision: t.d.ID, Reason: t.d.Parameters.Reason, At: time.Now().UTC()}}
		if err := e.record(ctx, t, "2-"+string(t.d.Verb), i, &i); err != nil {
			return err
		}
		raw, err := json.Marshal(i.frost)
		if err != nil {
			return err
		}
		err = e.b.PutNew(ctx, numberedKey(freezePrefix, i.Number), raw)
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
