package table

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

type counted struct {
	Name string `json:"name"`
	A    uint64 `json:"a"`
	B    *int   `json:"b"`
	C, D uint64
	E    uint64 `json:"e"`
}

// The numbers of a chunk, however narrow they are kept and however many have
// moved since, are those that were set; also in every publication before.
func TestNumbersAreThoseThatWereSet(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	hidden := []string{"h0", "h1", "h2", "h3", "h4", "h5", "h6", "h7"}
	sc := SchemaOf[counted](Options{Ident: [3]string{"name"}, Hidden: hidden})
	const rows = 150
	type key struct{ row, col int }
	for range 20 {
		b := NewBuilder[counted](sc)
		for i := range rows {
			b.Put(&counted{Name: fmt.Sprint(i)})
		}
		model := map[key]uint64{}
		for col, c := range sc.cols {
			if c.Kind == Number && sc.fields[col].index != nil && !sc.fields[col].ptr {
				for i := range rows {
					model[key{i, col}] = 0
				}
			}
		}
		type moment struct {
			t     *Table
			model map[key]uint64
		}
		var moments []moment
		value := func() uint64 { // of every width, at both ends, and near each other
			switch rng.IntN(5) {
			case 0:
				return rng.Uint64N(3)
			case 1:
				return math.MaxUint64 - rng.Uint64N(300)
			case 2:
				return 1<<40 + rng.Uint64N(1000)
			}
			return rng.Uint64() >> rng.IntN(64)
		}
		often := 1 + rng.IntN(60) // changes between publications
		busy := 1 + rng.IntN(rows)
		for range 4000 {
			row, col := rng.IntN(busy), sc.Col(hidden[rng.IntN(1+rng.IntN(len(hidden)))])
			if rng.IntN(12) == 0 {
				b.SetNull(Slot(row), col)
				delete(model, key{row, col})
			} else {
				v := value()
				b.SetNumber(Slot(row), col, v)
				model[key{row, col}] = v
			}
			if v, ok := b.Number(Slot(row), col); ok != has(model, key{row, col}) || v != model[key{row, col}] {
				t.Fatalf("row %d column %d is %d %v", row, col, v, ok)
			}
			if rng.IntN(often) == 0 {
				m := make(map[key]uint64, len(model))
				for k, v := range model {
					m[k] = v
				}
				moments = append(moments, moment{b.Share(), m})
			}
		}
		for n, m := range moments {
			if len(moments) > 40 && n%(len(moments)/40) != 0 {
				continue
			}
			for ci := range m.t.Chunks() {
				c := m.t.Chunk(ci)
				for col, info := range sc.cols {
					if info.Kind != Number {
						continue
					}
					var buf [ChunkRows]uint64
					present := c.Numbers(col, &buf)
					lo, hi, any := c.Range(col)
					if any != (present != 0) && !any {
						t.Fatalf("column %d has values and no range", col)
					}
					for i := range ChunkRows {
						want, there := m.model[key{ci*ChunkRows + i, col}]
						got, ok := c.Number(col, i)
						if ok != there || got != want || present>>i&1 == 1 != there {
							t.Fatalf("publication %d row %d column %d: %d %v, want %d %v", n, ci*ChunkRows+i, col, got, ok, want, there)
						}
						if there && (buf[i] != want || want < lo || want > hi) {
							t.Fatalf("publication %d row %d column %d: %d of [%d, %d], want %d", n, ci*ChunkRows+i, col, buf[i], lo, hi, want)
						}
					}
				}
			}
		}
	}
}

func has[K comparable, V any](m map[K]V, k K) bool {
	_, ok := m[k]
	return ok
}

// Rows are found by name while they come and go, and in old publications those
// that were there then.
func TestRowsAreFoundByName(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 3))
	b := NewBuilder[counted](SchemaOf[counted](Options{Ident: [3]string{"name"}}))
	model := map[string]Slot{}
	type moment struct {
		t     *Table
		model map[string]Slot
	}
	var moments []moment
	const names = 20_000
	for i := range 60_000 {
		name := fmt.Sprint("db-", rng.IntN(names))
		if s, ok := model[name]; ok && rng.IntN(3) == 0 {
			b.Remove(s)
			delete(model, name)
		} else {
			s, isNew := b.Put(&counted{Name: name, A: uint64(i)})
			if isNew == ok || ok && s != model[name] {
				t.Fatalf("%s is at %d (new: %v), was at %d", name, s, isNew, model[name])
			}
			model[name] = s
		}
		if i%6000 == 0 {
			m := make(map[string]Slot, len(model))
			for k, v := range model {
				m[k] = v
			}
			moments = append(moments, moment{b.Share(), m})
		}
	}
	for _, m := range moments {
		if m.t.Len() != len(m.model) {
			t.Fatalf("%d rows, want %d", m.t.Len(), len(m.model))
		}
		for i := range names {
			name := fmt.Sprint("db-", i)
			want, ok := m.model[name]
			if !ok {
				want = None
			}
			if got := m.t.Named(name); got != want {
				t.Fatalf("%s is at %d, want %d", name, got, want)
			}
		}
	}
}
