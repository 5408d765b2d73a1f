// Package table keeps many rows of one struct type in columns: 64 rows to a
// chunk, values packed to the width they need, few-valued fields folded into
// one class per row. One goroutine writes through a [Builder]; what it shares
// is an immutable [Table] that costs nothing to take and that any number of
// goroutines may read while the builder goes on. Untouched chunks are shared.
//
// It knows nothing of filters: hub/query asks it chunk by chunk. Begin with
// [SchemaOf], [Builder] and [Table].
package table

import "math/bits"

// ChunkRows is how many rows a chunk has: as many as a word has bits, so that
// a set of its rows is a [Mask].
const ChunkRows = 64

// Slot is where a row lies, for as long as it is there; later another row may
// lie there. Row s is row s%64 of chunk s/64.
type Slot uint32

// None is no slot.
const None = ^Slot(0)

// Mask is a set of rows of one chunk: bit i is row i.
type Mask uint64

// Len is how many rows are in it.
func (m Mask) Len() int { return bits.OnesCount64(uint64(m)) }

// Ident is what a row is called, and where it lies. It never changes: a row
// that is renamed gets another. Rows are ordered by it: slate, region, root
// (for slates: the name, nothing, nothing).
type Ident struct {
	Slate, Region, Root string
	Slot                Slot
}

// Kind is how a column is stored.
type Kind uint8

// The kinds of columns.
const (
	// Trait: a text, number or boolean with few values over all rows. It is
	// stored once per [Class].
	Trait Kind = iota + 1
	// Number: an unsigned whole number up to 64 bits, or null.
	Number
	// Time: an instant, or null; as Number it is its Unix nanoseconds in the
	// order-keeping form of [TimeNumber].
	Time
	// Name: one of the three parts of the [Ident].
	Name
	// Symbol: a text or a map that many rows share; stored as a number of the
	// table's dictionary. 0 is the empty text, or the empty map.
	Symbol
	// Text: a text that is each row's own.
	Text
	// Object: a list or record. The stored value is shared with whoever reads
	// it: nobody may change it.
	Object
)

// Column is one field of the rows.
type Column struct {
	Name string // as JSON shows it
	Kind Kind
	// Ordered: the table keeps an [Order] by it.
	Ordered bool
	// Summed: each class keeps the sum of it (Number only).
	Summed bool
	// Covered: a class may say what all its rows show instead of what they
	// store; see [Class.Covers].
	Covered bool
}
