package report

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A restarted agent once greeted the hub before its bucket had answered, and
// every restart told of a blind region. Now it looks first, and a bucket that
// does not answer at all is told after a while.
func TestAnAgentLooksBeforeItSpeaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := func() (*Report, *atomic.Int32) {
			var dials atomic.Int32
			r, err := New(Options{Region: "eu", Cluster: "a", Hub: "127.0.0.1:1", Start: 1, LookFirst: 3 * time.Second,
				Dial: func(context.Context, string) (net.Conn, error) { dials.Add(1); return nil, errors.New("nobody") }})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- r.Run(ctx) }()
			t.Cleanup(func() { cancel(); <-done })
			return r, &dials
		}
		r, dials := begin()
		time.Sleep(time.Second)
		r.SetHealth(Health{ReadOK: true}) // it answers, but which bucket is it?
		synctest.Wait()
		if dials.Load() > 0 {
			t.Error("it spoke before it knew its bucket")
		}
		if r.health.ReadOK || r.health.BucketWhy != notLooked {
			t.Errorf("half a look would be told as %+v", r.health)
		}
		r.SetHealth(Health{ReadOK: true, BucketID: "B"})
		synctest.Wait()
		if dials.Load() == 0 {
			t.Error("it knows its bucket and does not speak")
		}
		_, dials = begin()
		time.Sleep(4 * time.Second)
		if dials.Load() == 0 {
			t.Error("a bucket that does not answer is never told")
		}
	})
}
