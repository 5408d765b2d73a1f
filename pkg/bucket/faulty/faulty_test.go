package faulty_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/bucket/buckettest"
	"github.com/quarry-db/quarry/pkg/bucket/faulty"
)

func open(t *testing.T) (*bucket.Bucket, *bucket.Bucket, *faulty.Faults) {
	t.Helper()
	inner, err := bucket.Open(context.Background(), "mem://")
	if err != nil {
		t.Fatal(err)
	}
	b, faults := faulty.New(inner)
	return b, inner, faults
}

func TestWithoutFaultsItIsABucketLikeAnyOther(t *testing.T) {
	buckettest.Run(t, func(t *testing.T) *bucket.Bucket { b, _, _ := open(t); return b },
		buckettest.Caps{KeyBesideFolder: true, StagedNames: true})
}

func TestTheNthMatchingCallFailsAndTheNextIsClean(t *testing.T) {
	b, _, faults := open(t)
	faults.Add(faulty.Fault{Method: bucket.PutNew, Keys: "dbs/*.sst", Nth: 2, Times: 2})
	var failed []string
	for _, key := range []string{"dbs/1.sst", "dbs/1.manifest", "dbs/a/2.sst", "other/3.sst", "dbs/4.sst", "dbs/5.sst"} {
		if err := b.PutNew(t.Context(), key, []byte(key)); err != nil {
			if !errors.Is(err, bucket.ErrUnavailable) {
				t.Errorf("%s: %v", key, err)
			}
			failed = append(failed, key)
			if err := b.PutNew(t.Context(), key+".retry", nil); err != nil {
				t.Errorf("another key: %v", err)
			}
		}
	}
	if len(failed) != 2 || failed[0] != "dbs/a/2.sst" || failed[1] != "dbs/4.sst" {
		t.Errorf("failed: %q", failed)
	}
	if _, err := b.Get(t.Context(), "dbs/4.sst"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a refused write had an effect: %v", err)
	}
	if err := b.PutNew(t.Context(), "dbs/4.sst", nil); err != nil {
		t.Errorf("second try: %v", err)
	}
}

