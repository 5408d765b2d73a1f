package session

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// T23: an agent that connects every 300 ms is let in at the pace that it may
// have, one whose link breaks every few seconds is not kept waiting.
func TestAnAgentThatComesAndGoesWaits(t *testing.T) {
	for _, c := range []struct {
		name  string
		every time.Duration
		low   int64
		high  int64
	}{{"every 300ms", 300 * time.Millisecond, 8, 32}, {"every 4s", 4 * time.Second, 15, 15}} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := &damper{every: 3 * time.Second, log: slog.New(slog.DiscardHandler), flaps: map[string]*flap{}}
				var in atomic.Int64
				for began := time.Now(); time.Since(began) < time.Minute; time.Sleep(c.every) {
					ctx, cancel := context.WithTimeout(t.Context(), c.every)
					go func() {
						defer cancel()
						if err := d.admit(ctx, "eu\x00k1\x00pod"); err == nil {
							in.Add(1)
						} else if !errors.Is(err, errFlapped) && !errors.Is(err, context.DeadlineExceeded) {
							t.Error(err)
						}
					}()
				}
				synctest.Wait()
				if n := in.Load(); n < c.low || n > c.high {
					t.Errorf("let in %d times in a minute, want %d to %d", n, c.low, c.high)
				}
				before := time.Now()
				if err := d.admit(t.Context(), "eu\x00k1\x00another"); err != nil || time.Since(before) > 0 {
					t.Errorf("another agent waited %s: %v", time.Since(before), err)
				}
				time.Sleep(time.Minute)
				if wait, _ := d.ask("eu\x00k1\x00pod", time.Now()); wait > 0 {
					t.Errorf("after a quiet minute it still waits %s", wait)
				}
			})
		})
	}
}
