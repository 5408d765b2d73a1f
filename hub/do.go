package hub

import (
	"context"

	"github.com/quarry-db/quarry/hub/state"
)

// Do carries a person's command to the loop and returns when it is in force,
// or with its refusal. Anybody may call it.
func (h *Hub) Do(ctx context.Context, c state.Command) error { return h.command(ctx, c) }
