package catalog

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// However records came and went, the digest is that of what is there.
func TestDigestForgetsTheWayItWasReached(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	held := map[string]Sum{}
	var moved Digest
	for i := range 5000 {
		k := fmt.Sprint(rng.IntN(300))
		if old, ok := held[k]; ok {
			moved.Remove(old)
			delete(held, k)
		}
		if rng.IntN(3) > 0 {
			held[k] = NewSum(1, k, uint64(i), 0, []byte(k))
			moved.Add(held[k])
		}
	}
	var fresh Digest
	for _, s := range held {
		fresh.Add(s)
	}
	if fresh != moved || fresh.Root() != moved.Root() || fresh.Count() != uint64(len(held)) {
		t.Errorf("%d held, counts %d and %d", len(held), fresh.Count(), moved.Count())
	}
	for _, s := range held {
		fresh.Remove(s)
	}
	if fresh != (Digest{}) || fresh.Root() == [32]byte{} {
		t.Error("the digest of nothing is not the zero one, or its root says \"not given\"")
	}
}

// Every part counts, and no part runs into the next.
func TestSumsTellRecordsApart(t *testing.T) {
	seen := map[Sum]string{}
	for _, c := range []struct {
		kind    uint32
		key     string
		counter uint64
		flavor  byte
		value   string
	}{
		{1, "ab", 1, 0, "c"}, {1, "a", 1, 0, "bc"}, {2, "ab", 1, 0, "c"}, {257, "ab", 1, 0, "c"},
		{1, "ab", 2, 0, "c"}, {1, "ab", 1, 1, "c"}, {1, "ab", 1, 0, ""}, {1, "", 1, 0, "abc"},
	} {
		name := fmt.Sprint(c)
		s := NewSum(c.kind, c.key, c.counter, c.flavor, []byte(c.value))
		if other, ok := seen[s]; ok {
			t.Errorf("%s and %s have one sum", name, other)
		}
		seen[s] = name
	}
	// A change of value stays in its bucket, or repair by bucket would miss it.
	if NewSum(1, "k", 1, 0, nil).Bucket != NewSum(1, "k", 9, 1, []byte("v")).Bucket {
		t.Error("the bucket depends on more than kind and key")
	}
}

// A moved record's sum depends on all that was sent since it was whole, and
// stays in its bucket.
func TestMovesChain(t *testing.T) {
	whole := NewSum(1, "dbs/a", 7, 0, []byte("value"))
	if whole.Bucket != BucketOf(1, "dbs/a") {
		t.Error("the bucket goes by kind and key alone")
	}
	a, b := whole.Moved(8, []byte{1}).Moved(9, []byte{2}), whole.Moved(9, []byte{2})
	if a == b || a.Bucket != whole.Bucket || a != whole.Moved(8, []byte{1}).Moved(9, []byte{2}) {
		t.Errorf("%v and %v", a, b)
	}
	if whole.Moved(8, []byte{1}) == whole.Moved(9, []byte{1}) || whole.Moved(8, nil) == whole.Moved(8, []byte{0}) {
		t.Error("another move, the same sum")
	}
	long := make([]byte, MaxPacked)
	if n := testing.AllocsPerRun(100, func() { whole = whole.Moved(8, long[:30]) }); n > 0 {
		t.Errorf("%v allocations a move", n)
	}
}

func BenchmarkMoved(b *testing.B) {
	s, packed := NewSum(1, "dbs/a", 7, 0, []byte("value")), make([]byte, 30)
	b.ReportAllocs()
	n := uint64(0)
	for b.Loop() {
		n++
		s = s.Moved(n, packed)
	}
}

func BenchmarkNewSum(b *testing.B) {
	value := make([]byte, 300)
	b.ReportAllocs()
	for b.Loop() {
		NewSum(1, "prod/commerce/orders-0001", 7, 0, value)
	}
}
