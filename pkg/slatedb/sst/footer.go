package sst

import (
	"bytes"
	"encoding/binary"

	"github.com/quarry-db/quarry/pkg/slatedb/internal/fb"
	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// Format versions of a table, in the last two bytes of the object.
const (
	V1 = 1 // block format 1
	V2 = 2 // block format 2
)

// TrailerLen is the length of what follows info: its checksum, its offset and
// the format version.
const TrailerLen = 4 + 8 + 2

// MaxInfo bounds the length of info: two keys and a dozen numbers.
const MaxInfo = 2*MaxKey + 4096

// Footer is the end of a table: where its parts are and how they are written.
type Footer struct {
	Format     uint16 // V1 or V2
	InfoOffset uint64
	Info       manifest.Info
}

// ParseFooter reads the footer of an object of size bytes from its last bytes.
// When tail does not reach back to the beginning of info, need is how many of
// the last bytes it takes.
func ParseFooter(tail []byte, size int64) (f Footer, need int64, err error) {
	if size < TrailerLen || int64(len(tail)) > size {
		return Footer{}, 0, fault(PartFooter, 0, ErrEmpty)
	}
	if len(tail) < TrailerLen {
		return Footer{}, TrailerLen, nil
	}
	at := size - TrailerLen // where the trailer begins
	trailer := tail[len(tail)-TrailerLen:]
	f.InfoOffset = binary.BigEndian.Uint64(trailer[4:])
	f.Format = binary.BigEndian.Uint16(trailer[12:])
	if f.InfoOffset > uint64(at) {
		return Footer{}, 0, fault(PartFooter, at, corrupt("info at %d of %d bytes", f.InfoOffset, size))
	}
	infoLen := at - int64(f.InfoOffset)
	if infoLen > MaxInfo {
		return Footer{}, 0, fault(PartFooter, at, corrupt("info of %d bytes", infoLen))
	}
	if need := infoLen + TrailerLen; need > int64(len(tail)) {
		return Footer{}, need, nil
	}
	stored := tail[int64(len(tail))-TrailerLen-infoLen : len(tail)-TrailerLen+4]
	body, err := checked(stored)
	if err != nil {
		return Footer{}, 0, fault(PartInfo, int64(f.InfoOffset), err)
	}
	// Only now: what is cut off ends with any number, but not with one behind
	// an info that has its checksum.
	if f.Format != V1 && f.Format != V2 {
		return Footer{}, 0, fault(PartFooter, at, formatError(f.Format))
	}
	if f.Info, err = parseInfo(bytes.Clone(body)); err != nil {
		return Footer{}, 0, fault(PartInfo, int64(f.InfoOffset), err)
	}
	if err := f.check(); err != nil {
		return Footer{}, 0, fault(PartInfo, int64(f.InfoOffset), err)
	}
	return f, 0, nil
}

func parseInfo(b []byte) (manifest.Info, error) {
	t, err := fb.Root(b)
	if err != nil {
		return manifest.Info{}, err
	}
	i := manifest.Info{
		FirstKey:     t.Bytes(0, "first_entry"),
		IndexOffset:  t.Uint64(1, "index_offset", 0),
		IndexLen:     t.Uint64(2, "index_len", 0),
		FilterOffset: t.Uint64(3, "filter_offset", 0),
		FilterLen:    t.Uint64(4, "filter_len", 0),
		Compression:  int8(t.Uint8(5, "compression", 0)),
		Type:         int8(t.Uint8(6, "sst_type", 0)),
		LastKey:      t.Bytes(7, "last_entry"),
		StatsOffset:  t.Uint64(8, "stats_offset", 0),
		StatsLen:     t.Uint64(9, "stats_len", 0),
		FilterFormat: int8(t.Uint8(10, "filter_format", 0)),
	}
	return i, t.Err()
}

// check refuses an info whose parts do not lie before it.
func (f *Footer) check() error {
	for _, p := range []struct {
		part     Part
		off, len uint64
	}{
		{PartIndex, f.Info.IndexOffset, f.Info.IndexLen},
		{PartFilter, f.Info.FilterOffset, f.Info.FilterLen},
		{PartStats, f.Info.StatsOffset, f.Info.StatsLen},
	} {
		switch {
		case p.len == 0 && p.part != PartIndex:
		case p.off > f.InfoOffset || p.len > f.InfoOffset-p.off:
			return corrupt("%s of %d bytes at %d, info at %d", p.part, p.len, p.off, f.InfoOffset)
		case p.len > MaxPart:
			return fault(p.part, int64(p.off), ErrTooLarge)
		case p.len < 4:
			return corrupt("%s of %d bytes", p.part, p.len)
		}
	}
	if c := f.Info.Compression; c < None || c > Zstd {
		return formatf("compression %d", c)
	}
	if f.Info.FilterLen > 0 && f.Info.FilterOffset > f.Info.IndexOffset {
		return corrupt("filter at %d after the index at %d", f.Info.FilterOffset, f.Info.IndexOffset)
	}
	return nil
}

// dataEnd is where the last data block ends.
func (f *Footer) dataEnd() uint64 {
	if f.Info.FilterLen > 0 {
		return f.Info.FilterOffset
	}
	return f.Info.IndexOffset
}
