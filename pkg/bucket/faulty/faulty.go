// Package faulty makes a bucket fail on purpose: the n-th call, by method and
// key, refused, answered too late, carried out without an answer, or torn in the
// middle; and the whole store at once, until told otherwise. Tests use it to see
// that the second try is clean.
//
// Begin with [New].
package faulty

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/quarry-db/quarry/pkg/bucket"
)

// Kind is the way in which a call fails.
type Kind int

const (
	// Refuse fails the call before it has any effect.
	Refuse Kind = iota
	// Lose carries the call out and fails it nevertheless, as when the answer
	// gets lost. A listing breaks off after its first page.
	Lose
	// Tear does half of it. Get and GetRange return the first half of the
	// bytes and no error; Put, PutNew and Replace leave half an object behind and fail;
	// a listing brings half of its first page and then fails.
	Tear
	// Slow only delays.
	Slow
	// Hang gives no answer until the call's context ends, and has no effect.
	Hang
)

// Fault says which calls fail and how. The zero value refuses the next call of
// any kind, once, with bucket.ErrUnavailable.
type Fault struct {
	// Method is the kind of call; "" is any.
	Method bucket.Method
	// Keys is a pattern for the key, or for a listing its prefix, counted from
	// the root of the store; * stands for any text, slashes included. "" is any.
	Keys string
	// Nth is the first matching call that fails, counted from when the fault
	// was added; 0 and 1 are the next one.
	Nth int
	// Times is how many matching calls in a row fail; 0 is one, and a negative
	// number is all from then on.
	Times int
	Kind  Kind
	// Delay is waited before anything else, or until the call's context ends.
	Delay time.Duration
	// Err is the error; nil is bucket.ErrUnavailable. It should wrap one of the
	// sentinels of package bucket or io/fs.
	Err error
}

// Call is one call that reached the store, failed or not.
type Call struct {
	Method bucket.Method
	// Key counts from the root of the store; for a listing it is the prefix.
	Key string
}

// Faults is the handle of a faulty bucket. Its methods may be called at once, and
// while calls run.
type Faults struct {
	mu     sync.Mutex
	faults []*armed
	down   error
	calls  []Call
}

type armed struct {
	Fault
	keys *regexp.Regexp
	seen int
}

// New returns a bucket over inner's store, and the handle that makes it fail. It
// begins without faults. Calls to inner itself never fail.
func New(inner *bucket.Bucket) (*bucket.Bucket, *Faults) {
	f := new(Faults)
	return bucket.Wrap(inner, func(s bucket.Store) bucket.Store { return &store{Store: s, faults: f} }), f
}

// Add arms a fault. Of several that match a call, the one added first and not
// used up strikes; the others count the call all the same.
func (f *Faults) Add(fault Fault) {
	pattern := ".*"
	if fault.Keys != "" {
		pattern = strings.ReplaceAll(regexp.QuoteMeta(fault.Keys), `\*`, ".*")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, &armed{Fault: fault, keys: regexp.MustCompile("(?s)^" + pattern + "$")})
}

// Down fails every call with err, or like a 503 when err is nil, until [Faults.Up].
func (f *Faults) Down(err error) {
	if err == nil {
		err = fmt.Errorf("503 Slow Down: %w", bucket.ErrUnavailable)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = err
}

// Up ends [Faults.Down].
func (f *Faults) Up() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = nil
}

// Clear disarms all faults and ends [Faults.Down].
func (f *Faults) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults, f.down = nil, nil
}

// Calls returns the calls so far, in order.
func (f *Faults) Calls() []Call {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

// strike records a call and returns what is to happen to it.
func (f *Faults) strike(ctx context.Context, method bucket.Method, key string) (Fault, error) {
	fault, hit, down := f.choose(method, key)
	if down != nil {
		return Fault{}, down
	}
	if !hit {
		return Fault{Kind: Slow}, nil
	}
	if fault.Kind == Hang {
		<-ctx.Done()
		return fault, context.Cause(ctx)
	}
	if fault.Delay > 0 {
		timer := time.NewTimer(fault.Delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return fault, context.Cause(ctx)
		}
	}
	if fault.Err == nil {
		fault.Err = fmt.Errorf("made to fail: %w", bucket.ErrUnavailable)
	}
	if fault.Kind == Refuse {
		return fault, fault.Err
	}
	return fault, nil
}

func (f *Faults) choose(method bucket.Method, key string) (_ Fault, hit bool, down error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, Call{method, key})
	if f.down != nil {
		return Fault{}, false, f.down
	}
	var chosen Fault
	for _, a := range f.faults {
		if a.Method != "" && a.Method != method || !a.keys.MatchString(key) {
			continue
		}
		a.seen++
		first, times := max(a.Nth, 1), a.Times
		if times == 0 {
			times = 1
		}
		if !hit && a.seen >= first && (times < 0 || a.seen < first+times) {
			chosen, hit = a.Fault, true
		}
	}
	return chosen, hit, nil
}

