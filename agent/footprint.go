package agent

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/quarry-db/quarry/agent/watch"
)

// gcPercent is how much garbage may gather, in percent of what is alive. An
// agent keeps much for its slates and makes little garbage, so half of the
// usual costs next to nothing and is a quarter of its memory.
const gcPercent = 50

// settle gives back what only the start needed, once that is over: the garbage
// of the first look, and the pages of the program itself that its start has
// touched and nothing will touch again (see releaseProgram).
func settle(ctx context.Context, w *watch.Watcher) {
	debug.SetGCPercent(gcPercent)
	release := func() {
		debug.FreeOSMemory()
		releaseProgram()
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n, ready := 0, false; ; n++ {
		if n == 5 { // it stands by, or the look takes long
			release()
		}
		if _, now := w.Progress(); now && !ready {
			ready = true
			release()
		}
		if ready && n > 5 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
