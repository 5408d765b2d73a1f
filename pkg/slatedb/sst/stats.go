package sst

import "github.com/quarry-db/quarry/pkg/slatedb/internal/fb"

// Stats counts what is in a table, as its writer did.
type Stats struct {
	Puts, Deletes, Merges uint64
	RawKeySize            uint64 // bytes of all keys
	RawValueSize          uint64
	Blocks                []BlockStats // one for each data block, nil when absent
}

// BlockStats counts the rows of one data block.
type BlockStats struct{ Puts, Deletes, Merges uint16 }

// ParseStats reads the plain content of a statistics block.
func ParseStats(plain []byte) (Stats, error) {
	t, err := fb.Root(plain)
	if err != nil {
		return Stats{}, err
	}
	s := Stats{
		Puts:         t.Uint64(0, "num_puts", 0),
		Deletes:      t.Uint64(1, "num_deletes", 0),
		Merges:       t.Uint64(2, "num_merges", 0),
		RawKeySize:   t.Uint64(3, "raw_key_size", 0),
		RawValueSize: t.Uint64(4, "raw_val_size", 0),
	}
	t.Tables(5, "block_stats", func(_ int, e fb.Table) {
		s.Blocks = append(s.Blocks, BlockStats{
			Puts:    e.Uint16(0, "puts", 0),
			Deletes: e.Uint16(1, "deletes", 0),
			Merges:  e.Uint16(2, "merges", 0),
		})
	})
	return s, t.Err()
}
