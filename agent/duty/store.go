package duty

import (
	"context"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

// NewStore is a bucket each of whose requests waits until pay lets it; nil: none
// waits.
func NewStore(b *bucket.Bucket, pay func(context.Context) error) Store { return Store{b, pay} }

// Store is the bucket as whoever is on duty uses it: every request is paid for
// first.
type Store struct {
	b   *bucket.Bucket
	pay func(context.Context) error // nil: nothing need be paid
}

var (
	_ slatedb.AdminStore = Store{}
	_ slatedb.Replacer   = Store{}
)

func (s Store) paid(ctx context.Context) error {
	if s.pay == nil {
		return nil
	}
	return s.pay(ctx)
}

func (s Store) Get(ctx context.Context, key string) ([]byte, error) {
	if err := s.paid(ctx); err != nil {
		return nil, err
	}
	return s.b.Get(ctx, key)
}

func (s Store) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if err := s.paid(ctx); err != nil {
		return nil, err
	}
	return s.b.GetRange(ctx, key, off, n)
}

func (s Store) Stat(ctx context.Context, key string) (int64, time.Time, error) {
	if err := s.paid(ctx); err != nil {
		return 0, time.Time{}, err
	}
	return s.b.Stat(ctx, key)
}

// page is how many keys one list request brings.
const page = 1000

func (s Store) Walk(ctx context.Context, prefix, after string, each func(key string, size int64, modified time.Time) error) error {
	if err := s.paid(ctx); err != nil {
		return err
	}
	n := 0
	return s.b.Walk(ctx, prefix, after, func(key string, size int64, modified time.Time) error {
		if n++; n%page == 0 {
			if err := s.paid(ctx); err != nil {
				return err
			}
		}
		return each(key, size, modified)
	})
}

func (s Store) PutNew(ctx context.Context, key string, data []byte) error {
	if err := s.paid(ctx); err != nil {
		return err
	}
	return s.b.PutNew(ctx, key, data)
}

func (s Store) Put(ctx context.Context, key string, data []byte) error {
	if err := s.paid(ctx); err != nil {
		return err
	}
	return s.b.Put(ctx, key, data)
}

func (s Store) Delete(ctx context.Context, key string) error {
	if err := s.paid(ctx); err != nil {
		return err
	}
	return s.b.Delete(ctx, key)
}

func (s Store) GetVersion(ctx context.Context, key string) ([]byte, string, error) {
	if err := s.paid(ctx); err != nil {
		return nil, "", err
	}
	return s.b.GetVersion(ctx, key)
}

func (s Store) Replace(ctx context.Context, key string, data []byte, version string) error {
	if err := s.paid(ctx); err != nil {
		return err
	}
	return s.b.Replace(ctx, key, data, version)
}
