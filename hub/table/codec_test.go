package table

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
)

func saved(t testing.TB, n int) ([]byte, map[string]*catalog.Placement) {
	rng := rand.New(rand.NewPCG(5, uint64(n)))
	b := NewBuilder[catalog.Placement](placements())
	rows := map[string]*catalog.Placement{}
	for i := range 2 * n {
		p := row(rng, i%n)
		kept := *p
		s, _ := b.Put(p)
		rows[p.Region+"\x00"+p.Root] = &kept
		b.SetNumber(s, b.t.schema.Col("counter"), uint64(i))
		if i%9 == 0 {
			b.Remove(s)
			delete(rows, p.Region+"\x00"+p.Root)
		}
	}
	var w bytes.Buffer
	if err := b.Share().Write(&w); err != nil {
		t.Fatal(err)
	}
	return w.Bytes(), rows
}

// A table that was saved is the same when it is read, and goes on.
func TestASavedTableIsTheSame(t *testing.T) {
	for _, n := range []int{1, 63, 64, 65, 5000} {
		raw, rows := saved(t, n)
		sc := placements()
		b, err := Read[catalog.Placement](sc, bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		check(t, sc, b.Share(), rows)
		var again bytes.Buffer
		if err := b.Share().Write(&again); err != nil || !bytes.Equal(again.Bytes(), raw) {
			t.Errorf("%d rows: saved again it is %d bytes, was %d (%v)", n, again.Len(), len(raw), err)
		}
		rng := rand.New(rand.NewPCG(6, 6))
		for i := range 200 {
			p := row(rng, i)
			kept := *p
			b.Put(p)
			rows[p.Region+"\x00"+p.Root] = &kept
		}
		check(t, sc, b.Share(), rows)
	}
}

// Cut anywhere or changed anywhere, it is refused, never misread.
func TestADamagedTableIsRefused(t *testing.T) {
	raw, _ := saved(t, 150)
	sc := placements()
	rng := rand.New(rand.NewPCG(1, 9))
	for range 300 {
		at := rng.IntN(len(raw))
		if _, err := Read[catalog.Placement](sc, bytes.NewReader(raw[:at])); !errors.Is(err, ErrDamaged) {
			t.Fatalf("cut at %d of %d: %v", at, len(raw), err)
		}
		bad := bytes.Clone(raw)
		bad[at] ^= 1 << rng.IntN(8)
		if _, err := Read[catalog.Placement](sc, bytes.NewReader(bad)); !errors.Is(err, ErrDamaged) {
			t.Fatalf("changed at %d of %d: %v", at, len(raw), err)
		}
	}
}

// small is a row with something of every kind of column.
type small struct {
	Name   string            `json:"name"`
	Kind   string            `json:"kind"`
	Owner  string            `json:"owner"`
	Labels map[string]string `json:"labels"`
	Why    string            `json:"why"`
	Size   *uint64           `json:"size"`
	At     time.Time         `json:"at"`
	List   []string          `json:"list"`
}

var smallSchema = SchemaOf[small](Options{Ident: [3]string{"name"}, Traits: []string{"kind"}, Symbols: []string{"owner", "labels"},
	Ordered: []string{"size"}, Summed: []string{"size"}, Hidden: []string{"hidden"}})

// savedSmall is a saved table of a few hundred bytes.
func savedSmall(t testing.TB) []byte {
	b := NewBuilder[small](smallSchema)
	b.Put(&small{Name: "a", Kind: "log", Owner: "me", Labels: map[string]string{"team": "x"}, Size: ptr(uint64(7)), List: []string{"l"}})
	b.Put(&small{Name: "b", Kind: "kv", Why: "because", At: time.Unix(1, 0), List: []string{}})
	s, _ := b.Put(&small{Name: "c", Kind: "log"})
	b.SetNumber(s, smallSchema.Col("hidden"), 1<<40)
	b.Remove(1)
	var w bytes.Buffer
	if err := b.Share().Write(&w); err != nil {
		t.Fatal(err)
	}
	return w.Bytes()
}

// headEnd is where the first block ends: what the columns were, which a fuzzer
// would only be refused for.
func headEnd(raw []byte) int { return 8 + int(binary.LittleEndian.Uint32(raw)) }

// readAndUse reads a table of the small schema, looks at all of it and goes on
// with it. Bytes that no table wrote must be refused, or be harmless.
func readAndUse(t *testing.T, raw []byte) {
	b, err := Read[small](smallSchema, bytes.NewReader(raw))
	if err != nil {
		if !errors.Is(err, ErrDamaged) {
			t.Fatal(err)
		}
		return
	}
	tb := b.Share()
	var buf [ChunkRows]uint64
	for i := range tb.Chunks() {
		c := tb.Chunk(i)
		if c == nil {
			continue
		}
		for col, info := range smallSchema.Columns() {
			if info.Kind == Number || info.Kind == Time {
				c.Numbers(col, &buf)
				c.Range(col)
			}
		}
		for k := range ChunkRows {
			if c.Live()&(1<<k) != 0 {
				s := Slot(i*ChunkRows + k)
				if tb.Row(s) == nil || tb.Named(tb.Ident(s).Slate) != s {
					t.Fatalf("row %d is not found", s)
				}
			}
		}
	}
	b.Put(&small{Name: "new", Kind: "log", Owner: "me"})
	for s := range Slot(tb.Chunks() * ChunkRows) {
		if b.Number(s, smallSchema.Col("size")); tb.Ident(s) != nil {
			b.SetNumber(s, smallSchema.Col("size"), 1<<50)
			b.Remove(s)
		}
	}
	if want := 1; b.Len() != want && tb.Named("new") == None {
		t.Fatalf("%d rows are left, want %d", b.Len(), want)
	}
}

// FuzzRead: with the head and the checksums made right, so that the rest is
// reached.
func FuzzRead(f *testing.F) {
	raw := savedSmall(f)
	head := bytes.Clone(raw[:headEnd(raw)])
	f.Add(raw[len(head):], 100, byte(1))
	f.Fuzz(func(t *testing.T, rest []byte, at int, to byte) {
		raw := append(bytes.Clone(head), rest...)
		if n := len(rest); n > 0 {
			raw[len(head)+(at%n+n)%n] ^= to
		}
		mend(raw)
		readAndUse(t, raw)
	})
}

// Every byte of a saved table is turned into others, with checksums made right:
// nothing panics.
func TestALieInASavedTableDoesNoHarm(t *testing.T) {
	raw := savedSmall(t)
	for at := headEnd(raw); at < len(raw); at++ {
		for _, to := range []byte{0x01, 0x80, 0xff, raw[at]} {
			bad := bytes.Clone(raw)
			bad[at] ^= to
			mend(bad)
			readAndUse(t, bad)
		}
	}
}

// A header that promises much more than follows takes no memory for it.
func TestALyingHeaderTakesNoMemory(t *testing.T) {
	raw := savedSmall(t)
	took := func(raw []byte) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := Read[small](smallSchema, bytes.NewReader(raw)); !errors.Is(err, ErrDamaged) {
			t.Errorf("it was taken: %v", err)
		}
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	var lies [][]byte
	for at := 0; at+8 <= len(raw); at += 8 + int(binary.LittleEndian.Uint32(raw[at:])) { // each block is said to be the longest
		bad := bytes.Clone(raw)
		binary.LittleEndian.PutUint32(bad[at:], maxBlock)
		lies = append(lies, bad)
	}
	var head tableHead
	if err := json.Unmarshal(raw[8:headEnd(raw)], &head); err != nil {
		t.Fatal(err)
	}
	for _, lie := range []func(*tableHead){
		func(h *tableHead) { h.High = maxSlots - 1 },
		func(h *tableHead) { h.Live = maxSlots },
		func(h *tableHead) { h.Classes = maxSlots },
	} {
		bad := head
		lie(&bad)
		b, err := json.Marshal(bad)
		if err != nil {
			t.Fatal(err)
		}
		var w bytes.Buffer
		if err := writeBlock(&w, b); err != nil {
			t.Fatal(err)
		}
		lies = append(lies, append(w.Bytes(), raw[headEnd(raw):]...))
	}
	for i, lie := range lies {
		if n := took(lie); n > 1<<20 {
			t.Errorf("lie %d: %d bytes of memory for %d bytes", i, n, len(lie))
		}
	}
}

// mend makes the checksums of all blocks right.
func mend(raw []byte) {
	for len(raw) >= 8 {
		n := binary.LittleEndian.Uint32(raw)
		if uint64(n) > uint64(len(raw)-8) {
			return
		}
		binary.LittleEndian.PutUint32(raw[4:], crc32.Checksum(raw[8:8+n], castagnoli))
		raw = raw[8+n:]
	}
}