// store stands between a bucket and its store.
type store struct {
	bucket.Store
	faults *Faults
}

func (s *store) Get(ctx context.Context, key string, announce func(int64)) ([]byte, error) {
	return s.read(ctx, bucket.Get, key, func() ([]byte, error) { return s.Store.Get(ctx, key, announce) })
}

func (s *store) GetRange(ctx context.Context, key string, off, n int64) ([]byte, error) {
	return s.read(ctx, bucket.GetRange, key, func() ([]byte, error) { return s.Store.GetRange(ctx, key, off, n) })
}

func (s *store) read(ctx context.Context, method bucket.Method, key string, do func() ([]byte, error)) ([]byte, error) {
	fault, err := s.faults.strike(ctx, method, key)
	if err != nil {
		return nil, err
	}
	data, err := do()
	switch {
	case err != nil:
		return nil, err
	case fault.Kind == Lose:
		return nil, fault.Err
	case fault.Kind == Tear:
		return data[:len(data)/2], nil
	}
	return data, nil
}

func (s *store) Stat(ctx context.Context, key string) (bucket.Object, error) {
	fault, err := s.faults.strike(ctx, bucket.Head, key)
	if err != nil {
		return bucket.Object{}, err
	}
	if fault.Kind == Lose || fault.Kind == Tear {
		return bucket.Object{}, fault.Err
	}
	return s.Store.Stat(ctx, key)
}

func (s *store) List(ctx context.Context, prefix, after string, level bool, page func(bucket.Page) error) error {
	fault, err := s.faults.strike(ctx, bucket.List, prefix)
	if err != nil {
		return err
	}
	if fault.Kind != Lose && fault.Kind != Tear {
		return s.Store.List(ctx, prefix, after, level, page)
	}
	errEnough := errors.New("enough")
	err = s.Store.List(ctx, prefix, after, level, func(p bucket.Page) error {
		if fault.Kind == Tear {
			p.Objects = p.Objects[:len(p.Objects)/2]
			p.Folders = p.Folders[:len(p.Folders)/2]
		}
		if err := page(p); err != nil {
			return err
		}
		return errEnough
	})
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	return fault.Err
}

func (s *store) Put(ctx context.Context, key string, data []byte, onlyNew bool) error {
	method := bucket.Put
	if onlyNew {
		method = bucket.PutNew
	}
	fault, err := s.faults.strike(ctx, method, key)
	if err != nil {
		return err
	}
	if fault.Kind == Tear {
		data = data[:len(data)/2]
	}
	err = s.Store.Put(ctx, key, data, onlyNew)
	if err == nil && (fault.Kind == Tear || fault.Kind == Lose) {
		return fault.Err
	}
	return err
}

func (s *store) GetVersion(ctx context.Context, key string) (data []byte, version string, err error) {
	data, err = s.read(ctx, bucket.Get, key, func() (data []byte, err error) {
		data, version, err = s.Store.GetVersion(ctx, key)
		return data, err
	})
	return data, version, err
}

func (s *store) Replace(ctx context.Context, key string, data []byte, version string) error {
	fault, err := s.faults.strike(ctx, bucket.Replace, key)
	if err != nil {
		return err
	}
	if fault.Kind == Tear {
		data = data[:len(data)/2]
	}
	err = s.Store.Replace(ctx, key, data, version)
	if err == nil && (fault.Kind == Tear || fault.Kind == Lose) {
		return fault.Err
	}
	return err
}

func (s *store) Delete(ctx context.Context, key string) error {
	fault, err := s.faults.strike(ctx, bucket.Delete, key)
	if err != nil {
		return err
	}
	err = s.Store.Delete(ctx, key)
	if err == nil && (fault.Kind == Tear || fault.Kind == Lose) {
		return fault.Err
	}
	return err
}

func (s *store) SignedURL(ctx context.Context, method, key string, ttl time.Duration) (string, error) {
	fault, err := s.faults.strike(ctx, bucket.Sign, key)
	if err != nil {
		return "", err
	}
	if fault.Kind == Lose || fault.Kind == Tear {
		return "", fault.Err
	}
	return s.Store.SignedURL(ctx, method, key, ttl)
}
