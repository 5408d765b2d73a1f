package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/quarry-db/quarry/e2e/load"
)

// pgSystem is a PostgreSQL of our own: a temporary data folder, a loopback
// port, one connection that writes and one that asks.
type pgSystem struct {
	srv         *server
	write, read *pgx.Conn
	version     string
	last        map[string][]any
}

// The ideal indexes for what is asked, and what each is for.
var pgIndexes = []string{
	"ALTER TABLE placements ADD PRIMARY KEY (slate, region)",              // by name, prefix, upsert
	"CREATE INDEX ON placements (region, kind, state, bytes DESC, slate)", // 3 filters and sort
	"CREATE INDEX ON placements (bytes DESC, slate, region)",              // the order of all, keyset
	"CREATE INDEX ON placements (region, position DESC, slate)",           // top of a region
	"CREATE INDEX ON placements (owner)",                                  // who has what
	"CREATE INDEX ON placements (kind, state)",                            // counts
}

func newPostgres(ctx context.Context, dir string) (*pgSystem, error) {
	const debian = "/usr/lib/postgresql/*/bin"
	initdb, err := program("initdb", debian)
	if err != nil {
		return nil, &absent{"PostgreSQL", "apt-get install postgresql-15"}
	}
	postgres, err := program("postgres", debian)
	if err != nil {
		return nil, &absent{"PostgreSQL", "apt-get install postgresql-15"}
	}
	as, err := nobody("postgres", "nobody")
	if err != nil {
		return nil, err
	}
	if as != nil {
		if err := os.Chown(dir, int(as.Uid), int(as.Gid)); err != nil {
			return nil, err
		}
	}
	data := filepath.Join(dir, "data")
	cmd := exec.CommandContext(ctx, initdb, "-D", data, "-U", "bench", "-A", "trust", "-E", "UTF8", "--locale=C")
	cmd.Dir, cmd.SysProcAttr = dir, &syscall.SysProcAttr{Credential: as}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %.500s", err, out)
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	args := []string{"-D", data, "-p", port, "-k", dir, "-c", "listen_addresses=127.0.0.1"}
	for _, s := range []string{"shared_buffers=1GB", "max_wal_size=4GB", "work_mem=64MB", "maintenance_work_mem=256MB", "wal_compression=on"} {
		args = append(args, "-c", s)
	}
	cmd = exec.Command(postgres, args...)
	cmd.Dir = dir
	s := &pgSystem{last: map[string][]any{}}
	if s.srv, err = launch(dir, "postgres", cmd, as); err != nil {
		return nil, err
	}
	url := "postgres://bench@127.0.0.1:" + port + "/postgres?sslmode=disable"
	err = s.srv.until(ctx, 30*time.Second, func() (err error) { s.write, err = pgx.Connect(ctx, url); return err })
	if err == nil {
		s.read, err = pgx.Connect(ctx, url)
	}
	if err == nil {
		err = s.write.QueryRow(ctx, "SHOW server_version").Scan(&s.version)
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("postgres: %w", err)
	}
	return s, nil
}

func (s *pgSystem) name() string { return "PostgreSQL" }
func (s *pgSystem) what() string {
	return s.version + ", upserts of 1,000 by unnest, 5 secondary indexes, prepared, no TLS"
}
func (s *pgSystem) pids() []int { return []int{s.srv.pid()} }
func (s *pgSystem) forget()     { clear(s.last) }

func pgRow(r *load.Row) []any {
	var labels []byte
	if r.Labels != nil {
		labels, _ = json.Marshal(r.Labels) // a map of texts always marshals
	}
	return []any{r.Region, r.Slate, string(r.Kind), string(r.State), r.Owner, labels, r.Incarnation, r.Lineage, r.Domain,
		int64(r.Position), int64(r.Bytes), signed(r.ManifestID), signed(r.WriterEpoch), signed(r.WALTail)}
}

func signed(v *uint64) *int64 {
	if v == nil {
		return nil
	}
	return new(int64(*v))
}

func (s *pgSystem) load(ctx context.Context, f *load.Fleet) error {
	_, err := s.write.Exec(ctx, `CREATE TABLE placements (region text NOT NULL, slate text NOT NULL, kind text, state text, owner text, labels jsonb,
		incarnation text, lineage text, position_domain text, position bigint, bytes bigint, manifest_id bigint, writer_epoch bigint, wal_tail_id bigint) WITH (fillfactor=90)`)
	if err != nil {
		return err
	}
	next, stop := pull(f)
	defer stop()
	_, err = s.write.CopyFrom(ctx, pgx.Identifier{"placements"},
		[]string{"region", "slate", "kind", "state", "owner", "labels", "incarnation", "lineage", "position_domain", "position", "bytes", "manifest_id", "writer_epoch", "wal_tail_id"},
		pgx.CopyFromFunc(func() ([]any, error) {
			row, ok := next()
			if !ok {
				return nil, nil
			}
			return pgRow(&row), nil
		}))
	if err != nil {
		return fmt.Errorf("copy: %w", err)
	}
	for _, ddl := range append(pgIndexes, "VACUUM (ANALYZE) placements") {
		if _, err := s.write.Exec(ctx, ddl); err != nil {
			return fmt.Errorf("%s: %w", ddl, err)
		}
	}
	return nil
}

