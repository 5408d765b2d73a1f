package sst

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Compressions, as the info of a table names them. The codec belongs to the
// table: one database may use several.
const (
	None   = 0
	Snappy = 1 // raw block
	Zlib   = 2 // RFC 1950
	LZ4    = 3 // block after a u32 LE with the plain length
	Zstd   = 4 // frame
)

// checked returns stored without its checksum, which it must match.
func checked(stored []byte) ([]byte, error) {
	n := len(stored) - 4
	if n < 0 {
		return nil, corrupt("%d bytes are too few for a checksum", len(stored))
	}
	want := binary.BigEndian.Uint32(stored[n:])
	if got := crc32.ChecksumIEEE(stored[:n]); got != want {
		return nil, fmt.Errorf("stored %08x, computed %08x: %w", want, got, ErrChecksum)
	}
	return stored[:n:n], nil
}

// open checks the checksum of a stored part and returns its plain content,
// which aliases stored when nothing is compressed and otherwise is appended to
// arena. It gives the grown arena back for the next call.
func open(stored []byte, codec int8, arena []byte) (plain, grown []byte, err error) {
	body, err := checked(stored)
	if err != nil {
		return nil, arena, err
	}
	if codec == None {
		return body, arena, nil
	}
	start := len(arena)
	grown, err = Decompress(arena, codec, body)
	if err != nil {
		return nil, arena, fmt.Errorf("decompress (a block transformer, encryption for example, looks like this too): %w", err)
	}
	return grown[start:len(grown):len(grown)], grown, nil
}

// Decompress appends the plain content of src to dst. A content larger than
// [MaxPart], or larger than the codec can make of so few bytes, is refused
// before memory is taken for it.
func Decompress(dst []byte, codec int8, src []byte) ([]byte, error) {
	switch codec {
	case None:
		return append(dst, src...), nil
	case Snappy:
		n, err := snappy.DecodedLen(src)
		if err != nil {
			return dst, corrupt("snappy: %v", err)
		}
		// The densest element, a copy, makes 64 bytes of 3.
		if err := claimed("snappy", n, len(src), 22); err != nil {
			return dst, err
		}
		return fill(dst, n, func(to []byte) error {
			_, err := snappy.Decode(to, src)
			return err
		})
	case LZ4:
		if len(src) < 4 {
			return dst, corrupt("lz4: %d bytes are too few for a length", len(src))
		}
		n := int(binary.LittleEndian.Uint32(src))
		if err := claimed("lz4", n, len(src)-4, 255); err != nil {
			return dst, err
		}
		if n == 0 {
			// Not for the decoder: into no memory at all it writes
			// nevertheless. An empty block is one empty token.
			if body := src[4:]; len(body) > 1 || len(body) == 1 && body[0] != 0 {
				return dst, corrupt("lz4: %d bytes of data for no content", len(body))
			}
			return dst, nil
		}
		return fill(dst, n, func(to []byte) error {
			got, err := lz4.UncompressBlock(src[4:], to)
			if err == nil && got != n {
				err = fmt.Errorf("%d bytes of %d", got, n)
			}
			return err
		})
	case Zlib:
		return inflate(dst, src)
	case Zstd:
		var h zstd.Header
		if err := h.Decode(src); err != nil {
			return dst, corrupt("zstd: %v", err)
		}
		if h.HasFCS {
			if h.FrameContentSize > MaxPart {
				return dst, fmt.Errorf("zstd: %d bytes: %w", h.FrameContentSize, ErrTooLarge)
			}
			// A block of one repeated byte: 128 KiB of 4 bytes.
			if err := claimed("zstd", int(h.FrameContentSize), len(src), 32<<10); err != nil {
				return dst, err
			}
			dst = slices.Grow(dst, int(h.FrameContentSize))
		}
		// Handed only the free end of dst, the decoder counts nothing else
		// against its limit.
		plain, err := zstdDecoder().DecodeAll(src, dst[len(dst):])
		if err != nil {
			return dst, corrupt("zstd: %v", err)
		}
		if len(plain) > MaxPart {
			return dst, fmt.Errorf("zstd: %w", ErrTooLarge)
		}
		if free := dst[len(dst):cap(dst)]; len(plain) > 0 && len(plain) <= len(free) && &plain[0] == &free[0] {
			return dst[:len(dst)+len(plain)], nil
		}
		return append(dst, plain...), nil
	}
	return dst, fmt.Errorf("compression %d: %w", codec, ErrFormat)
}

// claimed checks a length that compressed data says of itself.
func claimed(codec string, n, stored, ratio int) error {
	if n > MaxPart {
		return fmt.Errorf("%s: %d bytes: %w", codec, n, ErrTooLarge)
	}
	if n < 0 || n > (stored+16)*ratio {
		return corrupt("%s: %d bytes claimed of %d stored", codec, n, stored)
	}
	return nil
}

func fill(dst []byte, n int, decode func(to []byte) error) ([]byte, error) {
	start := len(dst)
	dst = slices.Grow(dst, n)[:start+n]
	if err := decode(dst[start:]); err != nil {
		return dst[:start], corrupt("%v", err)
	}
	return dst, nil
}

var inflaters sync.Pool

func inflate(dst, src []byte) ([]byte, error) {
	var (
		z   io.ReadCloser
		err error
	)
	if old, ok := inflaters.Get().(io.ReadCloser); ok {
		z, err = old, old.(zlib.Resetter).Reset(bytes.NewReader(src), nil)
	} else {
		z, err = zlib.NewReader(bytes.NewReader(src))
	}
	if err != nil {
		return dst, corrupt("zlib: %v", err)
	}
	defer inflaters.Put(z)
	start := len(dst)
	dst = slices.Grow(dst, 4096)
	for {
		n, err := z.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		if len(dst)-start > MaxPart {
			return dst[:start], fmt.Errorf("zlib: %w", ErrTooLarge)
		}
		switch {
		case err == io.EOF:
			return dst, nil
		case err != nil:
			return dst[:start], corrupt("zlib: %v", err)
		case len(dst) == cap(dst):
			dst = slices.Grow(dst, 1)
		}
	}
}

var zstdDecoder = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(MaxPart), zstd.WithDecoderConcurrency(0))
	if err != nil {
		panic(err) // the options above are constant
	}
	return d
})
