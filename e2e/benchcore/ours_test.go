//go:build e2e

package benchcore

import (
	"context"
	"crypto/md5" //nolint:gosec // spreads keys, protects nothing
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

// timing is one thing that was timed, by either side.
type timing struct {
	Name    string  `json:"name"`
	N       int     `json:"n"`       // operations
	Bytes   int64   `json:"bytes"`   // keys and values
	Seconds float64 `json:"seconds"` // on the clock
	CPU     float64 `json:"cpu"`     // of this process, in s
	RSS     int64   `json:"rss"`     // the most this process ever had, in KiB
}

// ours does one piece of work with our own library; core.py does the same.
type ours struct {
	ctx  context.Context
	b    *bucket.Bucket
	work string
	root string
	n    int
	rng  *rand.Rand
}

// runOurs is the whole process when this binary is started as our side.
func runOurs(bucketURL string, args []string) error {
	ctx := context.Background()
	b, err := bucket.Open(ctx, bucketURL)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	seed, err := strconv.ParseUint(args[3], 10, 64)
	if err != nil {
		return err
	}
	o := ours{ctx: ctx, b: b, work: args[0], root: args[1], n: n, rng: rand.New(rand.NewPCG(seed, seed))}
	switch o.work {
	case "put":
		return o.puts(1)
	case "put, 64 at once":
		return o.puts(64)
	case "batches of 1000":
		return o.batches()
	case "scan":
		return o.scan()
	case "gets":
		return o.gets()
	case "open":
		return timed("open", 1, 0, func() error {
			w, err := slatedb.Open(ctx, b, o.root, slatedb.Options{})
			if err != nil {
				return err
			}
			_, err = w.Snapshot().Get(ctx, key(n-1))
			return err
		})
	case "nothing":
		return timed("nothing", 1, 0, func() error { return nil })
	}
	return fmt.Errorf("unknown work %q", o.work)
}

func key(i int) []byte {
	sum := md5.Sum(strconv.AppendInt(nil, int64(i), 10)) //nolint:gosec // as above
	return sum[:]
}

func (o *ours) value() []byte {
	v := make([]byte, 100)
	for i := range v {
		v[i] = byte(o.rng.Uint32())
	}
	return v
}

func cpu() (time.Duration, error) {
	var u syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), err
}

// rss is the most that was resident, in KiB. Getrusage begins with what the
// parent had.
func rss() (int64, error) {
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(raw), "VmHWM:")
	var kib int64
	_, err = fmt.Sscan(after, &kib)
	return kib, err
}

func timed(name string, n int, bytes int64, do func() error) error {
	before, err := cpu()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	seconds := time.Since(start).Seconds()
	after, err := cpu()
	if err != nil {
		return err
	}
	most, err := rss()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(timing{name, n, bytes, seconds, (after - before).Seconds(), most})
}

func (o *ours) puts(clients int) error {
	w, err := slatedb.Open(o.ctx, o.b, o.root, slatedb.Options{})
	if err != nil {
		return err
	}
	values := make([][]byte, o.n)
	for i := range values {
		values[i] = o.value()
	}
	if _, err := w.Put(o.ctx, []byte("first"), nil); err != nil {
		return err
	}
	err = timed(o.work, o.n, int64(o.n)*116, func() error {
		g, ctx := errgroup.WithContext(o.ctx)
		for c := range clients {
			g.Go(func() error {
				for i := c; i < o.n; i += clients {
					if _, err := w.Put(ctx, key(i), values[i]); err != nil {
						return err
					}
				}
				return nil
			})
		}
		return g.Wait()
	})
	return errors.Join(err, w.Close(o.ctx))
}

func (o *ours) batches() error {
	const size = 1000
	w, err := slatedb.Open(o.ctx, o.b, o.root, slatedb.Options{})
	if err != nil {
		return err
	}
	var made []*slatedb.Batch
	for lo := 0; lo < o.n; lo += size {
		b := new(slatedb.Batch)
		for i := lo; i < min(lo+size, o.n); i++ {
			b.Put(key(i), o.value())
		}
		made = append(made, b)
	}
	if _, err := w.Put(o.ctx, []byte("first"), nil); err != nil {
		return err
	}
	err = timed(o.work, o.n, int64(o.n)*116, func() error {
		for _, b := range made {
			if _, err := w.Write(o.ctx, b); err != nil {
				return err
			}
		}
		return nil
	})
	return errors.Join(err, w.Close(o.ctx))
}

func (o *ours) scan() error {
	r, err := slatedb.OpenReader(o.ctx, o.b, o.root, slatedb.ReaderOptions{})
	if err != nil {
		return err
	}
	// The size is the other side's to say; here the rows are only counted.
	return timed("scan", o.n, int64(o.n)*116, func() error {
		rows, bytes := 0, 0
		for e, err := range r.Scan(o.ctx, nil, nil) {
			if err != nil {
				return err
			}
			rows++
			bytes += len(e.Key) + len(e.Value)
		}
		if rows != o.n || bytes != o.n*116 {
			return fmt.Errorf("%d rows of %d bytes, there are %d of %d", rows, bytes, o.n, o.n*116)
		}
		return nil
	})
}

func (o *ours) gets() error {
	r, err := slatedb.OpenReader(o.ctx, o.b, o.root, slatedb.ReaderOptions{})
	if err != nil {
		return err
	}
	keys := make([][]byte, 3000)
	for i := range keys {
		keys[i] = key(o.rng.IntN(o.n))
	}
	for _, name := range []string{"get cold", "get warm"} {
		err := timed(name, len(keys), 0, func() error {
			for _, k := range keys {
				if _, err := r.Get(o.ctx, k); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return timed("get warm, 16 at once", len(keys), 0, func() error {
		g, ctx := errgroup.WithContext(o.ctx)
		g.SetLimit(16)
		for _, k := range keys {
			g.Go(func() error {
				_, err := r.Get(ctx, k)
				return err
			})
		}
		return g.Wait()
	})
}