const pgUpsert = `INSERT INTO placements SELECT * FROM unnest($1::text[],$2::text[],$3::text[],$4::text[],$5::text[],$6::jsonb[],$7::text[],$8::text[],$9::text[],
	$10::bigint[],$11::bigint[],$12::bigint[],$13::bigint[],$14::bigint[])
	ON CONFLICT (slate, region) DO UPDATE SET kind=excluded.kind, state=excluded.state, owner=excluded.owner, labels=excluded.labels,
	incarnation=excluded.incarnation, lineage=excluded.lineage, position_domain=excluded.position_domain, position=excluded.position,
	bytes=excluded.bytes, manifest_id=excluded.manifest_id, writer_epoch=excluded.writer_epoch, wal_tail_id=excluded.wal_tail_id`

// apply upserts batches of a thousand. One statement may not touch a row
// twice: of changes of one row within a batch the newest goes.
func (s *pgSystem) apply(ctx context.Context, steps []step, durable bool) error {
	mode := "off"
	if durable {
		mode = "on"
	}
	if _, err := s.write.Exec(ctx, "SET synchronous_commit = "+mode); err != nil {
		return err
	}
	const batch = 1000
	for len(steps) > 0 {
		n := min(batch, len(steps))
		newest := make(map[string]int, n)
		for i := range steps[:n] {
			newest[steps[i].row.Key()] = i
		}
		c := struct {
			text                 [8][]string
			labels               [][]byte
			position, bytes      []int64
			manifest, epoch, wal []*int64
		}{}
		for i := range steps[:n] {
			r := &steps[i].row
			if newest[r.Key()] != i {
				continue
			}
			for k, v := range []string{r.Region, r.Slate, string(r.Kind), string(r.State), r.Owner, r.Incarnation, r.Lineage, r.Domain} {
				c.text[k] = append(c.text[k], v)
			}
			var labels []byte
			if r.Labels != nil {
				labels, _ = json.Marshal(r.Labels)
			}
			c.labels = append(c.labels, labels)
			c.position, c.bytes = append(c.position, int64(r.Position)), append(c.bytes, int64(r.Bytes))
			c.manifest, c.epoch, c.wal = append(c.manifest, signed(r.ManifestID)), append(c.epoch, signed(r.WriterEpoch)), append(c.wal, signed(r.WALTail))
		}
		t := &c.text
		if _, err := s.write.Exec(ctx, pgUpsert, t[0], t[1], t[2], t[3], t[4], c.labels, t[5], t[6], t[7], c.position, c.bytes, c.manifest, c.epoch, c.wal); err != nil {
			return fmt.Errorf("upsert: %w", err)
		}
		steps = steps[n:]
	}
	return nil
}

func (s *pgSystem) ask(ctx context.Context, q *query) (answer, error) {
	sql, args := q.sql, q.args
	if q.second {
		if s.last[q.name] == nil {
			if _, err := s.rows(ctx, q, sql, args); err != nil {
				return nil, err
			}
		}
		sql, args = q.sql2, append(append([]any{}, q.args...), s.last[q.name]...)
	}
	return s.rows(ctx, q, sql, args)
}

func (s *pgSystem) rows(ctx context.Context, q *query, sql string, args []any) (out answer, _ error) {
	rows, err := s.read.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var it item
	var owner *string
	var group string
	var count, bytes uint64
	for rows.Next() {
		if q.by != "" {
			if err := rows.Scan(&group, &count, &bytes); err != nil {
				return nil, err
			}
			out = append(out, groupLine(group, count, bytes))
			continue
		}
		it.Labels = nil
		if err := rows.Scan(&it.Region, &it.Slate, &it.Kind, &it.State, &owner, &it.Labels, &it.Incarnation, &it.Lineage, &it.PositionDomain,
			&it.Position, &it.Bytes, &it.ManifestID, &it.WriterEpoch, &it.WALTail); err != nil {
			return nil, err
		}
		out = append(out, it.Region+"/"+it.Slate)
	}
	if q.second && s.last[q.name] == nil {
		s.last[q.name] = []any{int64(it.Bytes), it.Slate, it.Region}
	}
	return out, rows.Err()
}

func (s *pgSystem) memory(ctx context.Context) (bytes int64, what string, err error) {
	err = s.read.QueryRow(ctx, "SELECT pg_total_relation_size('placements')").Scan(&bytes)
	return bytes, "table and indexes on disk", err
}

func (s *pgSystem) close() {
	for _, c := range []*pgx.Conn{s.write, s.read} {
		if c != nil {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			c.Close(ctx)
			cancel()
		}
	}
	s.srv.stop(os.Interrupt)
}
