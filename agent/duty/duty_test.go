package duty

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/bucket/faulty"
	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

func folder(t *testing.T) *bucket.Bucket {
	t.Helper()
	b, err := bucket.Open(t.Context(), "file://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func drop(t testing.TB, b *bucket.Bucket, slate, root string) string {
	t.Helper()
	id := ulid.Make().String()
	body := fmt.Sprintf(`{"version":1,"action":"register","slate":%q,"root":%q,"owner":"team"}`, slate, root)
	if err := b.PutNew(context.Background(), catalog.InboxPrefix+id+".json", []byte(body)); err != nil {
		t.Fatal(err)
	}
	return id
}

// contend starts a process that wants the duty.
func contend(t *testing.T, b *bucket.Bucket, o Options) (d *Duty, stop func()) {
	t.Helper()
	o.Ready = func() bool { return true }
	o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	d, err := New(b, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = d.Run(ctx) }()
	var once sync.Once
	stop = func() { once.Do(func() { cancel(); <-done }) }
	t.Cleanup(stop)
	return d, stop
}

// rows are the declarations that the catalog slate holds by slate, how often
// each is there, and its revision.
func rows(t testing.TB, b *bucket.Bucket) (slates map[string]int, revision uint64) {
	t.Helper()
	r, err := slatedb.OpenReader(context.Background(), b, catalog.CatalogRoot, slatedb.ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	slates = map[string]int{}
	for e, err := range r.Scan(context.Background(), nil, nil) {
		if err != nil {
			t.Fatal(err)
		}
		row, err := catalog.DecodeRow(e.Key, e.Value)
		if err != nil {
			t.Fatal(err)
		}
		revision = max(revision, row.Revision)
		if catalog.HoldsDeclaration(row.Path) {
			reg, err := catalog.ReadRegistration("x.json", row.Value)
			if err != nil {
				t.Fatal(err)
			}
			slates[reg.Slate]++
		}
	}
	return slates, revision
}

func inbox(t testing.TB, b *bucket.Bucket) int {
	t.Helper()
	objects, _, err := b.List(context.Background(), catalog.InboxPrefix)
	if err != nil {
		t.Fatal(err)
	}
	return len(objects)
}

// Fifty processes register at once. None knows of another, and each is in the
// catalog exactly once; the inbox is empty then. The same holds for a bucket
// that for years had nothing but an inbox.
func TestOD3_FiftyRegistrantsAtOnceAreEachInTheCatalogOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := folder(t)
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() { drop(t, b, fmt.Sprintf("slate-%02d", i), fmt.Sprintf("dbs/%02d", i)) })
		}
		contend(t, b, Options{Holder: "a"})
		wg.Wait()
		time.Sleep(2 * time.Minute)
		got, revision := rows(t, b)
		if len(got) != 50 || revision == 0 || inbox(t, b) != 0 {
			t.Errorf("%d slates at revision %d, %d in the inbox", len(got), revision, inbox(t, b))
		}
		for slate, n := range got {
			if n != 1 {
				t.Errorf("%s is there %d times", slate, n)
			}
		}
	})
}

// What nobody understands stays in the inbox and keeps nothing else out.
func TestAnObjectThatIsNotUnderstoodStaysInTheInbox(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := folder(t)
		if err := b.PutNew(t.Context(), catalog.InboxPrefix+"0.json", []byte("{")); err != nil {
			t.Fatal(err)
		}
		drop(t, b, "orders", "dbs/orders")
		contend(t, b, Options{Holder: "a"})
		time.Sleep(time.Minute)
		if got, _ := rows(t, b); len(got) != 1 || inbox(t, b) != 1 {
			t.Errorf("catalog %v, %d in the inbox", got, inbox(t, b))
		}
	})
}

