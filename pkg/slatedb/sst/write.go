package sst

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/quarry-db/quarry/pkg/slatedb/internal/fb"
	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// Options say how a table is written. The zero value gives what every
// published release reads: blocks of 4 KiB, nothing compressed, no filter.
type Options struct {
	// BlockSize is about how many bytes of rows are in a block, from 1 KiB
	// to 64 KiB; 0 means 4096. A larger row has a block to itself.
	BlockSize int
	// Compression is one of None, Snappy, Zlib, LZ4, Zstd.
	Compression int8
	// Filter adds a bloom filter of ten bits a row, in the legacy form: the
	// composite form makes 0.12.1 lose point reads.
	Filter bool
	// FilterFrom is the number of rows from which on a filter is made; 0
	// means 1000, as SlateDB has it.
	FilterFrom int
}

// Validate refuses what has no meaning.
func (o Options) Validate() error {
	if o.BlockSize != 0 && (o.BlockSize < 1<<10 || o.BlockSize > 64<<10) {
		return fmt.Errorf("BlockSize %d is not from 1024 to 65536; 4096 is usual", o.BlockSize)
	}
	if o.Compression < None || o.Compression > Zstd {
		return fmt.Errorf("Compression %d is not one of 0 to 4; 0 is none", o.Compression)
	}
	if o.FilterFrom < 0 {
		return fmt.Errorf("FilterFrom %d is negative; 1000 is usual", o.FilterFrom)
	}
	return nil
}

const (
	defaultBlockSize  = 4096
	defaultFilterFrom = 1000
	bitsPerKey        = 10
	probesPerKey      = 6 // ⌊bitsPerKey·0.69⌋
	restartEvery      = 16
	typeWAL           = 1
)

// Writer makes one table in memory. Add the rows in the order of their keys,
// versions of one key newest first; then call Finish once. It is for one
// goroutine.
type Writer struct {
	o   Options
	wal bool

	out    []byte
	block  blockBuilder
	index  []BlockMeta
	stats  Stats
	hashes []uint64

	first, last []byte // keys of the table; of a WAL object first is a sequence number
	lastSeq     uint64
	before      []byte // last key of the block before
	err         error
}

// NewWriter returns a writer of a table of a tree.
func NewWriter(o Options) (*Writer, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if o.BlockSize == 0 {
		o.BlockSize = defaultBlockSize
	}
	if o.FilterFrom == 0 {
		o.FilterFrom = defaultFilterFrom
	}
	return &Writer{o: o}, nil
}

// Rows returns how many rows were added.
func (w *Writer) Rows() int {
	return int(w.stats.Puts + w.stats.Deletes + w.stats.Merges)
}

// Size returns about how many bytes the table has so far.
func (w *Writer) Size() int { return len(w.out) + len(w.block.b) }

// Add appends a row. It copies what it keeps.
func (w *Writer) Add(r *Row) error {
	if w.err == nil {
		w.err = w.add(r)
	}
	return w.err
}

func (w *Writer) add(r *Row) error {
	if err := checkRow(r); err != nil {
		return err
	}
	if w.Rows() > 0 && !w.wal {
		if c := bytes.Compare(w.last, r.Key); c > 0 || c == 0 && w.lastSeq <= r.Seq {
			return fmt.Errorf("key %q, sequence number %d, does not follow %q, %d", r.Key, r.Seq, w.last, w.lastSeq)
		}
	}
	if w.block.rows > 0 && w.block.sizeWith(r) > w.o.BlockSize {
		if err := w.cut(); err != nil {
			return err
		}
	}
	if w.block.rows == 0 {
		w.begin(r)
	}
	w.block.add(r)
	s := &w.stats
	b := &s.Blocks[len(s.Blocks)-1]
	switch {
	case r.Tombstone():
		s.Deletes++
		b.Deletes++
	case r.Merge():
		s.Merges++
		b.Merges++
	default:
		s.Puts++
		b.Puts++
	}
	s.RawKeySize += uint64(len(r.Key))
	s.RawValueSize += uint64(len(r.Value))
	if w.o.Filter && !w.wal {
		w.hashes = append(w.hashes, siphash13(r.Key))
	}
	if w.first == nil && !w.wal {
		w.first = bytes.Clone(r.Key)
	}
	w.last, w.lastSeq = append(w.last[:0], r.Key...), r.Seq
	return nil
}

func checkRow(r *Row) error {
	switch {
	case len(r.Key) == 0 || len(r.Key) > MaxKey:
		return fmt.Errorf("a key of %d bytes; from 1 to %d are allowed", len(r.Key), MaxKey)
	case len(r.Value) > MaxPart/2:
		return fmt.Errorf("a value of %d bytes; up to %d are allowed", len(r.Value), MaxPart/2)
	case r.Flags&^knownFlags != 0 || r.Flags&(Tombstone|Merge) == Tombstone|Merge:
		return fmt.Errorf("a row with flags %#02x", uint8(r.Flags))
	case r.Tombstone() && len(r.Value) > 0:
		return fmt.Errorf("a tombstone with a value of %d bytes", len(r.Value))
	}
	return nil
}

