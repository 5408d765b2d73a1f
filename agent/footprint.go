package agent

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/quarry-db/quarry/agent/watch"
)

// gcPercent is how much garbage may gather, in percent of what is alive. An
// agent keeps much for its slates and makes little garbage, so collecting it
// often costs little (a few tens of milliseconds each time) and saves a third.
const gcPercent = 30

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
	const aMinute = 60 // ticks
	for n, ready := 0, -1; ; n++ {
		if _, now := w.Progress(); now && ready < 0 {
			ready = n
		}
		switch {
		case n == 5, n == ready: // 5: it stands by, or the look takes long
			release()
		case ready >= 0 && n == ready+aMinute: // sizes were listed, the hub was told
			release()
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
