package slatedb

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
	"github.com/quarry-db/quarry/pkg/slatedb/sst"
)

// world is rows spread over sources as a database could have them: every row
// in one source, any number of versions of a key in each.
func world(rng *rand.Rand) (sources []memory, all []sst.Row) {
	sources = make([]memory, 1+rng.IntN(6))
	flags := []sst.Flags{0, 0, 0, sst.Tombstone, sst.Merge, sst.Merge | sst.HasExpire}
	for seq := range rng.IntN(60) {
		row := sst.Row{
			Key: fmt.Appendf(nil, "%c%c", 'a'+rng.IntN(3), 'a'+rng.IntN(3))[:1+rng.IntN(2)],
			Seq: uint64(seq + 1), Flags: flags[rng.IntN(len(flags))] | sst.HasCreate,
			CreateTS: int64(rng.IntN(50)), ExpireTS: int64(rng.IntN(50)),
		}
		if !row.Tombstone() {
			row.Value = fmt.Appendf(nil, "v%d", seq)
		}
		all = append(all, row)
		i := rng.IntN(len(sources))
		sources[i] = append(sources[i], row)
	}
	for _, m := range sources {
		m.sort()
	}
	return sources, all
}

// dumb says what a scan must give, in the order in which one would explain it.
func dumb(all []sst.Row, w span) []string {
	byKey := map[string][]sst.Row{}
	for _, r := range all {
		if w.has(r.Key) {
			byKey[string(r.Key)] = append(byKey[string(r.Key)], r)
		}
	}
	var out []string
	for key, rows := range byKey {
		slices.SortFunc(rows, func(a, b sst.Row) int { return int(b.Seq) - int(a.Seq) })
		var operands []string
		var used []sst.Row
		value, there := "", false
		for _, r := range rows {
			used = append(used, r)
			if !r.Merge() {
				value, there = string(r.Value), !r.Tombstone()
				break
			}
			operands = append([]string{string(r.Value)}, operands...)
		}
		if !there && operands == nil {
			continue
		}
		create, expire := used[0].CreateTS, int64(-1)
		for _, r := range used {
			create = max(create, r.CreateTS)
			if r.Flags&sst.HasExpire != 0 && (expire < 0 || r.ExpireTS < expire) {
				expire = r.ExpireTS
			}
		}
		out = append(out, fmt.Sprint(key, " ", value, there, operands, rows[0].Seq, " ", create, expire))
	}
	slices.Sort(out)
	return out
}

func told(e *Entry) string {
	value, there := e.Value, true
	if len(e.Operands) > 0 {
		value, there = e.Base, e.Base != nil
	}
	var operands []string
	for _, o := range e.Operands {
		operands = append(operands, string(o))
	}
	expire := int64(-1)
	if e.HasExpire {
		expire = e.ExpireTS
	}
	return fmt.Sprint(string(e.Key), " ", string(value), there, operands, e.Seq, " ", e.CreateTS, expire)
}

func TestTheMergeSaysWhatADumbOneSays(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	for n := range 3000 {
		sources, all := world(rng)
		var w span
		if rng.IntN(2) == 0 {
			w = span{[]byte{byte('a' + rng.IntN(3))}, []byte{byte('a' + rng.IntN(4))}}
		}
		var v view
		for _, m := range sources {
			if rows := m.in(w); len(rows) > 0 && !w.empty() {
				v.add(&memorySource{rows: rows}, rows[0].Key[:rng.IntN(2)])
			}
		}
		var got []string
		for v.next() {
			got = append(got, told(&v.entry))
		}
		want := dumb(all, w)
		if w.empty() {
			want = nil
		}
		if !slices.Equal(got, want) {
			t.Fatalf("world %d:\n%s\nwant\n%s", n, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		for _, key := range []string{"a", "ab", "b", "bc", "c"} {
			rows := slices.DeleteFunc(slices.Clone(all), func(r sst.Row) bool { return string(r.Key) != key })
			slices.Reverse(rows)
			e, err := entryOf([]byte(key), rows)
			one := dumb(all, span{[]byte(key), after([]byte(key))})
			if (err == nil) != (len(one) == 1) || err == nil && told(&e) != one[0] {
				t.Fatalf("world %d: get %s: %+v %v, want %v", n, key, e, err, one)
			}
		}
	}
}

func TestAVisibleRangeIsWhatItsBoundsSay(t *testing.T) {
	keys := [][]byte{{}, {0}, []byte("a"), []byte("a\x00"), []byte("a\x00\x00"), []byte("b"), []byte("c"), {0xff}}
	bound := func(i int) manifest.Bound {
		switch i {
		case 0:
			return manifest.Bound{Unbounded: true}
		case 1:
			return manifest.Bound{Key: []byte("a"), Inclusive: true}
		case 2:
			return manifest.Bound{Key: []byte("a")}
		case 3:
			return manifest.Bound{Key: []byte("b"), Inclusive: true}
		}
		return manifest.Bound{Key: []byte("b")}
	}
	for i := range 5 {
		for j := range 5 {
			r := &manifest.Range{Start: bound(i), End: bound(j)}
			for _, k := range keys {
				s, e := bytes.Compare(k, r.Start.Key), bytes.Compare(k, r.End.Key)
				want := (r.Start.Unbounded || s > 0 || s == 0 && r.Start.Inclusive) && (r.End.Unbounded || e < 0 || e == 0 && r.End.Inclusive)
				if got := visible(r).has(k); got != want {
					t.Errorf("%q in %+v: %v", k, r, got)
				}
			}
		}
	}
	for _, p := range []string{"", "a", "a\xff", "\xff", "\xff\xff"} {
		for _, k := range append(keys, []byte("a\xff\x00"), []byte("\xff\xff\x01")) {
			if got, want := prefixed([]byte(p)).has(k), strings.HasPrefix(string(k), p); got != want {
				t.Errorf("%q begins with %q: %v", k, p, got)
			}
		}
	}
}
