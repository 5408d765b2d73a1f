package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/quarry-db/quarry/e2e/load"
)

// redisSystem keeps each row as JSON and one sorted set, by size: what Redis
// does best. It has no index for filters and answers none.
type redisSystem struct {
	srv     *server
	c       *redis.Client
	version string
}

func newRedis(ctx context.Context, dir string) (*redisSystem, error) {
	bin, err := program("redis-server")
	if err != nil {
		return nil, &absent{"Redis", "apt-get install redis-server"}
	}
	as, err := nobody("redis", "nobody")
	if err != nil {
		return nil, err
	}
	if as != nil {
		if err := os.Chown(dir, int(as.Uid), int(as.Gid)); err != nil {
			return nil, err
		}
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(bin, "--port", port, "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--appendonly", "yes", "--appendfsync", "everysec")
	cmd.Dir = dir
	s := &redisSystem{}
	if s.srv, err = launch(dir, "redis", cmd, as); err != nil {
		return nil, err
	}
	s.c = redis.NewClient(&redis.Options{Addr: "127.0.0.1:" + port, ReadTimeout: time.Minute, DisableIdentity: true})
	if err := s.srv.until(ctx, 20*time.Second, func() error { return s.c.Ping(ctx).Err() }); err != nil {
		s.close()
		return nil, err
	}
	info, _ := s.c.Info(ctx, "server").Result()
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, "redis_version:"); ok {
			s.version = strings.TrimSpace(v)
		}
	}
	return s, nil
}

func (s *redisSystem) name() string { return "Redis" }
func (s *redisSystem) what() string {
	return s.version + ", SET of JSON and ZADD by size, pipelines of 1,000, AOF everysec; no filter index"
}
func (s *redisSystem) pids() []int { return []int{s.srv.pid()} }
func (s *redisSystem) forget()     {}

func (s *redisSystem) send(ctx context.Context, rows []load.Row) error {
	p := s.c.Pipeline()
	for i := range rows {
		r := &rows[i]
		b, err := json.Marshal(item{r.Region, r.Slate, string(r.Kind), string(r.State), r.Owner, r.Labels, r.Incarnation, r.Lineage, r.Domain,
			r.Position, r.Bytes, r.ManifestID, r.WriterEpoch, r.WALTail})
		if err != nil {
			return err
		}
		p.Set(ctx, "p:"+r.Key(), b, 0)
		p.ZAdd(ctx, "z:bytes", redis.Z{Score: float64(r.Bytes), Member: r.Key()})
	}
	_, err := p.Exec(ctx)
	return err
}

func (s *redisSystem) load(ctx context.Context, f *load.Fleet) error {
	var rows []load.Row
	for row := range f.Rows() {
		if rows = append(rows, row); len(rows) == 1000 {
			if err := s.send(ctx, rows); err != nil {
				return err
			}
			rows = rows[:0]
		}
	}
	return s.send(ctx, rows)
}

func (s *redisSystem) apply(ctx context.Context, steps []step, _ bool) error {
	rows := make([]load.Row, 0, 1000)
	for len(steps) > 0 {
		n := min(1000, len(steps))
		rows = rows[:0]
		for i := range steps[:n] {
			rows = append(rows, steps[i].row)
		}
		if err := s.send(ctx, rows); err != nil {
			return err
		}
		steps = steps[n:]
	}
	return nil
}

func (s *redisSystem) ask(ctx context.Context, q *query) (answer, error) {
	var keys []string
	switch {
	case q.key != "":
		keys = []string{q.key}
	case q.zset != "":
		members, err := s.c.ZRevRange(ctx, q.zset, 0, pageSize-1).Result()
		if err != nil {
			return nil, err
		}
		for _, m := range members {
			keys = append(keys, "p:"+m)
		}
	default:
		return nil, errCannot
	}
	values, err := s.c.MGet(ctx, keys...).Result()
	if err != nil {
		return nil, err
	}
	var items []item
	for i, v := range values {
		text, ok := v.(string)
		if !ok {
			return nil, fmt.Errorf("no row %s", keys[i])
		}
		var it item
		if err := json.Unmarshal([]byte(text), &it); err != nil {
			return nil, err
		}
		items = append(items, it)
	}
	// Of equal sizes Redis gives the last name first.
	slices.SortFunc(items, func(a, b item) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Slate, b.Slate), cmp.Compare(a.Region, b.Region))
	})
	var out answer
	for _, it := range items {
		out = append(out, it.Region+"/"+it.Slate)
	}
	return out, nil
}

func (s *redisSystem) memory(ctx context.Context) (int64, string, error) {
	info, err := s.c.Info(ctx, "memory").Result()
	if err != nil {
		return 0, "", err
	}
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(line, "used_memory:"); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return n, "used_memory", err
		}
	}
	return 0, "", fmt.Errorf("redis does not say its memory")
}

func (s *redisSystem) close() {
	if s.c != nil {
		s.c.Close()
	}
	s.srv.stop(syscall.SIGTERM)
}
