package wire

import (
	"encoding/binary"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// Item is a record in the form in which an agent keeps it.
type Item struct {
	Kind     uint32
	Key      string
	Revision uint64
	Ordinal  uint32
	// Still is the value, of a placement what stands still of it: then Numbers
	// has the rest and is not nil.
	Still   []byte
	Numbers *Numbers
	// At most one of Gone and Unsendable is set, and then nothing else.
	Gone, Unsendable []byte
}

// Sum is what the item adds to a digest when it is sent whole: that of the
// record which travels ([Sum]). scratch is used and given back, larger perhaps.
func (it *Item) Sum(scratch []byte) (catalog.Sum, []byte) {
	switch {
	case len(it.Unsendable) > 0:
		return catalog.NewSum(it.Kind, it.Key, it.Revision, 1, it.Unsendable), scratch
	case len(it.Gone) > 0:
		return catalog.Sum{}, scratch
	case it.Numbers == nil:
		return catalog.NewSum(it.Kind, it.Key, it.Revision, 0, it.Still), scratch
	}
	scratch = it.Numbers.Append(append(scratch[:0], it.Still...))
	return catalog.NewSum(it.Kind, it.Key, it.Revision, 0, scratch), scratch
}

// valueSize is the size of the value as it travels.
func (it *Item) valueSize() int {
	n := len(it.Still)
	if it.Numbers != nil {
		n += it.Numbers.Size()
	}
	return n
}

// size is that of the record alone.
func (it *Item) size() int {
	bytes := func(n int) int {
		if n == 0 {
			return 0
		}
		return 1 + protowire.SizeBytes(n)
	}
	n := 1 + protowire.SizeVarint(uint64(it.Kind)) + bytes(len(it.Key)) + 1 + protowire.SizeVarint(it.Revision) +
		bytes(it.valueSize()) + bytes(len(it.Gone)) + bytes(len(it.Unsendable))
	if it.Ordinal > 0 {
		n += 1 + protowire.SizeVarint(uint64(it.Ordinal))
	}
	return n
}

// append appends the item as a record in the given field of a message.
func (it *Item) append(b []byte, field protowire.Number) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(it.size()))
	b = append(b, 1<<3)
	b = protowire.AppendVarint(b, uint64(it.Kind))
	b = appendString(b, 2, it.Key)
	b = append(b, 3<<3)
	b = protowire.AppendVarint(b, it.Revision)
	if n := it.valueSize(); n > 0 {
		b = append(b, 4<<3|byte(protowire.BytesType))
		b = protowire.AppendVarint(b, uint64(n))
		b = append(b, it.Still...)
		if it.Numbers != nil {
			b = it.Numbers.Append(b)
		}
	}
	for field, v := range [...][]byte{5: it.Gone, 6: it.Unsendable} {
		if len(v) > 0 {
			b = protowire.AppendTag(b, protowire.Number(field), protowire.BytesType)
			b = protowire.AppendBytes(b, v)
		}
	}
	if it.Ordinal > 0 {
		b = append(b, 7<<3)
		b = protowire.AppendVarint(b, uint64(it.Ordinal))
	}
	return b
}

// Batch is a frame of records in the making. The zero Batch is ready; Reset
// makes it ready again and keeps its memory.
type Batch struct {
	b, moves []byte
	field    protowire.Number // of the records
	last     uint64           // revision of the last move, or of what is before the first
	Records  int
	Moves    int
}

// Reset begins a delta that comes after revision from.
func (a *Batch) Reset(from uint64) {
	*a = Batch{b: append(a.b[:0], frameHead[:]...), moves: a.moves[:0], field: 3, last: from}
}

// ResetBatch begins a part of a snapshot or of a repair.
func (a *Batch) ResetBatch() {
	a.Reset(0)
	a.field = 1
}

// frameHead is room for what comes before the body: number, session, and the
// body's field and length.
var frameHead [1 + 10 + 9 + 1 + 5]byte

// frameTail is what may come after records and moves.
const frameTail = 2*(2+2*11) + 6

// Fits reports whether an item still fits. An empty batch takes any item that
// can travel.
func (a *Batch) Fits(it *Item) bool {
	n := it.size()
	return len(a.b)+len(a.moves)+1+protowire.SizeBytes(n)+frameTail <= MaxFrame
}

// FitsMove reports whether any move still fits.
func (a *Batch) FitsMove() bool { return len(a.b)+len(a.moves)+maxMove+frameTail <= MaxFrame }

// Add adds a whole record.
func (a *Batch) Add(it *Item) {
	a.b = it.append(a.b, a.field)
	a.Records++
}

// Move adds a move to a revision after that of the move before it, and gives
// what chains.
func (a *Batch) Move(ordinal uint32, revision uint64, mask uint32, n *Numbers) (packed []byte) {
	a.moves, packed = AppendMove(a.moves, ordinal, revision-a.last, mask, n)
	a.last = revision
	a.Moves++
	return packed
}

// Delta finishes a frame that brings everything between from and upto of the
// process that began at start. The frame is valid until the next Reset.
func (a *Batch) Delta(number, session, start, from, upto uint64) []byte {
	revision := func(field protowire.Number, counter uint64) {
		a.b = appendMessage(a.b, field, func(b []byte) []byte { return appendCount(appendCount(b, 1, start), 2, counter) })
	}
	revision(1, from)
	revision(2, upto)
	if len(a.moves) > 0 {
		a.b = protowire.AppendTag(a.b, 4, protowire.BytesType)
		a.b = protowire.AppendBytes(a.b, a.moves)
	}
	return a.frame(5, number, session)
}

// SnapshotBatch finishes a part of a snapshot.
func (a *Batch) SnapshotBatch(number, session uint64) []byte { return a.frame(7, number, session) }

// RepairBatch finishes a part of a repair.
func (a *Batch) RepairBatch(number, session uint64) []byte { return a.frame(11, number, session) }

// frame writes what comes before the body right before it.
func (a *Batch) frame(body protowire.Number, number, session uint64) []byte {
	var head [len(frameHead)]byte
	h := protowire.AppendVarint(append(head[:0], 1<<3), number)
	h = binary.LittleEndian.AppendUint64(append(h, 2<<3|byte(protowire.Fixed64Type)), session)
	h = protowire.AppendTag(h, body, protowire.BytesType)
	h = protowire.AppendVarint(h, uint64(len(a.b)-len(frameHead)))
	at := len(frameHead) - len(h)
	copy(a.b[at:], h)
	return a.b[at:]
}
