package sst

import (
	"bytes"
	"encoding/binary"
	"sort"
)

// Block is one plain data block: rows, then a table of offsets. In format 1
// the table has every row, in format 2 every sixteenth (the restarts, whose
// keys stand in full).
type Block struct {
	format uint16
	rows   []byte
	table  []byte // of u16 BE
}

// ParseBlock divides the plain content of a data block. The block keeps plain.
func ParseBlock(plain []byte, format uint16) (Block, error) {
	if format != V1 && format != V2 {
		return Block{}, formatError(format)
	}
	if len(plain) < 2 {
		return Block{}, corrupt("block of %d bytes", len(plain))
	}
	n := int(binary.BigEndian.Uint16(plain[len(plain)-2:]))
	rows := len(plain) - 2 - 2*n
	if rows < 0 {
		return Block{}, corrupt("%d offsets in a block of %d bytes", n, len(plain))
	}
	if (n == 0) != (rows == 0) {
		return Block{}, corrupt("%d bytes of rows, %d offsets", rows, n)
	}
	b := Block{format: format, rows: plain[:rows:rows], table: plain[rows : rows+2*n]}
	if n > 0 && b.offset(0) != 0 {
		return Block{}, corrupt("first row at %d", b.offset(0))
	}
	return b, nil
}

func (b *Block) offset(i int) int { return int(binary.BigEndian.Uint16(b.table[2*i:])) }

func (b *Block) offsets() int { return len(b.table) / 2 }

// Cursor walks over the rows of one block at a time. Reset it to a block, then
// call Next until it is false, then ask Err. The zero Cursor is ready to be
// reset.
type Cursor struct {
	// Row is the current row. Its key is valid until the next call; its
	// value aliases the block.
	Row Row

	b      Block
	pos    int // of the next row
	n      int // rows passed, format 1
	key    []byte
	first  []byte // first key of the block, format 1
	held   bool   // Row was found by Seek and not yet given by Next
	err    error
	before int // position of Row
}

// Reset puts the cursor before the first row of b.
func (c *Cursor) Reset(b Block) {
	c.b, c.pos, c.n, c.held, c.err = b, 0, 0, false, nil
	c.key, c.first = c.key[:0], nil
}

// Err returns what ended the walk, nil at the end of the block.
func (c *Cursor) Err() error { return c.err }

// Next goes to the next row.
func (c *Cursor) Next() bool {
	if c.held {
		c.held = false
		return true
	}
	if c.pos >= len(c.b.rows) || c.err != nil {
		return false
	}
	c.before = c.pos
	if c.b.format == V2 {
		return c.next2()
	}
	return c.next1()
}

// Seek puts the cursor before the first row whose key is not less than key.
// The rows must be in the order of their keys.
func (c *Cursor) Seek(key []byte) {
	c.pos, c.n, c.held, c.err, c.first = 0, 0, false, nil, nil
	c.key = c.key[:0]
	if c.b.format == V2 {
		// The last restart below key; not the last that is equal to it,
		// versions of one key may begin before a restart.
		i := sort.Search(c.b.offsets(), func(i int) bool {
			k, ok := c.restart(i)
			return !ok || bytes.Compare(k, key) >= 0
		})
		if i > 0 {
			c.pos = c.b.offset(i - 1)
		}
	}
	for c.Next() {
		if bytes.Compare(c.Row.Key, key) >= 0 {
			c.held = true
			return
		}
	}
}

// restart returns the key at restart i.
func (c *Cursor) restart(i int) ([]byte, bool) {
	off := c.b.offset(i)
	if off >= len(c.b.rows) {
		return nil, false
	}
	p := c.b.rows[off:]
	shared, p, ok1 := uvarint(p)
	unshared, p, ok2 := uvarint(p)
	_, p, ok3 := uvarint(p)
	if !ok1 || !ok2 || !ok3 || shared != 0 || int64(unshared) > int64(len(p)) {
		return nil, false
	}
	return p[:unshared], true
}

// uvarint reads a LEB128 number of 32 bits.
func uvarint(p []byte) (uint32, []byte, bool) {
	if len(p) > 0 && p[0] < 0x80 {
		return uint32(p[0]), p[1:], true
	}
	var v uint64
	for i := 0; i < len(p) && i < 5; i++ {
		v |= uint64(p[i]&0x7f) << (7 * i)
		if p[i] < 0x80 {
			return uint32(v), p[i+1:], v <= 1<<32-1
		}
	}
	return 0, p, false
}

