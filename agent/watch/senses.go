package watch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
)

// eyes is the bucket as one lane sees it: every request is paid for and every
// answer tells the senses whether the bucket can be seen at all. It is what
// slatedb and snapshots ask of a store.
type eyes struct {
	b      *bucket.Bucket
	purse  *purse
	lane   lane
	senses *senses
}

func (e eyes) Get(ctx context.Context, key string) (data []byte, err error) {
	if err = e.purse.pay(ctx, e.lane); err == nil {
		data, err = e.b.Get(ctx, key)
		e.senses.read(err)
	}
	return data, err
}

func (e eyes) GetRange(ctx context.Context, key string, off, n int64) (data []byte, err error) {
	if err = e.purse.pay(ctx, e.lane); err == nil {
		data, err = e.b.GetRange(ctx, key, off, n)
		e.senses.read(err)
	}
	return data, err
}

func (e eyes) Stat(ctx context.Context, key string) (size int64, modified time.Time, err error) {
	if err = e.purse.pay(ctx, e.lane); err == nil {
		size, modified, err = e.b.Stat(ctx, key)
		e.senses.read(err)
	}
	return size, modified, err
}

// page is how many keys one list request brings.
const page = 1000

func (e eyes) Walk(ctx context.Context, prefix, after string, each func(key string, size int64, modified time.Time) error) error {
	if err := e.purse.pay(ctx, e.lane); err != nil {
		return err
	}
	n := 0
	var stopped error
	err := e.b.Walk(ctx, prefix, after, func(key string, size int64, modified time.Time) error {
		if n++; n%page == 0 {
			if stopped = e.purse.pay(ctx, e.lane); stopped != nil {
				return stopped
			}
		}
		stopped = each(key, size, modified)
		return stopped
	})
	if stopped == nil {
		e.senses.read(err)
	}
	return err
}

// list gives one level. What it cost beyond one request is known afterwards
// only, so the next one waits for it.
func (e eyes) list(ctx context.Context, prefix string) (objects []bucket.Object, folders []string, err error) {
	if err = e.purse.pay(ctx, e.lane); err != nil {
		return nil, nil, err
	}
	objects, folders, err = e.b.List(ctx, prefix)
	e.senses.read(err)
	for n := len(objects) + len(folders); n > page && err == nil; n -= page {
		err = e.purse.pay(ctx, e.lane)
	}
	return objects, folders, err
}

func (e eyes) putNew(ctx context.Context, key string, data []byte) error {
	if err := e.purse.pay(ctx, e.lane); err != nil {
		return err
	}
	err := e.b.PutNew(ctx, key, data)
	e.senses.wrote(key, err)
	return err
}

func (e eyes) delete(ctx context.Context, key string) error {
	if err := e.purse.pay(ctx, e.lane); err != nil {
		return err
	}
	return e.b.Delete(ctx, key)
}

// senses judge from the answers whether the bucket can be seen. Methods may be
// called at once.
type senses struct {
	patience time.Duration // how long answers may fail before we call ourselves blind
	changed  func()        // called without the lock when what they say changes

	mu         sync.Mutex
	seen       bool // something was answered once
	failing    time.Time
	failures   int
	blind      string
	cannotKeep string
}

// read takes in how a read ended. "Not there" is an answer.
func (s *senses) read(err error) {
	s.mu.Lock()
	before := s.blind
	switch now := time.Now(); {
	case err == nil, errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrExist), errors.Is(err, fs.ErrInvalid):
		s.seen, s.failures, s.blind = true, 0, ""
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
	case errors.Is(err, bucket.ErrNoBucket):
		s.failures++
		s.blind = err.Error()
	default:
		if s.failures++; s.failures == 1 {
			s.failing = now
		}
		if s.failures >= 3 && now.Sub(s.failing) >= s.patience {
			s.blind = fmt.Sprintf("nothing can be read for %v: %v", now.Sub(s.failing).Round(time.Second), err)
		}
	}
	changed := (before == "") != (s.blind == "")
	s.mu.Unlock()
	if changed {
		s.changed()
	}
}

// wrote takes in how a write of something of our own ended.
func (s *senses) wrote(key string, err error) {
	s.mu.Lock()
	before := s.cannotKeep
	switch {
	case err == nil, errors.Is(err, fs.ErrExist):
		s.cannotKeep = ""
	case errors.Is(err, fs.ErrPermission):
		s.cannotKeep = fmt.Sprintf("region descriptor and incarnations: the agent may not write %s; after its restart it cannot prove which database is which", key)
	}
	changed := before != s.cannotKeep
	s.mu.Unlock()
	if changed {
		s.changed()
	}
}

// state is what the senses say now.
func (s *senses) state() (readable bool, why, cannotKeep string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.blind != "":
		return false, s.blind, s.cannotKeep
	case !s.seen:
		return false, "the bucket has not answered yet", s.cannotKeep
	}
	return true, "", s.cannotKeep
}