func TestAWriteWhoseAnswerWasLostIsFoundAgain(t *testing.T) {
	b, inner, faults := open(t)
	faults.Add(faulty.Fault{Method: bucket.PutNew, Kind: faulty.Lose})
	if err := b.PutNew(t.Context(), "k", []byte("mine")); err != nil {
		t.Fatalf("it happened, and reading it back shows so: %v", err)
	}
	// Somebody else's object is not taken for ours.
	if err := inner.PutNew(t.Context(), "theirs", []byte("theirs")); err != nil {
		t.Fatal(err)
	}
	faults.Add(faulty.Fault{Method: bucket.PutNew, Kind: faulty.Refuse})
	if err := b.PutNew(t.Context(), "theirs", []byte("mine")); !errors.Is(err, fs.ErrExist) || errors.Is(err, bucket.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	// When reading back fails too, nobody knows.
	faults.Add(faulty.Fault{Method: bucket.PutNew, Kind: faulty.Lose})
	faults.Add(faulty.Fault{Method: bucket.Get, Kind: faulty.Refuse})
	if err := b.PutNew(t.Context(), "unknown", []byte("mine")); !errors.Is(err, bucket.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if err := b.PutNew(t.Context(), "unknown", []byte("mine")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v", err)
	}
}

func TestTornCallsLeaveHalf(t *testing.T) {
	b, inner, faults := open(t)
	faults.Add(faulty.Fault{Method: bucket.PutNew, Keys: "torn", Kind: faulty.Tear})
	if err := b.PutNew(t.Context(), "torn", []byte("0123456789")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("what is there is not what we wrote: %v", err)
	}
	if data, _ := inner.Get(t.Context(), "torn"); string(data) != "01234" {
		t.Errorf("there is %q", data)
	}
	if err := inner.PutNew(t.Context(), "k", []byte("0123456789")); err != nil {
		t.Fatal(err)
	}
	faults.Add(faulty.Fault{Method: bucket.Get, Kind: faulty.Tear})
	faults.Add(faulty.Fault{Method: bucket.GetRange, Kind: faulty.Tear})
	if data, err := b.Get(t.Context(), "k"); err != nil || string(data) != "01234" {
		t.Errorf("%q, %v", data, err)
	}
	if data, err := b.GetRange(t.Context(), "k", 4, 4); err != nil || string(data) != "45" {
		t.Errorf("%q, %v", data, err)
	}
	if data, err := b.Get(t.Context(), "k"); err != nil || string(data) != "0123456789" {
		t.Errorf("the next: %q, %v", data, err)
	}
	faults.Add(faulty.Fault{Method: bucket.List, Kind: faulty.Tear})
	var seen []string
	err := b.Walk(t.Context(), "", "", func(key string, _ int64, _ time.Time) error {
		seen = append(seen, key)
		return nil
	})
	if !errors.Is(err, bucket.ErrUnavailable) || len(seen) != 1 {
		t.Errorf("a torn listing: %q, %v", seen, err)
	}
}

func TestAStoreThatIsDownStaysDownUntilItIsUp(t *testing.T) {
	b, _, faults := open(t)
	if err := b.PutNew(t.Context(), "k", nil); err != nil {
		t.Fatal(err)
	}
	faults.Down(nil)
	for range 3 {
		if _, err := b.Get(t.Context(), "k"); !errors.Is(err, bucket.ErrUnavailable) {
			t.Errorf("Get: %v", err)
		}
		if _, _, err := b.List(t.Context(), ""); !errors.Is(err, bucket.ErrUnavailable) {
			t.Errorf("List: %v", err)
		}
	}
	faults.Down(fs.ErrPermission)
	if _, _, err := b.Sub("x").Stat(t.Context(), "k"); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("Stat: %v", err)
	}
	faults.Up()
	if _, err := b.Get(t.Context(), "k"); err != nil {
		t.Error(err)
	}
}

func TestASilentStoreIsUnavailableAndNotAWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, faults := open(t)
		faults.Add(faulty.Fault{Kind: faulty.Hang, Times: -1})
		start := time.Now()
		for name, call := range map[string]func() error{
			"Get":    func() error { _, err := b.Get(t.Context(), "k"); return err },
			"List":   func() error { _, _, err := b.List(t.Context(), ""); return err },
			"Delete": func() error { return b.Delete(t.Context(), "k") },
		} {
			if err := call(); !errors.Is(err, bucket.ErrUnavailable) || errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", name, err)
			}
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("%s took %v", name, took)
			}
			start = time.Now()
		}
		// PutNew also tries to read back, for a while.
		if err := b.PutNew(t.Context(), "k", nil); !errors.Is(err, bucket.ErrUnavailable) {
			t.Errorf("PutNew: %v", err)
		}
		if took := time.Since(start); took > 40*time.Second {
			t.Errorf("PutNew took %v", took)
		}
		// The caller's own time counts when there is one.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start = time.Now()
		if _, err := b.Get(ctx, "k"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

func TestASlowStoreIsOnlySlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, faults := open(t)
		faults.Add(faulty.Fault{Method: bucket.Put, Kind: faulty.Slow, Delay: 5 * time.Second})
		start := time.Now()
		if err := b.Put(t.Context(), "k", []byte("x")); err != nil || time.Since(start) != 5*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		// A big object has more time: a second for each MiB.
		faults.Add(faulty.Fault{Method: bucket.Put, Kind: faulty.Slow, Delay: 25 * time.Second})
		if err := b.Put(t.Context(), "k", bytes.Repeat([]byte("x"), 10<<20)); err != nil {
			t.Error(err)
		}
	})
}

func TestCallsAreRecorded(t *testing.T) {
	b, _, faults := open(t)
	b.Sub("dbs").Get(t.Context(), "k")
	b.List(t.Context(), "x/")
	got := faults.Calls()
	if len(got) != 2 || got[0] != (faulty.Call{Method: bucket.Get, Key: "dbs/k"}) || got[1] != (faulty.Call{Method: bucket.List, Key: "x/"}) {
		t.Errorf("%v", got)
	}
}
