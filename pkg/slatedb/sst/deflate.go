package sst

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Compress appends plain to dst, compressed by the codec as SlateDB does it.
func Compress(dst []byte, codec int8, plain []byte) ([]byte, error) {
	switch codec {
	case None:
		return append(dst, plain...), nil
	case Snappy:
		n := snappy.MaxEncodedLen(len(plain))
		dst = slices.Grow(dst, n)
		free := dst[len(dst) : len(dst)+n]
		return dst[:len(dst)+len(snappy.Encode(free, plain))], nil
	case Zlib:
		var b bytes.Buffer
		z := deflaters.Get().(*zlib.Writer)
		defer deflaters.Put(z)
		z.Reset(&b)
		if _, err := z.Write(plain); err != nil {
			return dst, err
		}
		if err := z.Close(); err != nil {
			return dst, err
		}
		return append(dst, b.Bytes()...), nil
	case LZ4:
		dst = binary.LittleEndian.AppendUint32(dst, uint32(len(plain)))
		n := lz4.CompressBlockBound(len(plain))
		dst = slices.Grow(dst, n)
		got, err := lz4.CompressBlock(plain, dst[len(dst):len(dst)+n], nil)
		if err != nil {
			return dst, err
		}
		if got == 0 { // it does not get smaller, and the library gives up
			return literals(dst, plain), nil
		}
		return dst[:len(dst)+got], nil
	case Zstd:
		return zstdEncoder().EncodeAll(plain, dst), nil
	}
	return dst, fmt.Errorf("compression %d: %w", codec, ErrFormat)
}

// literals appends an lz4 block that is one run of literals.
func literals(dst, plain []byte) []byte {
	n := len(plain)
	if n < 15 {
		dst = append(dst, byte(n)<<4)
		return append(dst, plain...)
	}
	dst = append(dst, 15<<4)
	for n -= 15; n >= 255; n -= 255 {
		dst = append(dst, 255)
	}
	return append(append(dst, byte(n)), plain...)
}

var deflaters = sync.Pool{New: func() any { return zlib.NewWriter(nil) }}

var zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedDefault))
	if err != nil {
		panic(err) // the options above are constant
	}
	return e
})
