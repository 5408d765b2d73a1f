package wal_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/quarry-db/quarry/pkg/slatedb/sst"
	"github.com/quarry-db/quarry/pkg/slatedb/wal"
)

func FuzzDecode(f *testing.F) {
	seen := map[int]bool{}
	objects(f, func(path string, raw []byte) {
		if n := len(raw) / 256; len(raw) < 8<<10 && !seen[n] {
			seen[n] = true
			f.Add(raw, uint16(5))
		}
	})
	f.Fuzz(func(t *testing.T, raw []byte, at uint16) {
		_, _ = wal.Decode(raw)
		// Once more with a byte changed and every checksum right, to get
		// behind them.
		foot, _, err := sst.ParseFooter(raw, int64(len(raw)))
		if err != nil || int(at) >= len(raw) {
			return
		}
		raw = bytes.Clone(raw)
		raw[at] ^= 0x21
		i := foot.Info
		seal(raw, i.IndexOffset, i.IndexLen)
		if tab, err := sst.Whole(raw); err == nil {
			if x, err := tab.Index(t.Context()); err == nil {
				for i := range x.Blocks {
					off, n := x.Span(i)
					seal(raw, uint64(off), uint64(n))
				}
			}
		}
		_, _ = wal.Decode(raw)
	})
}

func seal(raw []byte, off, n uint64) {
	if n >= 4 && off+n <= uint64(len(raw)) {
		binary.BigEndian.PutUint32(raw[off+n-4:], crc32.ChecksumIEEE(raw[off:off+n-4]))
	}
}