// begin opens a block whose first row is r.
func (w *Writer) begin(r *Row) {
	meta := BlockMeta{Offset: uint64(len(w.out)), Key: []byte{}}
	switch {
	case w.wal:
		meta.Key = binary.BigEndian.AppendUint64(nil, r.Seq)
		if w.first == nil {
			w.first = meta.Key
		}
	case len(w.index) > 0:
		meta.Key = separator(w.before, r.Key)
	}
	w.index = append(w.index, meta)
	w.stats.Blocks = append(w.stats.Blocks, BlockStats{})
}

// separator returns the shortest beginning of next that is greater than
// before, all of it when they are equal.
func separator(before, next []byte) []byte {
	n := 0
	for n < len(before) && n < len(next) && before[n] == next[n] {
		n++
	}
	return bytes.Clone(next[:min(n+1, len(next))])
}

// cut ends the block.
func (w *Writer) cut() error {
	if w.block.rows == 0 {
		return nil
	}
	w.before = append(w.before[:0], w.last...)
	_, _, err := w.store(w.block.finish())
	w.block.reset()
	return err
}

// store appends a part, compressed and with its checksum.
func (w *Writer) store(plain []byte) (off, n uint64, err error) {
	at := len(w.out)
	if w.out, err = Compress(w.out, w.o.Compression, plain); err != nil {
		return 0, 0, err
	}
	w.out = binary.BigEndian.AppendUint32(w.out, crc32.ChecksumIEEE(w.out[at:]))
	return uint64(at), uint64(len(w.out) - at), nil
}

// Finish returns the object and what a manifest says of it. A table must have
// a row.
func (w *Writer) Finish() ([]byte, manifest.Info, error) {
	if w.err == nil && w.Rows() == 0 {
		w.err = fmt.Errorf("a table without rows")
	}
	if w.err == nil {
		w.err = w.cut()
	}
	if w.err != nil {
		return nil, manifest.Info{}, w.err
	}
	i := manifest.Info{FirstKey: w.first, LastKey: w.last, Compression: w.o.Compression}
	var err error
	i.FilterOffset = uint64(len(w.out))
	if w.o.Filter && w.Rows() >= w.o.FilterFrom {
		if i.FilterOffset, i.FilterLen, err = w.store(buildBloom(w.hashes)); err != nil {
			return nil, i, err
		}
	}
	if i.IndexOffset, i.IndexLen, err = w.store(encodeIndex(w.index)); err != nil {
		return nil, i, err
	}
	if i.StatsOffset, i.StatsLen, err = w.store(encodeStats(&w.stats)); err != nil {
		return nil, i, err
	}
	return w.footer(i), i, nil
}

// footer appends info, its checksum, its offset and the format version.
func (w *Writer) footer(i manifest.Info) []byte {
	at := len(w.out)
	w.out = append(w.out, manifest.EncodeInfo(i)...)
	w.out = binary.BigEndian.AppendUint32(w.out, crc32.ChecksumIEEE(w.out[at:]))
	w.out = binary.BigEndian.AppendUint64(w.out, uint64(at))
	return binary.BigEndian.AppendUint16(w.out, V2)
}

// EncodeWAL makes a WAL object of rows in commit order. The mark, 16 bytes
// that nothing refers to, makes the object unlike all others with the same
// rows: whoever put it can tell that it was he. Without rows the object is a
// fence that every release understands: the form of 0.12, with the mark in
// front.
func EncodeWAL(rows []Row, codec int8, mark [16]byte) ([]byte, error) {
	w := &Writer{o: Options{BlockSize: defaultBlockSize, Compression: codec}, wal: true}
	if err := w.o.Validate(); err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return w.fence(mark)
	}
	for i := range rows {
		if i > 0 && rows[i].Seq < rows[i-1].Seq {
			return nil, fmt.Errorf("sequence number %d after %d", rows[i].Seq, rows[i-1].Seq)
		}
		if err := w.Add(&rows[i]); err != nil {
			return nil, err
		}
	}
	if err := w.cut(); err != nil {
		return nil, err
	}
	i := manifest.Info{FirstKey: w.first, Compression: codec, Type: typeWAL}
	i.FilterOffset = uint64(len(w.out))
	var err error
	if i.IndexOffset, i.IndexLen, err = w.store(encodeIndex(w.index)); err != nil {
		return nil, err
	}
	w.out = append(w.out, mark[:]...)
	return w.footer(i), nil
}

func (w *Writer) fence(mark [16]byte) ([]byte, error) {
	w.o.Compression = None // a few bytes
	w.out = append(w.out, mark[:]...)
	i := manifest.Info{FilterOffset: uint64(len(w.out))}
	var err error
	if i.IndexOffset, i.IndexLen, err = w.store(encodeIndex(nil)); err != nil {
		return nil, err
	}
	if i.StatsOffset, i.StatsLen, err = w.store(encodeStats(&Stats{})); err != nil {
		return nil, err
	}
	return w.footer(i), nil
}

