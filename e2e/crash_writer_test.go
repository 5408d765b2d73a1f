//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/quarry-db/quarry/e2e/peers"
	"github.com/quarry-db/quarry/pkg/bucket/faulty"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

// companies are the versions that can write one database in turn: 0.12.1 reads
// neither the filters nor the compactor's states of later ones, and 0.13.1 not
// the fences.
var companies = [][]string{{"0.12.1"}, {"0.13.1"}, {"0.14.1", "0.15.0", "0.16.0", "0.17.0"}}

// numbered is batch n of a writer that is to be killed: whoever finds x, y or z
// with different numbers has found a torn batch.
func numbered(n int) changes {
	v := fmt.Sprint(n)
	return changes{"x": &v, "y": &v, "z": &v, "n" + v: new(v)}
}

// Our writer is killed at every one of its calls to the store, once before the
// call has an effect and once after; it flushes, compacts and collects between.
// The real core that opens next sees the batches that were acknowledged, or
// those and the one under way, and goes on; we read what it wrote.
func TestCrash_TheRealCoreOpensWhateverOurWriterLeft(t *testing.T) {
	a := folderArena(t, "")
	for _, tidy := range []bool{false, true} {
		script := func(ctx context.Context, s slatedb.WriteStore, root string) (acked, sent int) {
			o := slatedb.Options{FlushWAL: 3, Patience: time.Nanosecond, Poll: time.Hour}
			if tidy {
				o.FlushWAL, o.Tidy = 1, &slatedb.Tidy{MinAge: time.Nanosecond}
			}
			w, err := slatedb.Open(ctx, s, root, o)
			if err != nil {
				return 0, 0
			}
			defer w.Abandon()
			for n := 1; n <= 7; n++ {
				sent = n
				if _, err := w.Write(ctx, numbered(n).batch()); err != nil {
					return acked, sent
				}
				acked = n
				if tidy && w.Flush(ctx) != nil {
					return acked, sent
				}
			}
			_ = w.Close(ctx)
			return acked, sent
		}
		clean, faults := faulty.New(a.b)
		if acked, _ := script(t.Context(), clean, fmt.Sprintf("clean-%v", tidy)); acked != 7 {
			t.Fatalf("without faults %d of 7 are acknowledged", acked)
		}
		calls := len(faults.Calls())
		opened := 0
		step := 1
		if tidy && os.Getenv("QUARRY_SOAK") == "" {
			step = 5 // there are some 300 calls
		}
		for nth := 1 + rand.IntN(step); nth <= calls; nth += step {
			for _, kind := range []faulty.Kind{faulty.Refuse, faulty.Lose} {
				version := peers.Versions[(nth+int(kind)*3)%len(peers.Versions)]
				db := a.at(fmt.Sprintf("dbs/%v-%03d-%d", tidy, nth, kind))
				s, faults := faulty.New(a.b)
				faults.Add(faulty.Fault{Nth: nth, Kind: kind})
				faults.Add(faulty.Fault{Nth: nth, Times: -1}) // and the process is dead
				acked, sent := script(t.Context(), s, db.root)
				when := fmt.Sprintf("killed at call %d of %d, effect %v: %d acknowledged, %d sent", nth, calls, kind == faulty.Lose, acked, sent)
				for n := 1; n <= acked; n++ {
					db.acked = numbered(n).in(db.acked)
				}
				if sent > acked {
					db.doubt = numbered(sent)
				}
				p := db.theirs(version)
				db.theyRead(when, version)
				db.put(p, changes{"after": new("x")})
				p.Op("close", db.root)
				db.weRead(when + ", and the real core went on")
				opened++
			}
		}
		t.Logf("tidying %v: %d crashes, each opened by a real core", tidy, opened)
	}
}

// Our writer's process is killed with SIGKILL while it writes, flushes,
// compacts and collects, again and again; in turn we and a real core open what
// it left.
func TestCrash_OurProcessIsKilled(t *testing.T) {
	rounds := 24
	if os.Getenv("QUARRY_SOAK") != "" {
		rounds = 300
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	a := folderArena(t, "db")
	together := companies[rng.IntN(len(companies))]
	n, doubts := 0, 0
	// How long a batch is left alone before the kill, at most: less after one that
	// was answered, more after one that was not, so that kills fall where it ends.
	leave := 600 * time.Microsecond
	for round := range rounds {
		p := peers.StartOurs(t, a.b.URL(), nil)
		p.Do(map[string]any{"op": "open", "root": a.root, "compact": round%2 == 0})
		a.is(fmt.Sprintf("round %d, opened by us", round), said(p.Op("scan", a.root)))
		for range rng.IntN(15) {
			n++
			a.put(p, numbered(n))
			if rng.IntN(3) == 0 {
				p.Op("l0", a.root)
			}
		}
		n++
		answer, answered := p.Hurry(map[string]any{"op": "put", "root": a.root, "rows": numbered(n).rows()}, time.Duration(rng.Int64N(int64(leave))))
		switch {
		case answer.Error != "":
			t.Fatalf("round %d: %s", round, answer.Error)
		case answered:
			a.acked = numbered(n).in(a.acked)
			leave = max(leave*2/3, 10*time.Microsecond)
		default:
			a.doubt = numbered(n)
			doubts++
			leave = min(leave*2, 2*time.Millisecond)
		}
		if round%3 == 0 {
			version := together[rng.IntN(len(together))]
			when := fmt.Sprintf("round %d, SlateDB %s", round, version)
			p := a.theirs(version, "compact")
			a.theyRead(when, version)
			n++
			a.put(p, numbered(n))
			a.kill(version)
		}
		a.weRead(fmt.Sprintf("round %d", round))
	}
	t.Logf("%d kills, %d batches, %d of them in doubt; SlateDB %v", rounds, n, doubts, together)
	if doubts == 0 {
		t.Error("no batch was ever under way when the process was killed")
	}
}
