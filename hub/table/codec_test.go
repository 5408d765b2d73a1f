package table

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"testing"

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

// FuzzRead: with checksums made right, so that the rest is reached.
func FuzzRead(f *testing.F) {
	raw, _ := saved(f, 40)
	f.Add(raw, 100, byte(1))
	f.Fuzz(func(t *testing.T, raw []byte, at int, to byte) {
		raw = bytes.Clone(raw)
		if len(raw) > 0 {
			raw[((at%len(raw))+len(raw))%len(raw)] ^= to
		}
		mend(raw)
		b, err := Read[catalog.Placement](placements(), bytes.NewReader(raw))
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
			return
		}
		tb := b.Share()
		for i := range tb.Chunks() {
			if c := tb.Chunk(i); c != nil {
				for k := range ChunkRows {
					if c.Live()&(1<<k) != 0 {
						tb.Row(Slot(i*ChunkRows + k))
					}
				}
			}
		}
	})
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
