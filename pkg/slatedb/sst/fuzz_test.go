package sst_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"

	"github.com/quarry-db/quarry/pkg/slatedb/sst"
)

// A few tables of each kind are seeds enough; all would slow the fuzzer down.
func seeds(f *testing.F, each func(foot sst.Footer, raw []byte)) {
	kinds := map[[4]int]int{}
	tables(f, "compacted", func(path string, raw []byte) {
		foot, _, err := sst.ParseFooter(raw, int64(len(raw)))
		if err != nil {
			f.Fatalf("%s: %v", path, err)
		}
		kind := [4]int{int(foot.Info.Compression), int(foot.Info.FilterFormat), int(min(foot.Info.FilterLen, 1)), int(foot.Format)}
		if kinds[kind]++; kinds[kind] <= 2 && len(raw) < 64<<10 {
			each(foot, raw)
		}
	})
}

// plain returns the decompressed content of a stored part.
func plain(f *testing.F, codec int8, stored []byte) []byte {
	p, err := sst.Decompress(nil, codec, stored[:len(stored)-4])
	if err != nil {
		f.Fatal(err)
	}
	return p
}

// walk reads a block in every way there is.
func walk(raw []byte, format uint16) {
	b, err := sst.ParseBlock(raw, format)
	if err != nil {
		return
	}
	var c sst.Cursor
	c.Reset(b)
	var some []byte
	for n := 0; c.Next(); n++ {
		if n == 3 {
			some = bytes.Clone(c.Row.Key)
		}
		_ = c.Row.Value
	}
	c.Reset(b)
	c.Seek(some)
	for c.Next() {
		_ = c.Row.Seq
	}
}

func FuzzBlockV2(f *testing.F) {
	seeds(f, func(foot sst.Footer, raw []byte) {
		t, _ := sst.Whole(raw)
		x, err := t.Index(f.Context())
		if err != nil || foot.Format != sst.V2 {
			return
		}
		off, n := x.Span(0)
		f.Add(plain(f, foot.Info.Compression, raw[off:off+n]))
	})
	f.Fuzz(func(t *testing.T, raw []byte) { walk(raw, sst.V2) })
}

// No published release writes format 1 any more, so the seeds are made by hand.
func FuzzBlockV1(f *testing.F) {
	f.Add(blockV1(
		rowV1{"apple", "red", 1, sst.HasCreate, 5, 0}, rowV1{"apricot", "orange", 2, sst.HasCreate | sst.HasExpire, 6, 7},
		rowV1{"banana", "", 3, sst.Tombstone, 0, 0}, rowV1{"cherry", "x", 4, sst.Merge, 0, 0}))
	f.Add(blockV1(rowV1{"k", "", 1, 0, 0, 0}))
	f.Add([]byte{0, 0})
	f.Fuzz(func(t *testing.T, raw []byte) { walk(raw, sst.V1) })
}

func FuzzFooter(f *testing.F) {
	seeds(f, func(foot sst.Footer, raw []byte) { f.Add(raw[foot.InfoOffset:]) })
	f.Fuzz(func(t *testing.T, tail []byte) {
		// The info must have its checksum, or nothing would be reached.
		if len(tail) > sst.TrailerLen {
			end := len(tail) - sst.TrailerLen
			binary.BigEndian.PutUint32(tail[end:], crc32.ChecksumIEEE(tail[:end]))
			size := int64(binary.BigEndian.Uint64(tail[end+4:])&(1<<40-1)) + int64(len(tail))
			_, _, _ = sst.ParseFooter(tail, size)
		}
		_, _, _ = sst.ParseFooter(tail, int64(len(tail)))
	})
}

func FuzzIndex(f *testing.F) {
	seeds(f, func(foot sst.Footer, raw []byte) {
		i := foot.Info
		f.Add(plain(f, i.Compression, raw[i.IndexOffset:i.IndexOffset+i.IndexLen]), i.IndexOffset)
	})
	f.Fuzz(func(t *testing.T, raw []byte, end uint64) {
		x, err := sst.ParseIndex(raw, end)
		if err != nil {
			return
		}
		for i := range x.Blocks {
			off, n := x.Span(i)
			if off < 0 || n <= 0 || uint64(off)+uint64(n) > end {
				t.Fatalf("block %d is %d bytes at %d of %d", i, n, off, end)
			}
			k := x.Blocks[i].Key
			if from, until, through := x.From(k), x.Until(k), x.Through(k); x.Ordered() && (from > i || until > i+1 || through <= i) {
				t.Fatalf("key of block %d of %d: from %d until %d through %d", i, len(x.Blocks), from, until, through)
			}
		}
	})
}

func FuzzFilter(f *testing.F) {
	seeds(f, func(foot sst.Footer, raw []byte) {
		if i := foot.Info; i.FilterLen > 0 {
			f.Add(plain(f, i.Compression, raw[i.FilterOffset:i.FilterOffset+i.FilterLen]), i.FilterFormat, []byte("user:000001"))
		}
	})
	f.Fuzz(func(t *testing.T, raw []byte, format int8, key []byte) {
		if x, err := sst.ParseFilter(raw, format); err == nil {
			x.MayContain(key)
		}
	})
}

