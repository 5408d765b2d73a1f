package duty

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
)

// With the defaults, something new every second and a declaration every ten, an
// hour of the duty costs about what [steady] says, and every request of it was
// paid for before it was made. So does an hour of standing by.
func TestTheDutyPaysForWhatItAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := bucket.Open(t.Context(), "mem://")
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		var paid atomic.Int64
		w := newWorld()
		d, stop := contend(t, b, Options{Holder: "a", Seen: w, Pay: func(ctx context.Context) error { paid.Add(1); return ctx.Err() }})
		w.d = d
		time.Sleep(time.Minute)
		before, at, own := b.Requests(), paid.Load(), 0
		for n := range 3600 {
			s := sighted(fmt.Sprint("dbs/", n%50), uint64(n))
			s.WriterEpoch = num(uint64(n))
			w.see(s)
			if n%10 == 0 {
				drop(t, b, fmt.Sprint("slate-", n), fmt.Sprint("logs/", n))
				d.Poke()
				own++
			}
			time.Sleep(time.Second)
		}
		spent := b.Requests().Since(before)
		asked := spent.Get + spent.Head + spent.List + spent.Put + spent.Delete - int64(own)
		folding := int64(2 * own) // read and removed
		t.Logf("an hour: %+v, %d of the duty, %d of those for %d declarations", spent, asked, folding, own)
		if got := paid.Load() - at; got < asked {
			t.Errorf("%d requests were paid for, %d made", got, asked)
		}
		if rest := asked - folding; rest > steady || rest < steady/2 {
			t.Errorf("%d requests besides those of declarations; steady says %d", rest, steady)
		}
		stop()

		contend(t, b, Options{Holder: "b"})
		time.Sleep(time.Minute)
		standby, _ := contend(t, b, Options{Holder: "c", Pay: func(ctx context.Context) error { paid.Add(1); return ctx.Err() }})
		at = paid.Load()
		time.Sleep(time.Hour)
		if n, _ := standby.highest(t.Context()); n != 2 {
			t.Fatalf("claim %d rules", n)
		}
		got := paid.Load() - at
		t.Logf("an hour of standing by: %d", got)
		if got > steady {
			t.Errorf("%d requests to stand by", got)
		}
	})
}

// A small budget makes the duty slow; it never makes it stop, and others wait
// for as long as its holder says.
func TestASmallBudgetMakesTheDutySlow(t *testing.T) {
	for _, c := range []struct {
		perHour    float64
		ttl, every time.Duration
	}{
		{360_000, DefaultTTL, DefaultEvery},
		{15_000, DefaultTTL, DefaultEvery},
		{1_500, 10 * DefaultTTL, 10 * DefaultEvery},
		{60, 250 * DefaultTTL, 250 * DefaultEvery},
	} {
		if ttl, every := Frugal(c.perHour); ttl.Round(time.Second) != c.ttl || every.Round(time.Second) != c.every {
			t.Errorf("%v/h: %v, %v", c.perHour, ttl, every)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		b := folder(t)
		_, stop := contend(t, b, Options{Holder: "slow", TTL: 10 * time.Minute})
		time.Sleep(3 * time.Minute)
		fast, _ := contend(t, b, Options{Holder: "fast"})
		time.Sleep(time.Hour)
		if n, _ := fast.highest(t.Context()); n != 1 {
			t.Errorf("claim %d was made while a slow holder beat", n)
		}
		stop()
		time.Sleep(time.Minute)
		if n, _ := fast.highest(t.Context()); n != 2 {
			t.Errorf("claim %d rules after a goodbye", n)
		}
	})
}
