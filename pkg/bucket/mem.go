package bucket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tidwall/btree"
)

// memStore keeps objects in memory. Its listings are steady snapshots.
type memStore struct {
	mu      sync.RWMutex
	objects btree.Map[string, memObject]
}

type memObject struct {
	data     []byte // never changed
	modified time.Time
}

// named are the memory stores of this process by name, so that two opens of
// mem://eu see the same objects.
var named struct {
	sync.Mutex
	stores map[string]*memStore
}

func openMem(name string) *memStore {
	if name == "" {
		return new(memStore)
	}
	named.Lock()
	defer named.Unlock()
	if named.stores == nil {
		named.stores = make(map[string]*memStore)
	}
	if named.stores[name] == nil {
		named.stores[name] = new(memStore)
	}
	return named.stores[name]
}

func (s *memStore) find(key string) (memObject, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	o, ok := s.objects.Get(key)
	if !ok {
		return o, fs.ErrNotExist
	}
	return o, nil
}

func (s *memStore) Get(_ context.Context, key string, _ func(int64)) ([]byte, error) {
	o, err := s.find(key)
	return append([]byte{}, o.data...), err
}

func (s *memStore) GetRange(_ context.Context, key string, off, n int64) ([]byte, error) {
	o, err := s.find(key)
	if err != nil {
		return nil, err
	}
	size := int64(len(o.data))
	off = min(off, size)
	return append([]byte{}, o.data[off:off+min(n, size-off)]...), nil
}

func (s *memStore) Stat(_ context.Context, key string) (Object, error) {
	o, err := s.find(key)
	return Object{Key: key, Size: int64(len(o.data)), Modified: o.modified}, err
}

func (s *memStore) List(ctx context.Context, prefix, after string, level bool, page func(Page) error) error {
	// A copy is cheap (copy on write) and lets the callback write to the store.
	// It takes the lock for writing: copying marks both trees as shared.
	s.mu.Lock()
	snapshot := s.objects.Copy()
	s.mu.Unlock()

	p := newPager(page)
	var err error
	snapshot.Ascend(max(prefix, after), func(key string, o memObject) bool {
		if !strings.HasPrefix(key, prefix) {
			return false
		}
		if key == after && after != "" {
			return true
		}
		if i := strings.IndexByte(key[len(prefix):], '/'); level && i >= 0 {
			err = p.folder(key[:len(prefix)+i+1])
		} else {
			err = p.object(Object{Key: key, Size: int64(len(o.data)), Modified: o.modified})
		}
		return err == nil
	})
	if err != nil {
		return err
	}
	return p.flush()
}

func (s *memStore) Put(_ context.Context, key string, data []byte, onlyNew bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.objects.Get(key); there && onlyNew {
		return fs.ErrExist
	}
	s.objects.Set(key, memObject{data: slices.Clone(data), modified: time.Now()})
	return nil
}

func (s *memStore) GetVersion(_ context.Context, key string) ([]byte, string, error) {
	o, err := s.find(key)
	return append([]byte{}, o.data...), fingerprint(o.data), err
}

func (s *memStore) Replace(_ context.Context, key string, data []byte, version string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o, there := s.objects.Get(key); !there || fingerprint(o.data) != version {
		return ErrChanged
	}
	s.objects.Set(key, memObject{data: slices.Clone(data), modified: time.Now()})
	return nil
}

func (s *memStore) Delete(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, there := s.objects.Delete(key); !there {
		return fs.ErrNotExist
	}
	return nil
}

func (s *memStore) SignedURL(context.Context, string, string, time.Duration) (string, error) {
	return "", fmt.Errorf("a memory store has no URLs to sign: %w", errors.ErrUnsupported)
}

func (s *memStore) Close() error { return nil }

// pager gathers a listing into pages.
type pager struct {
	send func(Page) error
	page Page
	seen string // the last folder
	// atOnce sends each thing by itself.
	atOnce bool
}

const pageSize = 1000

func newPager(send func(Page) error) *pager { return &pager{send: send} }

func (p *pager) object(o Object) error {
	p.page.Objects = append(p.page.Objects, o)
	return p.full()
}

func (p *pager) folder(f string) error {
	if f == p.seen {
		return nil
	}
	p.seen = f
	p.page.Folders = append(p.page.Folders, f)
	return p.full()
}

func (p *pager) full() error {
	if len(p.page.Objects)+len(p.page.Folders) < pageSize && !p.atOnce {
		return nil
	}
	return p.flush()
}

func (p *pager) flush() error {
	if len(p.page.Objects)+len(p.page.Folders) == 0 {
		return nil
	}
	page := p.page
	p.page = Page{}
	return p.send(page)
}