func (c *Cursor) fail(format string, args ...any) bool {
	c.err = corrupt("row at %d: "+format, append([]any{c.before}, args...)...)
	return false
}

func (c *Cursor) next2() bool {
	p := c.b.rows[c.pos:]
	shared, p, ok1 := uvarint(p)
	unshared, p, ok2 := uvarint(p)
	valueLen, p, ok3 := uvarint(p)
	if !ok1 || !ok2 || !ok3 {
		return c.fail("cut off in its lengths")
	}
	if int(shared) > len(c.key) {
		return c.fail("shares %d bytes with a key of %d", shared, len(c.key))
	}
	if int64(shared)+int64(unshared) > MaxKey {
		return c.fail("key of %d bytes", int64(shared)+int64(unshared))
	}
	if int64(unshared)+int64(valueLen)+9 > int64(len(p)) {
		return c.fail("%d bytes of key, %d of value, %d left", unshared, valueLen, len(p))
	}
	c.key = append(c.key[:shared], p[:unshared]...)
	p = p[unshared:]
	value := p[:valueLen:valueLen]
	p, ok := c.meta(p[valueLen:])
	if !ok {
		return false
	}
	if c.Row.Flags&Tombstone != 0 {
		if valueLen != 0 {
			return c.fail("tombstone with a value of %d bytes", valueLen)
		}
		value = nil
	}
	c.Row.Key, c.Row.Value = c.key, value
	c.pos = len(c.b.rows) - len(p)
	return true
}

// meta reads the sequence number, the flags and the times.
func (c *Cursor) meta(p []byte) ([]byte, bool) {
	if len(p) < 9 {
		return p, c.fail("cut off in its sequence number")
	}
	r := &c.Row
	r.Seq, r.Flags = binary.BigEndian.Uint64(p), Flags(p[8])
	r.CreateTS, r.ExpireTS = 0, 0
	p = p[9:]
	if r.Flags&^knownFlags != 0 || r.Flags&(Tombstone|Merge) == Tombstone|Merge {
		return p, c.fail("flags %#02x", uint8(r.Flags))
	}
	if r.Flags&HasExpire != 0 {
		if len(p) < 8 {
			return p, c.fail("cut off in its expiry")
		}
		r.ExpireTS = int64(binary.BigEndian.Uint64(p))
		p = p[8:]
	}
	if r.Flags&HasCreate != 0 {
		if len(p) < 8 {
			return p, c.fail("cut off in its creation time")
		}
		r.CreateTS = int64(binary.BigEndian.Uint64(p))
		p = p[8:]
	}
	return p, true
}

func (c *Cursor) next1() bool {
	if c.n >= c.b.offsets() || c.b.offset(c.n) != c.pos {
		return c.fail("not in the table of offsets")
	}
	p := c.b.rows[c.pos:]
	if len(p) < 4 {
		return c.fail("cut off in its lengths")
	}
	prefix, suffix := int(binary.BigEndian.Uint16(p)), int(binary.BigEndian.Uint16(p[2:]))
	p = p[4:]
	if prefix > len(c.first) {
		return c.fail("shares %d bytes with a first key of %d", prefix, len(c.first))
	}
	if prefix+suffix > MaxKey || suffix > len(p) {
		return c.fail("key of %d and %d bytes, %d left", prefix, suffix, len(p))
	}
	c.key = append(append(c.key[:0], c.first[:prefix]...), p[:suffix]...)
	if c.n == 0 {
		c.first = p[:suffix]
	}
	p, ok := c.meta(p[suffix:])
	if !ok {
		return false
	}
	c.Row.Key, c.Row.Value = c.key, nil
	if c.Row.Flags&Tombstone == 0 {
		if len(p) < 4 {
			return c.fail("cut off in the length of its value")
		}
		n := int64(binary.BigEndian.Uint32(p))
		if n > int64(len(p)-4) {
			return c.fail("value of %d bytes, %d left", n, len(p)-4)
		}
		c.Row.Value = p[4 : 4+n : 4+n]
		p = p[4+n:]
	}
	c.pos = len(c.b.rows) - len(p)
	c.n++
	if c.pos == len(c.b.rows) && c.n != c.b.offsets() {
		return c.fail("last of %d rows, table has %d", c.n, c.b.offsets())
	}
	return true
}

// Size returns about how many bytes of memory the block holds.
func (b *Block) Size() int64 { return int64(len(b.rows) + len(b.table) + 128) }
