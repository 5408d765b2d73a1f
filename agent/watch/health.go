package watch

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
)

// tooLate is how many polls a look may be late before we say that the budget
// is too small for what there is.
const tooLate = 5

// healthTask tells how looking goes, and what it costs.
func (w *Watcher) healthTask(context.Context) time.Duration {
	w.spend.sample(w.b.Requests(), time.Now())
	late := w.looks.lateness()
	if behind := late > tooLate*w.o.Poll+time.Second; behind != w.behind.Swap(behind) {
		if behind {
			w.log.Warn("looks are late: intervals are stretched to keep within the budget", "late", late.Round(time.Second), "budget", w.o.Budget)
		} else {
			w.log.Info("looks are on time again")
		}
	}
	w.tellHealth()
	return 10 * w.o.Poll
}

func (w *Watcher) tellHealth() {
	w.telling.Lock() // so that an older word never follows a newer one
	defer w.telling.Unlock()
	w.to.SetHealth(w.Health())
}

// Progress is how many slates are followed, and whether everything was looked
// at once.
func (w *Watcher) Progress() (slates int, ready bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.slates), w.told
}

// Health puts together what the senses, the region's descriptor and the purse
// say. It may be called at any time.
func (w *Watcher) Health() Health {
	h := Health{Budget: w.o.Budget, Spend: w.spend.perHour(w.b.Requests(), time.Now())}
	h.ReadOK, h.Reason, h.CannotKeep = w.senses.state()
	w.mu.Lock()
	h.BucketID, h.BucketWhy = w.region.id, w.region.why
	if w.foreign != "" {
		h.ReadOK, h.Reason = false, w.foreign
	}
	w.mu.Unlock()
	if h.ReadOK && w.behind.Load() {
		h.Reason = fmt.Sprintf("over-budget: looks are %v late, intervals are stretched; raise --budget above %.0f/h", w.looks.lateness().Round(time.Second), w.o.Budget)
	}
	return h
}

// spending is what was asked of the bucket, minute by minute for an hour.
type spending struct {
	mu      sync.Mutex
	samples []spent // oldest first
}

type spent struct {
	at   time.Time
	what bucket.Requests
}

func (s *spending) begin(r bucket.Requests, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.samples = append(s.samples[:0], spent{now, r})
}

func (s *spending) sample(r bucket.Requests, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.samples[len(s.samples)-1].at) < time.Minute {
		return
	}
	s.samples = append(s.samples, spent{now, r})
	for len(s.samples) > 1 && now.Sub(s.samples[1].at) >= time.Hour {
		s.samples = s.samples[1:]
	}
}

// perHour is what was asked within the last hour, or since the start when that
// is less: a count, never an extrapolation of the first busy seconds.
func (s *spending) perHour(r bucket.Requests, now time.Time) map[string]float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.samples) == 0 {
		return nil
	}
	d := r.Since(s.samples[0].what)
	share := 1.0 // of the samples' time that lies within the hour
	if over := now.Sub(s.samples[0].at); over > time.Hour {
		share = float64(time.Hour) / float64(over)
	}
	rate := func(n int64) float64 { return math.Round(float64(n) * share) }
	return map[string]float64{"get": rate(d.Get), "head": rate(d.Head), "list": rate(d.List), "put": rate(d.Put), "delete": rate(d.Delete)}
}
