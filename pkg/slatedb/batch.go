package slatedb

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/quarry-db/quarry/pkg/slatedb/sst"
)

// Batch is changes that happen together: after a crash all of them are there or
// none. Of several changes of one key the last counts; an operand is no change
// but stands beside others, so it must be the only one of its key. The zero
// Batch is empty and ready. It keeps copies of what it is given.
type Batch struct {
	rows []sst.Row
	ttl  []time.Duration // beside rows; 0: none
	size int
	err  error
}

// Put sets the value of key.
func (b *Batch) Put(key, value []byte) { b.add(key, value, 0, 0) }

// PutTTL sets the value of key, for about as long as ttl: it is gone when the
// table it is flushed to, or merged into, is made later than that. Until then
// reads may return it, as in SlateDB itself.
func (b *Batch) PutTTL(key, value []byte, ttl time.Duration) {
	if ttl <= 0 {
		b.fail(fmt.Errorf("key %q: a time to live of %v", key, ttl))
	}
	b.add(key, value, 0, ttl)
}

// Delete removes key. It need not be there.
func (b *Batch) Delete(key []byte) { b.add(key, nil, sst.Tombstone, 0) }

// Merge puts an operand on key, for the application that reads it.
func (b *Batch) Merge(key, operand []byte) { b.add(key, operand, sst.Merge, 0) }

// Len returns how many changes there are.
func (b *Batch) Len() int { return len(b.rows) }

func (b *Batch) fail(err error) {
	if b.err == nil {
		b.err = err
	}
}

func (b *Batch) add(key, value []byte, flags sst.Flags, ttl time.Duration) {
	r := sst.Row{Key: bytes.Clone(key), Flags: flags}
	if flags&sst.Tombstone == 0 {
		r.Value = append([]byte{}, value...)
	}
	switch {
	case len(key) == 0 || len(key) > sst.MaxKey:
		b.fail(fmt.Errorf("a key of %d bytes; from 1 to %d are allowed", len(key), sst.MaxKey))
	case len(value) > maxValue:
		b.fail(fmt.Errorf("key %q: a value of %d bytes; up to %d are allowed", key, len(value), maxValue))
	}
	b.rows = append(b.rows, r)
	b.ttl = append(b.ttl, ttl)
	b.size += len(key) + len(value) + 32
}

// maxValue bounds a value to what [sst] reads back.
const maxValue = sst.MaxPart / 2

// sealed returns the rows in the order of their keys, one for each.
func (b *Batch) sealed() ([]sst.Row, []time.Duration, error) {
	if b.err != nil {
		return nil, nil, b.err
	}
	order := make([]int, len(b.rows))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { return bytes.Compare(b.rows[i].Key, b.rows[j].Key) })
	rows := make([]sst.Row, 0, len(order))
	ttls := make([]time.Duration, 0, len(order))
	for _, i := range order {
		r := b.rows[i]
		if n := len(rows); n > 0 && bytes.Equal(rows[n-1].Key, r.Key) {
			if r.Merge() || rows[n-1].Merge() {
				return nil, nil, fmt.Errorf("key %q: an operand and another change in one batch", r.Key)
			}
			rows[n-1], ttls[n-1] = r, b.ttl[i]
			continue
		}
		rows, ttls = append(rows, r), append(ttls, b.ttl[i])
	}
	return rows, ttls, nil
}
