package duty

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// Prefix is where the claims lie.
const Prefix = catalog.Prefix + "duty/"

// claim is .quarry/duty/<n>.json: who took the duty as the n-th. Created if
// absent, never overwritten.
type claim struct {
	Version int       `json:"version"` // 1
	Number  uint64    `json:"number"`
	Holder  string    `json:"holder"`
	ID      string    `json:"id"` // a UUID, so that no two claims are the same bytes
	TTL     float64   `json:"ttl_seconds"`
	At      time.Time `json:"at"` // holder's clock, shown and never used
}

// lease is .quarry/duty/<n>.lease: its holder overwrites it while it lives.
// Others only look whether it changes.
type lease struct {
	Version int    `json:"version"` // 1
	Number  uint64 `json:"number"`
	ID      string `json:"id"` // of the claim
	Beat    uint64 `json:"beat"`
	// TTL is after how many seconds without a change others may take over: a
	// holder that may ask little of the bucket beats rarely.
	TTL      float64 `json:"ttl_seconds,omitempty"`
	Released bool    `json:"released,omitempty"`
}

// longestTTL is the longest that a lease is waited for, whatever it says.
const longestTTL = 6 * time.Hour

// patience is how long a lease may stand still before its holder is succeeded.
func (d *Duty) patience(raw []byte) time.Duration {
	var l lease
	if json.Unmarshal(raw, &l) != nil || !(l.TTL > 0) {
		return d.o.TTL
	}
	return time.Duration(min(l.TTL, longestTTL.Seconds()) * float64(time.Second))
}

func claimKey(n uint64) string { return fmt.Sprintf("%s%020d.json", Prefix, n) }
func leaseKey(n uint64) string { return fmt.Sprintf("%s%020d.lease", Prefix, n) }

// claimNumber reads the number out of a claim's key.
func claimNumber(key string) (uint64, bool) {
	s, ok := strings.CutSuffix(strings.TrimPrefix(key, Prefix), ".json")
	n, err := strconv.ParseUint(s, 10, 64)
	return n, ok && err == nil && n > 0 && claimKey(n) == key
}

// highest is the number of the claim that rules; 0: there is none.
func (d *Duty) highest(ctx context.Context) (uint64, error) {
	var n uint64
	err := d.b.Walk(ctx, Prefix, "", func(key string, _ int64, _ time.Time) error {
		if got, ok := claimNumber(key); ok {
			n = max(n, got)
		}
		return nil
	})
	return n, err
}

// rival is the ruling claim as one sees it that would like to have it.
type rival struct {
	number uint64
	lease  []byte
	since  time.Time // our own monotonic clock, when the lease was last seen to change
}

// win returns once this process holds the duty. It takes the duty over when the
// holder's lease did not change for the whole TTL that it names on our own monotonic clock, or
// says that it was released: nobody's wall clock is asked. That the holder may
// only be slow does no harm: the catalog's epoch fences it.
func (d *Duty) win(ctx context.Context) (claim, error) {
	var seen *rival
	for {
		if err := d.wait(ctx, d.o.TTL/6, nil); err != nil {
			return claim{}, err
		}
		if !d.o.Ready() {
			seen = nil
			continue
		}
		n, err := d.highest(ctx)
		if err == nil && n > 0 {
			var raw []byte
			raw, err = d.b.Get(ctx, leaseKey(n))
			if errors.Is(err, fs.ErrNotExist) {
				raw, err = nil, nil // it has just claimed, or died before its first beat
			}
			if err == nil && (seen == nil || seen.number != n || !bytes.Equal(seen.lease, raw)) {
				seen = &rival{n, raw, time.Now()}
			}
		}
		if err != nil {
			d.complain("the duty's claims cannot be read", err)
			continue
		}
		if n > 0 && !released(seen.lease) && time.Since(seen.since) < d.patience(seen.lease) {
			continue
		}
		c, err := d.take(ctx, n+1)
		switch {
		case errors.Is(err, fs.ErrExist):
			// Another was first.
		case err != nil:
			d.complain("the region duty cannot be claimed", err)
		default:
			return c, nil
		}
	}
}

func released(raw []byte) bool {
	var l lease
	return json.Unmarshal(raw, &l) == nil && l.Released
}

func (d *Duty) take(ctx context.Context, n uint64) (claim, error) {
	c := claim{Version: 1, Number: n, Holder: d.o.Holder, ID: uuid.NewString(), TTL: d.o.TTL.Seconds(), At: time.Now().UTC()}
	raw, err := json.Marshal(c)
	if err != nil {
		return c, err
	}
	if err := d.b.PutNew(ctx, claimKey(n), raw); err != nil {
		return c, err
	}
	// Numbers below were perhaps cleared away since we looked: ours then
	// is a new object and rules nothing.
	if top, err := d.highest(ctx); err != nil {
		return c, err
	} else if top != n {
		return c, fmt.Errorf("claim %d, %d rules: %w", n, top, fs.ErrExist)
	}
	return c, nil
}

// rules reports whether c is still the highest claim.
func (d *Duty) rules(ctx context.Context, c claim) (bool, error) {
	top, err := d.highest(ctx)
	return top == c.Number, err
}

func (d *Duty) beat(ctx context.Context, c claim, n uint64, over bool) error {
	raw, err := json.Marshal(lease{Version: 1, Number: c.Number, ID: c.ID, Beat: n, TTL: c.TTL, Released: over})
	if err != nil {
		return err
	}
	return d.b.Put(ctx, leaseKey(c.Number), raw)
}

// keepClaims is how many claims are kept for people to see.
const keepClaims = 8

// clear removes claims and leases far below c. A process that stalled since it
// listed them finds out in take that its number rules nothing.
func (d *Duty) clear(ctx context.Context, c claim) {
	var old []string
	_ = d.b.Walk(ctx, Prefix, "", func(key string, _ int64, _ time.Time) error {
		claimed := strings.TrimSuffix(key, ".lease")
		if n, ok := claimNumber(strings.TrimSuffix(claimed, ".json") + ".json"); ok && n+keepClaims <= c.Number {
			old = append(old, key)
		}
		return nil
	})
	for _, key := range old {
		_ = d.b.Delete(ctx, key) // what stays goes the next time
	}
}
