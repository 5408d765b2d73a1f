package sst

import (
	"encoding/binary"
	"math/bits"
	"strings"
)

// Filter tells which keys a table certainly does not hold. The zero Filter
// knows nothing.
type Filter struct {
	// Names of the filters in a composite block, also of those that this
	// package cannot use.
	Names  []string
	blooms []bloom // over whole keys
}

// bloom is the bit array of one bloom filter.
type bloom struct {
	probes uint32
	bits   []byte
}

// ParseFilter reads the plain content of a filter block. Format is what the
// info of the same table says: 0 legacy, 1 composite. The filter keeps plain.
// Other formats give a filter that knows nothing.
func ParseFilter(plain []byte, format int8) (Filter, error) {
	switch format {
	case 0:
		b, err := parseBloom(plain)
		if err != nil {
			return Filter{}, err
		}
		return Filter{blooms: []bloom{b}}, nil
	case 1:
		return parseComposite(plain)
	}
	return Filter{}, nil
}

func parseBloom(p []byte) (bloom, error) {
	if len(p) < 2 {
		return bloom{}, corrupt("bloom filter of %d bytes", len(p))
	}
	return bloom{probes: uint32(binary.BigEndian.Uint16(p)), bits: p[2:]}, nil
}

func parseComposite(p []byte) (Filter, error) {
	if len(p) < 2 {
		return Filter{}, corrupt("composite filter of %d bytes", len(p))
	}
	n := int(binary.BigEndian.Uint16(p))
	p = p[2:]
	var f Filter
	for i := range n {
		if len(p) < 2 {
			return Filter{}, corrupt("filter %d of %d is cut off", i, n)
		}
		nameLen := int(binary.BigEndian.Uint16(p))
		if len(p) < 2+nameLen+8 {
			return Filter{}, corrupt("name of filter %d of %d is cut off", i, n)
		}
		name := string(p[2 : 2+nameLen])
		size := binary.BigEndian.Uint64(p[2+nameLen:])
		p = p[2+nameLen+8:]
		if size > uint64(len(p)) {
			return Filter{}, corrupt("filter %q of %d bytes in %d", name, size, len(p))
		}
		body := p[:size]
		p = p[size:]
		f.Names = append(f.Names, name)
		if !wholeKeys(name) {
			continue
		}
		b, err := parseBloom(body)
		if err != nil {
			return Filter{}, err
		}
		f.blooms = append(f.blooms, b)
	}
	if len(p) != 0 {
		return Filter{}, corrupt("%d bytes after the last filter", len(p))
	}
	return f, nil
}

// wholeKeys tells from its name whether a filter holds the hashes of whole
// keys: the bloom policy's, unless it was told to hash prefixes alone.
func wholeKeys(name string) bool {
	return (name == "_bf" || strings.HasPrefix(name, "_bf:")) && !strings.HasSuffix(name, ":wh=0")
}

// MayContain is false when the table certainly has no row of key.
func (f *Filter) MayContain(key []byte) bool {
	if len(f.blooms) == 0 {
		return true
	}
	h := siphash13(key)
	for _, b := range f.blooms {
		if !b.has(h) {
			return false
		}
	}
	return true
}

func (b bloom) has(h uint64) bool {
	m := uint64(len(b.bits)) * 8
	if m == 0 {
		return false
	}
	a, d := (h&0xffffffff)%m, (h>>32)%m
	for i := range b.probes {
		d = (d + uint64(i)) % m
		if b.bits[a/8]&(1<<(a%8)) == 0 {
			return false
		}
		a = (a + d) % m
	}
	return true
}

// siphash13 is SipHash with one compression and three final rounds and a zero
// key.
func siphash13(p []byte) uint64 {
	v0, v1 := uint64(0x736f6d6570736575), uint64(0x646f72616e646f6d)
	v2, v3 := uint64(0x6c7967656e657261), uint64(0x7465646279746573)
	round := func() {
		v0 += v1
		v1 = bits.RotateLeft64(v1, 13) ^ v0
		v0 = bits.RotateLeft64(v0, 32)
		v2 += v3
		v3 = bits.RotateLeft64(v3, 16) ^ v2
		v0 += v3
		v3 = bits.RotateLeft64(v3, 21) ^ v0
		v2 += v1
		v1 = bits.RotateLeft64(v1, 17) ^ v2
		v2 = bits.RotateLeft64(v2, 32)
	}
	last := uint64(len(p)) << 56
	for len(p) >= 8 {
		m := binary.LittleEndian.Uint64(p)
		v3 ^= m
		round()
		v0 ^= m
		p = p[8:]
	}
	for i, c := range p {
		last |= uint64(c) << (8 * i)
	}
	v3 ^= last
	round()
	v0 ^= last
	v2 ^= 0xff
	round()
	round()
	round()
	return v0 ^ v1 ^ v2 ^ v3
}