// blockBuilder fills one block of format 2.
type blockBuilder struct {
	b        []byte
	restarts []uint16
	rows     int
	key      []byte
}

func (b *blockBuilder) reset() {
	b.b, b.restarts, b.rows, b.key = b.b[:0], b.restarts[:0], 0, b.key[:0]
}

func (b *blockBuilder) restart() bool { return b.rows%restartEvery == 0 }

func (b *blockBuilder) shared(key []byte) int {
	if b.restart() {
		return 0
	}
	n := 0
	for n < len(key) && n < len(b.key) && key[n] == b.key[n] {
		n++
	}
	return n
}

// sizeWith is how large the block would be with r.
func (b *blockBuilder) sizeWith(r *Row) int {
	shared := b.shared(r.Key)
	n := len(b.b) + 2*len(b.restarts) + 2 + rowSize(r, shared)
	if b.restart() {
		n += 2
	}
	return n
}

func rowSize(r *Row, shared int) int {
	n := varintLen(shared) + varintLen(len(r.Key)-shared) + varintLen(len(r.Value)) + len(r.Key) - shared + len(r.Value) + 8 + 1
	if r.Flags&HasExpire != 0 {
		n += 8
	}
	if r.Flags&HasCreate != 0 {
		n += 8
	}
	return n
}

func varintLen(n int) int {
	l := 1
	for ; n >= 0x80; n >>= 7 {
		l++
	}
	return l
}

// add appends r. Offsets have 16 bits: nothing may follow a row that ends past
// them, which sizeWith sees to.
func (b *blockBuilder) add(r *Row) {
	shared := b.shared(r.Key)
	if b.restart() {
		b.restarts = append(b.restarts, uint16(min(len(b.b), math.MaxUint16)))
	}
	p := binary.AppendUvarint(b.b, uint64(shared))
	p = binary.AppendUvarint(p, uint64(len(r.Key)-shared))
	p = binary.AppendUvarint(p, uint64(len(r.Value)))
	p = append(p, r.Key[shared:]...)
	p = append(p, r.Value...)
	p = binary.BigEndian.AppendUint64(p, r.Seq)
	p = append(p, byte(r.Flags))
	if r.Flags&HasExpire != 0 {
		p = binary.BigEndian.AppendUint64(p, uint64(r.ExpireTS))
	}
	if r.Flags&HasCreate != 0 {
		p = binary.BigEndian.AppendUint64(p, uint64(r.CreateTS))
	}
	b.b = p
	b.rows++
	b.key = append(b.key[:0], r.Key...)
}

func (b *blockBuilder) finish() []byte {
	for _, off := range b.restarts {
		b.b = binary.BigEndian.AppendUint16(b.b, off)
	}
	return binary.BigEndian.AppendUint16(b.b, uint16(len(b.restarts)))
}

func encodeIndex(blocks []BlockMeta) []byte {
	var b fb.Builder
	refs := make([]fb.Ref, len(blocks))
	for i, m := range blocks {
		key := b.Bytes(m.Key)
		f := b.Table()
		f.Uint64(0, m.Offset, 0)
		f.Ref(1, key)
		refs[i] = f.End()
	}
	all := b.Refs(refs)
	f := b.Table()
	f.Ref(0, all)
	return b.Finish(f.End())
}

func encodeStats(s *Stats) []byte {
	var b fb.Builder
	refs := make([]fb.Ref, len(s.Blocks))
	for i, m := range s.Blocks {
		f := b.Table()
		for id, n := range []uint16{m.Puts, m.Deletes, m.Merges} {
			if n != 0 {
				f.Uint16(id, n)
			}
		}
		refs[i] = f.End()
	}
	var blocks fb.Ref
	if len(refs) > 0 {
		blocks = b.Refs(refs)
	}
	f := b.Table()
	f.Uint64(0, s.Puts, 0)
	f.Uint64(1, s.Deletes, 0)
	f.Uint64(2, s.Merges, 0)
	f.Uint64(3, s.RawKeySize, 0)
	f.Uint64(4, s.RawValueSize, 0)
	f.Ref(5, blocks)
	return b.Finish(f.End())
}

// buildBloom makes a legacy filter block of the hashes of all rows.
func buildBloom(hashes []uint64) []byte {
	p := make([]byte, 2+(len(hashes)*bitsPerKey+7)/8)
	binary.BigEndian.PutUint16(p, probesPerKey)
	b := p[2:]
	m := uint64(len(b)) * 8
	for _, h := range hashes {
		at, d := (h&0xffffffff)%m, (h>>32)%m
		for i := range uint64(probesPerKey) {
			d = (d + i) % m
			b[at/8] |= 1 << (at % 8)
			at = (at + d) % m
		}
	}
	return p
}
