package sst

import (
	"bytes"
	"fmt"
	"sort"

	"github.com/quarry-db/quarry/pkg/slatedb/internal/fb"
)

// Index locates the data blocks of a table.
type Index struct {
	Blocks []BlockMeta
	end    uint64 // of the last block
}

// BlockMeta is one data block as the index has it.
type BlockMeta struct {
	Offset uint64
	// Key separates: it is greater than every key of the blocks before and
	// not greater than any key of this block, or equal to the last key
	// before when versions of one key lie in both. Empty in the first block.
	Key []byte
	// EncodedLen is the stored length with the checksum when blocks are
	// padded; 0 means up to the next block.
	EncodedLen uint32
}

// ParseIndex reads the plain content of an index block. Data blocks lie before
// dataEnd. The index keeps plain.
func ParseIndex(plain []byte, dataEnd uint64) (Index, error) {
	t, err := fb.Root(plain)
	if err != nil {
		return Index{}, err
	}
	x := Index{Blocks: make([]BlockMeta, 0, t.Len(0, "block_meta", 4)), end: dataEnd}
	t.Tables(0, "block_meta", func(i int, e fb.Table) {
		x.Blocks = append(x.Blocks, BlockMeta{
			Offset:     e.Uint64(0, "offset", 0),
			Key:        e.Bytes(1, "first_key"),
			EncodedLen: e.Uint32(2, "encoded_len", 0),
		})
	})
	if err := t.Err(); err != nil {
		return Index{}, err
	}
	for i, b := range x.Blocks {
		next := x.limit(i)
		if b.Key == nil {
			return Index{}, corrupt("block %d has no key", i)
		}
		if b.Offset >= next || next > dataEnd {
			return Index{}, corrupt("block %d at %d ends at %d, data at %d", i, b.Offset, next, dataEnd)
		}
		if next-b.Offset > MaxPart {
			return Index{}, fmt.Errorf("block %d at %d: %w", i, b.Offset, ErrTooLarge)
		}
		if uint64(b.EncodedLen) > next-b.Offset {
			return Index{}, corrupt("block %d at %d of %d bytes, next at %d", i, b.Offset, b.EncodedLen, next)
		}
	}
	return x, nil
}

// limit is where what follows block i begins.
func (x *Index) limit(i int) uint64 {
	if i+1 < len(x.Blocks) {
		return x.Blocks[i+1].Offset
	}
	return x.end
}

// Span returns where block i lies, its checksum included.
func (x *Index) Span(i int) (off, n int64) {
	b := x.Blocks[i]
	if b.EncodedLen > 0 {
		return int64(b.Offset), int64(b.EncodedLen)
	}
	return int64(b.Offset), int64(x.limit(i) - b.Offset)
}

// Ordered reports whether the separators ascend, as they do in a table (in a
// WAL object they are sequence numbers or nothing to search by).
func (x *Index) Ordered() bool {
	return sort.SliceIsSorted(x.Blocks, func(i, j int) bool {
		return bytes.Compare(x.Blocks[i].Key, x.Blocks[j].Key) < 0
	})
}

// From returns the first block that may hold key or a greater one.
func (x *Index) From(key []byte) int {
	i := sort.Search(len(x.Blocks), func(i int) bool { return bytes.Compare(x.Blocks[i].Key, key) >= 0 })
	return max(i-1, 0)
}

// Until returns the block after the last one that may hold keys below to; nil
// means no bound.
func (x *Index) Until(to []byte) int {
	if to == nil {
		return len(x.Blocks)
	}
	return sort.Search(len(x.Blocks), func(i int) bool { return i > 0 && bytes.Compare(x.Blocks[i].Key, to) >= 0 })
}

// Through returns the block after the last one that may hold key.
func (x *Index) Through(key []byte) int {
	return sort.Search(len(x.Blocks), func(i int) bool { return i > 0 && bytes.Compare(x.Blocks[i].Key, key) > 0 })
}