func FuzzStats(f *testing.F) {
	seeds(f, func(foot sst.Footer, raw []byte) {
		i := foot.Info
		f.Add(plain(f, i.Compression, raw[i.StatsOffset:i.StatsOffset+i.StatsLen]))
	})
	f.Fuzz(func(t *testing.T, raw []byte) { _, _ = sst.ParseStats(raw) })
}

func FuzzDecompress(f *testing.F) {
	seeds(f, func(foot sst.Footer, raw []byte) {
		t, _ := sst.Whole(raw)
		if x, err := t.Index(f.Context()); err == nil {
			off, n := x.Span(0)
			f.Add(foot.Info.Compression, raw[off:off+n-4])
		}
	})
	f.Fuzz(func(t *testing.T, codec int8, raw []byte) {
		arena := []byte("before")
		out, err := sst.Decompress(arena, codec, raw)
		if !bytes.HasPrefix(out, arena) {
			t.Fatal("what was in the arena is gone")
		}
		again, err2 := sst.Decompress(nil, codec, raw)
		if (err == nil) != (err2 == nil) || err == nil && !bytes.Equal(out[len(arena):], again) {
			t.Fatalf("into an arena %v, alone %v", err, err2)
		}
	})
}

// FuzzTable reads whole tables whose checksums were made right again, so that
// the fuzzer gets behind them.
func FuzzTable(f *testing.F) {
	seeds(f, func(foot sst.Footer, raw []byte) {
		if len(raw) < 8<<10 {
			f.Add(raw, uint16(0), byte(0))
			f.Add(raw, uint16(foot.Info.IndexOffset+9), byte(3))
		}
	})
	f.Fuzz(func(t *testing.T, raw []byte, at uint16, by byte) {
		foot, _, err := sst.ParseFooter(raw, int64(len(raw)))
		if err != nil || int(at) >= len(raw) {
			return
		}
		raw = bytes.Clone(raw)
		raw[at] ^= by
		i := foot.Info
		seal(raw, i.IndexOffset, i.IndexLen)
		seal(raw, i.FilterOffset, i.FilterLen)
		seal(raw, i.StatsOffset, i.StatsLen)
		tab, err := sst.Whole(raw)
		if err != nil {
			return
		}
		if x, err := tab.Index(t.Context()); err == nil {
			for i := range x.Blocks {
				off, n := x.Span(i)
				seal(raw, uint64(off), uint64(n))
			}
		}
		if _, err := tab.Check(t.Context(), func(*sst.Fault) {}); err != nil {
			t.Fatalf("memory cannot fail to be read: %v", err)
		}
		s := tab.Scan(t.Context(), []byte("k"), nil)
		defer s.Close()
		for s.Next() {
			_ = s.Row().Value
		}
	})
}

// seal writes the checksum of a stored part.
func seal(raw []byte, off, n uint64) {
	if n >= 4 && off+n <= uint64(len(raw)) {
		binary.BigEndian.PutUint32(raw[off+n-4:], crc32.ChecksumIEEE(raw[off:off+n-4]))
	}
}

func TestABombIsRefused(t *testing.T) {
	// Streams do not say how much comes of them.
	var z, zs bytes.Buffer
	zw := zlib.NewWriter(&z)
	sw, err := zstd.NewWriter(&zs)
	if err != nil {
		t.Fatal(err)
	}
	some := make([]byte, 1<<20)
	for range sst.MaxPart/len(some) + 1 {
		_, _ = zw.Write(some)
		_, _ = sw.Write(some)
	}
	if zw.Close() != nil || sw.Close() != nil {
		t.Fatal("bombs do not build")
	}
	for _, c := range []struct {
		name  string
		codec int8
		bomb  []byte
	}{
		{"snappy, a length without data", sst.Snappy, []byte{0xff, 0xff, 0xff, 0x0f, 0}},
		{"zlib", sst.Zlib, z.Bytes()},
		{"lz4, a length without data", sst.LZ4, []byte{0, 0, 0, 0x08, 0x10}},
		// The decoder's assembly wrote to address 0 here.
		{"lz4, data for a length of nothing", sst.LZ4, []byte{0, 0, 0, 0, 0x50, 1, 2, 3, 4, 5}},
		{"lz4, over the limit", sst.LZ4, []byte{1, 0, 0, 0xff, 0x10}},
		{"zstd", sst.Zstd, zs.Bytes()},
		{"zstd, a length without data", sst.Zstd, []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 0x0f, 1, 0, 0}},
	} {
		if out, err := sst.Decompress(nil, c.codec, c.bomb); err == nil {
			t.Errorf("%s: %d bytes became %d", c.name, len(c.bomb), len(out))
		}
	}
}
