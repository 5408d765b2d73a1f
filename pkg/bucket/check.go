package bucket

import (
	"context"
	"errors"
)

// CheckPutNew is not there yet.
func (b *Bucket) CheckPutNew(ctx context.Context, prefix string) error { return errors.ErrUnsupported }
