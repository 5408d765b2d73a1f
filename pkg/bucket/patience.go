package bucket

import (
	"context"
	"time"
)

// patience is how long a call may take whose context has no deadline of its own:
// this long, and a second more for each MiB it is known to move. A listing has it
// anew for each page.
const patience = 20 * time.Second

const patiencePerMiB = time.Second

// bounded is a call's context, and the timer that ends it.
type bounded struct {
	context.Context
	timer *time.Timer
	base  time.Duration
	end   context.CancelCauseFunc
}

// bound gives ctx a limit when it has none. Whoever calls it calls release.
func (b *Bucket) bound(ctx context.Context, size int) *bounded {
	call := &bounded{base: b.core.patience}
	call.Context, call.end = context.WithCancelCause(ctx)
	if _, has := ctx.Deadline(); !has {
		call.timer = time.AfterFunc(call.base+allowance(int64(size)), func() { call.end(errStalled) })
	}
	return call
}

// more starts the time anew, with what size bytes may take on top.
func (call *bounded) more(size int64) {
	if call.timer != nil {
		call.timer.Reset(call.base + allowance(size))
	}
}

// hold stops the clock while the caller does something of its own.
func (call *bounded) hold() {
	if call.timer != nil {
		call.timer.Stop()
	}
}

func (call *bounded) release() {
	call.hold()
	call.end(nil)
}

func allowance(size int64) time.Duration {
	return time.Duration(size>>20) * patiencePerMiB
}