// The batch is durable and the process dies before the inbox is emptied: the
// next one finds the object again, changes no row and removes it.
func TestACrashBetweenFoldAndRemovalChangesNothing(t *testing.T) {
	under := folder(t)
	b, faults := faulty.New(under)
	drop(t, under, "orders", "dbs/orders")
	k, err := open(t.Context(), Store{b: b}, newSeats(nil, nil, DefaultEvery))
	if err != nil {
		t.Fatal(err)
	}
	faults.Add(faulty.Fault{Method: bucket.Delete, Keys: catalog.InboxPrefix + "*"})
	if _, _, err := k.fold(t.Context(), claim{Number: 1}); !errors.Is(err, bucket.ErrUnavailable) {
		t.Fatalf("the removal went well: %v", err)
	}
	k.w.Abandon()
	if inbox(t, under) != 1 {
		t.Fatal("the object is gone")
	}
	_, before := rows(t, under)
	k, err = open(t.Context(), Store{b: b}, newSeats(nil, nil, DefaultEvery))
	if err != nil {
		t.Fatal(err)
	}
	defer k.w.Abandon()
	if n, _, err := k.fold(t.Context(), claim{Number: 2}); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	got, after := rows(t, under)
	if got["orders"] != 1 || len(got) != 1 || after != before || inbox(t, under) != 0 {
		t.Errorf("catalog %v at revision %d, before %d; %d in the inbox", got, after, before, inbox(t, under))
	}
}

// A second holder fences the first within one write, loses nothing, and its
// revisions go on from where the first one's ended.
func TestOD5_ASecondHolderFencesTheFirst(t *testing.T) {
	b := folder(t)
	first, err := open(t.Context(), Store{b: b}, newSeats(nil, nil, DefaultEvery))
	if err != nil {
		t.Fatal(err)
	}
	defer first.w.Abandon()
	drop(t, b, "orders", "dbs/orders")
	if _, _, err := first.fold(t.Context(), claim{Number: 1}); err != nil {
		t.Fatal(err)
	}
	_, before := rows(t, b)
	second, err := open(t.Context(), Store{b: b}, newSeats(nil, nil, DefaultEvery))
	if err != nil {
		t.Fatal(err)
	}
	defer second.w.Abandon()
	drop(t, b, "users", "dbs/users")
	if _, _, err := first.fold(t.Context(), claim{Number: 1}); !errors.Is(err, slatedb.ErrFenced) {
		t.Fatalf("the first still writes: %v", err)
	}
	if inbox(t, b) != 1 {
		t.Fatal("a fenced holder removed what it did not fold")
	}
	if _, _, err := second.fold(t.Context(), claim{Number: 2}); err != nil {
		t.Fatal(err)
	}
	if got, after := rows(t, b); len(got) != 2 || after <= before {
		t.Errorf("catalog %v at revision %d, before %d", got, after, before)
	}
}

