package slatedb

import (
	"container/list"
	"sync"

	"github.com/quarry-db/quarry/pkg/slatedb/sst"
)

const defaultBlockCache = 32 << 20

// blockID names a block of a table of one reader.
type blockID struct {
	t *table
	i int
}

// blockCache keeps the blocks used last. Calls may run at once. The nil cache
// keeps nothing.
type blockCache struct {
	limit int64

	mu    sync.Mutex
	size  int64
	items map[blockID]*list.Element // of *cached
	used  *list.List                // last used first
}

type cached struct {
	id    blockID
	block sst.Block
}

// newBlockCache keeps up to limit bytes: 0 the default, less than 0 none.
func newBlockCache(limit int64) *blockCache {
	if limit < 0 {
		return nil
	}
	if limit == 0 {
		limit = defaultBlockCache
	}
	return &blockCache{limit: limit, items: map[blockID]*list.Element{}, used: list.New()}
}

func (c *blockCache) get(id blockID) (sst.Block, bool) {
	if c == nil {
		return sst.Block{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.items[id]
	if !ok {
		return sst.Block{}, false
	}
	c.used.MoveToFront(e)
	return e.Value.(*cached).block, true
}

func (c *blockCache) put(id blockID, b sst.Block) {
	if c == nil || b.Size() > c.limit {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.items[id]; ok {
		return
	}
	c.items[id] = c.used.PushFront(&cached{id, b})
	for c.size += b.Size(); c.size > c.limit; {
		e := c.used.Back()
		old := c.used.Remove(e).(*cached)
		delete(c.items, old.id)
		c.size -= old.block.Size()
	}
}
