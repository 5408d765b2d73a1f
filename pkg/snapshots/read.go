package snapshots

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// ReadPartition reads what the pointer of the partition at prefix says, in one
// request. Its restore points are in state Listed: a claim, not a
// verification. A pointer that is missing or cannot be trusted is not an error
// here but a state of the partition; [Partition.Err] gives it as one. The error
// is about the store: the partition was not seen at all.
func ReadPartition(ctx context.Context, s Store, prefix string) (Partition, error) {
	p := Partition{Prefix: strings.Trim(prefix, "/")}
	b, err := s.GetRange(ctx, pointerKey(p.Prefix), 0, maxPointer+1)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		p.PointerState = PointerMissing
		return p, nil
	case err != nil:
		return Partition{}, fmt.Errorf("read %s: %w", pointerKey(p.Prefix), err)
	}
	sum := sha256.Sum256(b)
	p.PointerSHA256 = hex.EncodeToString(sum[:])
	if err := p.take(b); err != nil {
		p.PointerState, p.Reason = PointerUnreadable, err.Error()
		return p, nil
	}
	p.PointerState, p.raw = PointerRead, b
	for _, r := range p.Pointer.Retained {
		p.Points = append(p.Points, Snapshot{
			Path: r.Path, ID: r.ID, LSN: r.LSN, CreatedAt: r.CreatedAt,
			Standing: InPointer, State: Listed,
		})
	}
	return p, nil
}

// take parses the pointer's bytes and checks that it is this partition's.
func (p *Partition) take(b []byte) error {
	if len(b) > maxPointer {
		return fmt.Errorf("it has more than %d bytes", maxPointer)
	}
	pointer, err := parsePointer(b)
	if err != nil {
		return err
	}
	if n, ok := partitionNumber(path.Base(p.Prefix)); ok && n != pointer.Partition {
		return fmt.Errorf("it is of partition %d, in the folder of partition %d", pointer.Partition, n)
	}
	p.Pointer = pointer
	return nil
}
