package watch

import (
	"context"
	"sync"
	"time"
)

// lane is what a request is made for. Looking comes first, but neither lane
// can starve the other.
type lane int

const (
	looking lane = iota // probes, the inbox, the region's descriptor
	upkeep              // discovery, listings, verification, records
	lanes
)

// shares of the budget. What a lane does not use flows to the other.
var shares = [lanes]float64{looking: 0.7, upkeep: 0.3}

// burstShare of an hour's budget may be spent at once, after a start or a quiet
// time; the rest comes evenly. So no hour's spending exceeds the budget.
const burstShare = 0.25

// purse holds what may be spent on the bucket: a token for each request.
// Methods may be called at once.
type purse struct {
	mu     sync.Mutex
	rate   float64 // tokens per second
	burst  float64
	tokens [lanes]float64 // below zero: promised to those who wait
	filled time.Time
}

func newPurse(perHour float64, now time.Time) *purse {
	p := &purse{rate: perHour * (1 - burstShare) / 3600, burst: max(1, perHour*burstShare), filled: now}
	for l := range p.tokens {
		p.tokens[l] = p.burst * shares[l]
	}
	return p
}

// pay takes one token, and waits until there is one. It fails only when ctx is
// over.
func (p *purse) pay(ctx context.Context, l lane) error {
	wait := p.promise(l, time.Now())
	if wait <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// promise takes a token and says after how long it may be used.
func (p *purse) promise(l lane, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fill(now)
	if other := 1 - l; p.tokens[l] < 1 && p.tokens[other] >= p.burst*shares[other]*0.9 {
		l = other // it is full and would run over
	}
	p.tokens[l]--
	if p.tokens[l] >= 0 {
		return 0
	}
	return time.Duration(-p.tokens[l] / (p.rate * shares[l]) * float64(time.Second))
}

func (p *purse) fill(now time.Time) {
	gain := p.rate * max(0, now.Sub(p.filled).Seconds())
	p.filled = now
	var over float64
	for l := range p.tokens {
		p.tokens[l] += gain * shares[l]
		if full := p.burst * shares[l]; p.tokens[l] > full {
			over += p.tokens[l] - full
			p.tokens[l] = full
		}
	}
	for l := range p.tokens {
		p.tokens[l] = min(p.burst*shares[l], p.tokens[l]+over)
	}
}
