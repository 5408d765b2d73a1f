package catalog

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
)

// DigestBuckets is how many buckets a [Digest] has. A difference is found and
// repaired bucket by bucket.
const DigestBuckets = 256

// Sum is one record's contribution to a [Digest]: its bucket, by kind and key
// alone, and 128 bits over kind, key, revision and value as they travelled.
// The zero Sum means "never travelled" and changes no digest.
type Sum struct {
	Bucket uint8  `json:"bucket"`
	Hi     uint64 `json:"hi"`
	Lo     uint64 `json:"lo"`
}

// NewSum is the sum of one record. value is the record's encoded value, or
// whatever stands for it; flavor tells apart what is not a plain value, so
// that a withdrawn or unsendable record never sums like a value.
func NewSum(kind uint32, key string, counter uint64, flavor byte, value []byte) Sum {
	h := sha256.New()
	// On the stack: what fits is hashed in one call, keys are short.
	var b [128]byte
	head := appendKey(b[:0], kind, key)
	h.Write(head)
	var sum [sha256.Size]byte
	h.Sum(sum[:0])
	bucket := sum[0]
	binary.BigEndian.PutUint64(b[:], counter)
	binary.BigEndian.PutUint64(b[8:], uint64(len(value))<<8|uint64(flavor))
	h.Write(b[:16])
	h.Write(value)
	h.Sum(sum[:0])
	return Sum{Bucket: bucket, Hi: binary.BigEndian.Uint64(sum[:]), Lo: binary.BigEndian.Uint64(sum[8:])}
}

// BucketOf is the bucket that a record's sum falls into, whatever its value.
func BucketOf(kind uint32, key string) uint8 {
	var b [128]byte
	sum := sha256.Sum256(appendKey(b[:0], kind, key))
	return sum[0]
}

// appendKey appends kind and key, every part with its length before it: ("ab",
// "c") and ("a","bc") differ.
func appendKey(b []byte, kind uint32, key string) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(kind))
	b = binary.BigEndian.AppendUint64(b, uint64(len(key)))
	return append(b, key...)
}

// Moved is the sum of a record after a [Move] to counter: packed is the move as
// it travelled, without ordinal and step. Both ends chain it over what was
// sent, so that they agree only when no move between two whole records was
// lost or changed; a whole record begins a new chain. It allocates nothing.
func (s Sum) Moved(counter uint64, packed []byte) Sum {
	const head = 24
	var b [head + MaxPacked]byte
	binary.BigEndian.PutUint64(b[:], s.Hi)
	binary.BigEndian.PutUint64(b[8:], s.Lo)
	binary.BigEndian.PutUint64(b[16:], counter)
	n := head + copy(b[head:], packed)
	sum := sha256.Sum256(b[:n])
	return Sum{Bucket: s.Bucket, Hi: binary.BigEndian.Uint64(sum[:]), Lo: binary.BigEndian.Uint64(sum[8:])}
}

// Digest is an order-independent fingerprint of a set of records: each bucket
// is the sum, modulo 2^128, of its records' sums. It finds drift between two
// honest copies; it is no protection against a forger. The zero Digest is that
// of the empty set. It is a value: a copy does not follow the original.
type Digest struct {
	buckets [DigestBuckets][2]uint64 // high, low
	count   uint64
}

// Add puts one record in.
func (d *Digest) Add(s Sum) {
	if s == (Sum{}) {
		return
	}
	b := &d.buckets[s.Bucket]
	var carry uint64
	b[1], carry = bits.Add64(b[1], s.Lo, 0)
	b[0], _ = bits.Add64(b[0], s.Hi, carry)
	d.count++
}

// Remove takes out one record that was added.
func (d *Digest) Remove(s Sum) {
	if s == (Sum{}) {
		return
	}
	b := &d.buckets[s.Bucket]
	var borrow uint64
	b[1], borrow = bits.Sub64(b[1], s.Lo, 0)
	b[0], _ = bits.Sub64(b[0], s.Hi, borrow)
	d.count--
}

// Count is how many records are in it.
func (d *Digest) Count() uint64 { return d.count }

// Bucket is one bucket's sum, big endian.
func (d *Digest) Bucket(i uint8) [16]byte {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], d.buckets[i][0])
	binary.BigEndian.PutUint64(b[8:], d.buckets[i][1])
	return b
}

// Root is a hash over the count and all buckets. It is never all zeroes, so
// that zeroes can mean "not given".
func (d *Digest) Root() [32]byte {
	h := sha256.New()
	h.Write([]byte("quarry digest 1\n"))
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], d.count)
	h.Write(b[:8])
	for i := range d.buckets {
		b = d.Bucket(uint8(i))
		h.Write(b[:])
	}
	return [32]byte(h.Sum(nil))
}
