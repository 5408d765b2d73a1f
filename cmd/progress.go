package cmd

import (
	"fmt"
	"sync"
	"time"
)

// progress shows how far a long work is, on a terminal only and only on
// stderr, not more often than eyes can follow. It may be called from several
// goroutines. Nil when there is nobody to see it.
func (a *app) progress(what string) func(done, total int) {
	if !isTerminal(a.err) || a.output != "table" && a.output != "wide" {
		return nil
	}
	var mu sync.Mutex
	var last time.Time
	return func(done, total int) {
		mu.Lock()
		defer mu.Unlock()
		if done >= total {
			fmt.Fprint(a.err, "\r\x1b[K")
			return
		}
		if now := time.Now(); now.Sub(last) >= 100*time.Millisecond {
			last = now
			fmt.Fprintf(a.err, "\r\x1b[K%s: %d of %d objects", what, done, total)
		}
	}
}
