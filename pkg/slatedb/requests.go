package slatedb

import (
	"context"
	"sync/atomic"
	"time"
)

// Requests counts what was asked of an object store.
type Requests struct {
	Gets  int64 // whole objects and ranges
	Stats int64
	Lists int64 // walks; a long one takes several requests of the store
	Bytes int64 // read
}

// counter counts the requests to one store, or to two: those of the stores
// made with beside are counted together.
type counter struct {
	s Store
	n *counts // nil: own
	o counts
}

type counts struct{ gets, stats, lists, bytes atomic.Int64 }

func (c *counter) counts() *counts {
	if c.n != nil {
		return c.n
	}
	return &c.o
}

func (c *counter) beside(s Store) *counter { return &counter{s: s, n: c.counts()} }

func (c *counter) count() Requests {
	n := c.counts()
	return Requests{Gets: n.gets.Load(), Stats: n.stats.Load(), Lists: n.lists.Load(), Bytes: n.bytes.Load()}
}

func (c *counter) Get(ctx context.Context, key string) ([]byte, error) {
	n := c.counts()
	n.gets.Add(1)
	b, err := c.s.Get(ctx, key)
	n.bytes.Add(int64(len(b)))
	return b, err
}

func (c *counter) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	k := c.counts()
	k.gets.Add(1)
	b, err := c.s.GetRange(ctx, key, off, n)
	k.bytes.Add(int64(len(b)))
	return b, err
}

func (c *counter) Stat(ctx context.Context, key string) (int64, time.Time, error) {
	c.counts().stats.Add(1)
	return c.s.Stat(ctx, key)
}

func (c *counter) Walk(ctx context.Context, prefix, after string, each func(string, int64, time.Time) error) error {
	c.counts().lists.Add(1)
	return c.s.Walk(ctx, prefix, after, each)
}
