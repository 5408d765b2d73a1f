package report

import (
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// rawFrame is a frame that is encoded already.
type rawFrame struct{ b []byte }

// frameCodec is the protobuf codec, and sends raw frames as they are. It copies
// them: whoever made one may use its memory again.
type frameCodec struct{}

func (frameCodec) Name() string { return protocodec.Name }

func (frameCodec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*rawFrame)
	if !ok {
		return encoding.GetCodecV2(protocodec.Name).Marshal(v)
	}
	return mem.BufferSlice{mem.Copy(f.b, mem.DefaultBufferPool())}, nil
}

func (frameCodec) Unmarshal(data mem.BufferSlice, v any) error {
	return encoding.GetCodecV2(protocodec.Name).Unmarshal(data, v)
}
