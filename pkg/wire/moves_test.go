package wire

import (
	"bytes"
	"strings"
	"testing"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// A move says what changed, what is not known any more, and nothing else.
func TestAMoveSaysWhatChanged(t *testing.T) {
	was, is := Numbers{Known: 0b1011}, Numbers{Known: 0b0011}
	was.Values[0], is.Values[0] = 7, 8
	was.Values[1], is.Values[1] = 5, 5
	was.Values[3] = 9
	mask := is.Since(&was)
	b, packed := AppendMove(nil, 3, 2, mask, &is)
	moves, err := DecodeMoves(b, 100, 102)
	if err != nil || len(moves) != 1 {
		t.Fatal(moves, err)
	}
	m := moves[0]
	if m.Ordinal != 3 || m.Counter != 102 || m.Mask != 0b1001 || m.Null != 0b1000 || m.Values != ([len(catalog.MoveFields)]uint64{8}) || !bytes.Equal(m.Packed, packed) {
		t.Errorf("%+v", m)
	}
}

func TestMovesThatAreNoneAreRefused(t *testing.T) {
	for _, c := range []struct {
		name, why string
		b         []byte
	}{
		{"none", "", nil},
		{"a good one", "", []byte{1, 1, 1 << 1, 5}},
		{"a field of a newer version", "", []byte{1, 1, 0x80, 0x80, 0x80, 0x80, 0x01, 5}},
		{"ordinal 0", "ordinal 0", []byte{0, 1, 2, 5}},
		{"an ordinal that wraps around", "ordinal 4294967297", []byte{0x81, 0x80, 0x80, 0x80, 0x10, 1, 2, 5}},
		{"no step", "step of 0", []byte{1, 0, 2, 5}},
		{"beyond its frame", "step of 4, at most 3", []byte{1, 4, 2, 5}},
		{"beyond its frame together", "step of 2, at most 1", []byte{1, 2, 2, 5, 2, 2, 2, 5}},
		{"nothing moved", "mask 0", []byte{1, 1, 0}},
		{"an empty mask of what is not known", "empty mask", []byte{1, 1, 3, 0, 5}},
		{"not known and not told", "mask 1, of it not known 2", []byte{1, 1, 3, 2}},
		{"the end is missing", "in the middle", []byte{1, 1, 2}},
		{"a number in more bytes than it needs", "longer than", []byte{1, 1, 2, 0x85, 0x00}},
		{"a number beyond all numbers", "in the middle", append([]byte{1, 1, 2}, bytes.Repeat([]byte{0xff}, 12)...)},
	} {
		t.Run(c.name, func(t *testing.T) {
			moves, err := DecodeMoves(c.b, 10, 13)
			if (err == nil) != (c.why == "") || err != nil && (!strings.Contains(err.Error(), c.why) || moves != nil) {
				t.Errorf("%v %v, want %q", moves, err, c.why)
			}
		})
	}
}

// What is accepted is what would have been written.
func FuzzMoves(f *testing.F) {
	f.Add([]byte{1, 1, 2, 5, 7, 3, 3, 1}, uint64(0), uint64(100))
	n := NumbersOf(realSighting(1))
	b, _ := AppendMove(nil, 9, 1, knownFields, &n)
	f.Add(b, uint64(1), uint64(1000))
	f.Fuzz(func(t *testing.T, b []byte, from, upto uint64) {
		if upto < from {
			return
		}
		moves, err := DecodeMoves(b, from, upto)
		if err != nil {
			return
		}
		var again []byte
		last, newer := from, false
		for _, m := range moves {
			if m.Counter <= last || m.Counter > upto || m.Ordinal == 0 || m.Null&^m.Mask != 0 || m.Mask&^knownFields != 0 {
				t.Fatalf("%+v", m)
			}
			var packed []byte
			num := Numbers{Known: m.Mask &^ m.Null, Values: m.Values}
			again, packed = AppendMove(again, m.Ordinal, m.Counter-last, m.Mask, &num)
			if mask, _ := uvarint(m.Packed); mask>>1 > knownFields {
				newer = true // its fields were left out
			} else if !bytes.Equal(packed, m.Packed) {
				t.Fatalf("%x is not %x", packed, m.Packed)
			}
			last = m.Counter
		}
		if !newer && !bytes.Equal(again, b) {
			t.Fatalf("%x is not %x", again, b)
		}
	})
}
