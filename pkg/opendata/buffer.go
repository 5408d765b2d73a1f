package opendata

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/oklog/ulid/v2"
)

// BufferManifest is the name of a buffer's manifest below its prefix. It is the
// one object there that is overwritten.
const BufferManifest = "manifest"

// ErrBufferVersion is wrapped by [DecodeBuffer] for a manifest of a version
// that this package does not know.
var ErrBufferVersion = errors.New("unknown version of a buffer's manifest")

// Buffer is the queue that a buffer's manifest describes. A drained buffer is
// the zero value but for NextSequence and Epoch.
type Buffer struct {
	// Epoch is how often a consumer has claimed the buffer, 0 for never. A
	// consumer is fenced when it moves.
	Epoch uint64
	// NextSequence is what the next batch will get: all below was produced.
	NextSequence uint64
	// Entries are the batches that nobody has acknowledged yet, in the order
	// of their sequences.
	Entries []BufferEntry
}

// BufferEntry is one batch in the queue.
type BufferEntry struct {
	Sequence uint64
	// Location is the batch's key from the bucket's root.
	Location string
	Ranges   []BufferRange
}

// BufferRange describes the records of a batch from one index on.
type BufferRange struct {
	StartIndex uint32
	// IngestedMS is the producer's clock in milliseconds since 1970.
	IngestedMS int64
	// PayloadBytes is the length of what the producer attached.
	PayloadBytes int
}

// Backlog is the number of batches that nobody has acknowledged.
func (b Buffer) Backlog() int { return len(b.Entries) }

// OldestIngestion is the producer's clock at the oldest record in the backlog;
// false when there is none.
func (b Buffer) OldestIngestion() (time.Time, bool) {
	var oldest int64
	found := false
	for _, e := range b.Entries {
		for _, r := range e.Ranges {
			if !found || r.IngestedMS < oldest {
				oldest, found = r.IngestedMS, true
			}
		}
	}
	if !found {
		return time.Time{}, false
	}
	return time.UnixMilli(oldest).UTC(), true
}

// A manifest is its entries, one after the other, and a footer. All numbers are
// little-endian.
//
//	entry   u32 length of what follows, u64 sequence, u16 + location,
//	        u32 number of ranges, each u32 start index, i64 time, u32 + payload
//	footer  u32 number of entries, u64 next sequence, u64 epoch, u16 version
const (
	bufferVersion = 1
	footerBytes   = 4 + 8 + 8 + 2
	rangeBytes    = 4 + 8 + 4
)

// DecodeBuffer reads a buffer's manifest. Every byte must be accounted for; an
// error names the entry and the field.
func DecodeBuffer(data []byte) (Buffer, error) {
	if len(data) < footerBytes {
		return Buffer{}, fmt.Errorf("buffer manifest: %d bytes, a footer alone has %d", len(data), footerBytes)
	}
	body, footer := data[:len(data)-footerBytes], reader{b: data[len(data)-footerBytes:]}
	count := footer.u32("entry count")
	b := Buffer{NextSequence: footer.u64("next sequence"), Epoch: footer.u64("epoch")}
	if v := footer.u16("version"); v != bufferVersion {
		return Buffer{}, fmt.Errorf("buffer manifest: version %d: %w", v, ErrBufferVersion)
	}
	r := reader{b: body}
	for i := range count {
		e := reader{b: r.take("entry", int64(r.u32("entry length")))}
		if r.err != nil {
			return Buffer{}, fmt.Errorf("buffer manifest: entry %d of %d: %w", i, count, r.err)
		}
		entry := e.entry()
		switch {
		case e.err != nil:
		case len(e.b) > 0:
			e.err = fmt.Errorf("%d bytes too many", len(e.b))
		case entry.Sequence >= b.NextSequence:
			e.err = fmt.Errorf("sequence %d is not below the next one, %d", entry.Sequence, b.NextSequence)
		case i > 0 && entry.Sequence <= b.Entries[i-1].Sequence:
			e.err = fmt.Errorf("sequence %d after %d", entry.Sequence, b.Entries[i-1].Sequence)
		}
		if e.err != nil {
			return Buffer{}, fmt.Errorf("buffer manifest: entry %d of %d: %w", i, count, e.err)
		}
		b.Entries = append(b.Entries, entry)
	}
	if len(r.b) > 0 {
		return Buffer{}, fmt.Errorf("buffer manifest: %d bytes between the entries and the footer", len(r.b))
	}
	return b, nil
}

func (r *reader) entry() BufferEntry {
	e := BufferEntry{Sequence: r.u64("sequence")}
	location := r.take("location", int64(r.u16("location length")))
	if r.err == nil && !utf8.Valid(location) {
		r.err = errors.New("location is not UTF-8")
	}
	e.Location = string(location)
	n := r.u32("range count")
	// Nothing is allocated for a count that the bytes cannot hold.
	if r.err == nil && int64(n)*rangeBytes > int64(len(r.b)) {
		r.err = fmt.Errorf("range count is %d with %d bytes left", n, len(r.b))
	}
	for i := uint32(0); i < n && r.err == nil; i++ {
		one := BufferRange{StartIndex: r.u32("start index"), IngestedMS: int64(r.u64("ingestion time"))}
		one.PayloadBytes = len(r.take("payload", int64(r.u32("payload length"))))
		e.Ranges = append(e.Ranges, one)
	}
	return e
}

// reader takes fields from the front of b. The first failure stays in err and
// makes the rest return zero values.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(field string, n int64) []byte {
	if r.err == nil && n > int64(len(r.b)) {
		r.err = fmt.Errorf("%s needs %d bytes, %d are left", field, n, len(r.b))
	}
	if r.err != nil {
		return nil
	}
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) u16(field string) uint16 {
	if b := r.take(field, 2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32(field string) uint32 {
	if b := r.take(field, 4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64(field string) uint64 {
	if b := r.take(field, 8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// IsBufferListing reports whether a prefix with these objects directly in it
// is a buffer: it has a manifest and at least one batch. A buffer that was just
// made, or drained and collected, is only a manifest, which [DecodeBuffer] must
// accept before anyone calls it a buffer.
func IsBufferListing(objects []string) bool {
	manifest, batch := false, false
	for _, o := range objects {
		manifest = manifest || o == BufferManifest
		batch = batch || isBatch(o)
	}
	return manifest && batch
}

func isBatch(name string) bool {
	id, ok := strings.CutSuffix(name, ".batch")
	if !ok {
		return false
	}
	_, err := ulid.ParseStrict(id)
	return err == nil
}