// A holder that was stopped wakes and finds a declaration in the inbox that says
// what its own rows say: it is no repetition, for another holder has taken it
// back meanwhile. It must not remove it.
func TestAHolderOfThePastRemovesNothingFromTheInbox(t *testing.T) {
	b := folder(t)
	first, err := open(t.Context(), Store{b: b}, newSeats(nil, nil, DefaultEvery))
	if err != nil {
		t.Fatal(err)
	}
	defer first.w.Abandon()
	drop(t, b, "orders", "dbs/orders")
	if _, _, err := first.fold(t.Context(), claim{Number: 1}); err != nil {
		t.Fatal(err)
	}
	second, err := open(t.Context(), Store{b: b}, newSeats(nil, nil, DefaultEvery))
	if err != nil {
		t.Fatal(err)
	}
	defer second.w.Abandon()
	back := fmt.Sprintf("%s%s.json", catalog.InboxPrefix, ulid.Make())
	if err := b.PutNew(t.Context(), back, []byte(`{"version":1,"action":"deregister","slate":"orders","root":"dbs/orders","owner":"team"}`)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := second.fold(t.Context(), claim{Number: 2}); err != nil {
		t.Fatal(err)
	}
	again := drop(t, b, "orders", "dbs/orders")
	if _, _, err := first.fold(t.Context(), claim{Number: 1}); !errors.Is(err, slatedb.ErrFenced) {
		t.Fatalf("the first goes on: %v", err)
	}
	if inbox(t, b) != 1 {
		t.Fatal("the first removed what the second has not taken")
	}
	if _, _, err := second.fold(t.Context(), claim{Number: 2}); err != nil {
		t.Fatal(err)
	}
	if second.declared[again].Action != catalog.Register {
		t.Errorf("the last declaration is lost: %v", second.declared)
	}
}

// One that stands by takes over after a TTL without a beat, and at once when
// the holder says goodbye.
func TestTheDutyPassesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		under := folder(t)
		b, faults := faulty.New(under)
		_, stopFirst := contend(t, b, Options{Holder: "first"})
		time.Sleep(20 * time.Second)
		second, stopSecond := contend(t, under, Options{Holder: "second"})
		time.Sleep(5 * time.Minute)
		if n, _ := second.highest(t.Context()); n != 1 {
			t.Fatalf("claim %d was made while the holder beat", n)
		}
		faults.Add(faulty.Fault{Times: -1}) // the first is cut off
		time.Sleep(25 * time.Second)
		drop(t, under, "orders", "dbs/orders")
		time.Sleep(2 * time.Minute)
		if n, _ := second.highest(t.Context()); n != 2 {
			t.Fatalf("claim %d rules after the holder was cut off", n)
		}
		if got, _ := rows(t, under); got["orders"] != 1 {
			t.Errorf("catalog %v", got)
		}
		stopFirst()
		contend(t, under, Options{Holder: "third"})
		stopSecond()
		time.Sleep(12 * time.Second)
		if n, _ := second.highest(t.Context()); n != 3 {
			t.Errorf("claim %d rules 12 s after a goodbye", n)
		}
	})
}

// Two processes fight for the duty: now one, now the other is cut off from the
// bucket and comes back, while registrants go on. No record is lost and
// revisions only grow.
func TestTwoFightForTheDutyAndLoseNothing(t *testing.T) {
	seed, long := rand.Uint64(), 5*time.Minute
	if os.Getenv("QUARRY_SOAK") != "" {
		long = time.Hour
	}
	t.Logf("seed %d", seed)
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(seed, 1))
		b := folder(t)
		var cut [2]*faulty.Faults
		for i := range cut {
			var mine *bucket.Bucket
			mine, cut[i] = faulty.New(b)
			contend(t, mine, Options{Holder: fmt.Sprint(i), TTL: 3 * time.Second, Every: 500 * time.Millisecond})
		}
		want := map[string]int{}
		last := uint64(0)
		for began := time.Now(); time.Since(began) < long; {
			slate := fmt.Sprintf("slate-%04d", len(want))
			drop(t, b, slate, "dbs/"+slate)
			want[slate] = 1
			who := cut[rng.IntN(2)]
			if rng.IntN(2) == 0 {
				who.Add(faulty.Fault{Times: 1 + rng.IntN(40)})
			} else {
				who.Clear()
			}
			time.Sleep(time.Duration(rng.IntN(4000)) * time.Millisecond)
			if _, _, err := b.Stat(context.Background(), catalog.CatalogRoot+"/manifest/00000000000000000001.manifest"); err == nil {
				_, now := rows(t, b)
				if now < last {
					t.Fatalf("revision %d after %d", now, last)
				}
				last = now
			}
		}
		for _, c := range cut {
			c.Clear()
		}
		time.Sleep(time.Minute)
		got, revision := rows(t, b)
		if !maps.Equal(got, want) || inbox(t, b) != 0 {
			t.Errorf("%d slates of %d, %d in the inbox", len(got), len(want), inbox(t, b))
		}
		top, _ := (&Duty{b: Store{b: b}}).highest(context.Background())
		t.Logf("%d registrations, revision %d, %d claims", len(want), revision, top)
		if top < 2 {
			t.Error("nobody ever took over: the fight was none")
		}
	})
}
