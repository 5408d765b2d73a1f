package table

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// A fleet's rows change their traits for months: there are never more classes
// than had rows at once, tables shared before go on showing their own, and
// whoever covers classes hears which one an id was before.
func TestClassesWithoutRowsAreUsedAgain(t *testing.T) {
	sc := placements()
	b := NewBuilder[catalog.Placement](sc)
	kind := sc.Col("kind")
	in := map[string][]uint32{} // by kind
	b.Cover(func(c, old *Class) map[int]Value {
		if old != nil {
			k := old.Stored(kind).Text
			if !slices.Contains(in[k], c.ID) {
				t.Fatalf("class %d was not of %s", c.ID, k)
			}
			in[k] = slices.DeleteFunc(in[k], func(id uint32) bool { return id == c.ID })
		}
		k := c.Stored(kind).Text
		in[k] = append(in[k], c.ID)
		return nil
	})
	put := func(i int, k string) {
		p := &catalog.Placement{Region: "eu", State: "live"}
		p.Slate, p.Root, p.Kind, p.Seen = fmt.Sprint("db-", i), fmt.Sprint("db-", i), catalog.Kind(k), "live"
		p.Bytes = ptr(uint64(i + 1))
		b.Put(p)
	}
	const rows = 70
	var old []*Table
	for round := range 3000 {
		put(round%rows, fmt.Sprint("kind-", round))
		if round%500 == 499 {
			old = append(old, b.Share())
		}
		if round%7 == 0 {
			b.Remove(b.Find("eu", fmt.Sprint("db-", round%rows)))
		}
		if round == 1500 { // what is saved goes on so
			var w bytes.Buffer
			if err := b.Share().Write(&w); err != nil {
				t.Fatal(err)
			}
			again, err := Read[catalog.Placement](sc, &w)
			if err != nil {
				t.Fatal(err)
			}
			cover := b.cover
			clear(in)
			b = again
			b.Cover(func(c, old *Class) map[int]Value {
				return cover(c, old)
			})
		}
	}
	if n := b.Share().Classes(); n > rows+1 {
		t.Errorf("%d classes for at most %d rows", n, rows)
	}
	if n := len(b.classOf); n != b.t.Classes() {
		t.Errorf("%d classes are known by their traits, there are %d", n, b.t.Classes())
	}
	for at, tb := range append(old, b.Share()) {
		count, sum := uint64(0), uint64(0)
		for id := range tb.Classes() {
			c := tb.Class(uint32(id))
			n, _ := c.Sum(sc.Col("bytes"))
			count, sum = count+c.Count, sum+n
		}
		if count != uint64(tb.Len()) {
			t.Errorf("table %d: classes have %d rows, there are %d", at, count, tb.Len())
		}
		for i := range rows {
			s := tb.Find("eu", fmt.Sprint("db-", i))
			if s == None {
				continue
			}
			p := tb.Row(s).(*catalog.Placement)
			sum -= *p.Bytes
			if at == len(old) {
				continue
			}
			last := (at+1)*500 - 1
			if want := fmt.Sprint("kind-", last-(last-i)%rows); string(p.Kind) != want {
				t.Errorf("table %d: db-%d is a %s, want %s", at, i, p.Kind, want)
			}
		}
		if sum != 0 {
			t.Errorf("table %d: the sums are off by %d", at, int64(sum))
		}
	}
	for k, ids := range in {
		for _, id := range ids {
			if got := b.t.Class(id).Stored(kind).Text; got != k {
				t.Errorf("class %d is said to be of %s and is of %s", id, k, got)
			}
		}
	}
}
