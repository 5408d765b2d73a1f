// Package snapshotstest writes snapshot repositories in Restate's layout, as its
// servers 1.6 (V1) and 1.7 (V2) do, for tests: byte for byte what these read,
// with made-up tables. Begin with [Partition].
package snapshotstest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Store is where a repository is written. *bucket.Bucket is one.
type Store interface {
	Put(ctx context.Context, key string, data []byte) error
}

// Snapshot is one snapshot to write.
type Snapshot struct {
	LSN   uint64
	Files int // tables; 0: two
	// Bytes of each table; 0: 100.
	Bytes int
	// Without leaves an object out: a table's name such as "000002.sst", or
	// "metadata.json".
	Without string
	// Short writes one byte less of this table than metadata.json says.
	Short string
}

// Partition is a partition's folder.
type Partition struct {
	Prefix      string // of the partition, such as archive/0
	Number      uint64
	Cluster     string // "": quarry-test
	Fingerprint uint64 // 0: 10637059926839506764
	V1          bool   // the pointer is of version V1, and lists its newest alone
	Snapshots   []Snapshot
	// Unlisted are written and not listed.
	Unlisted []Snapshot
	// Since is when the lowest was made; zero: 2026-11-21. Each is a minute later.
	Since time.Time
}

// ID is the id of the snapshot at a position.
func ID(lsn uint64) string { return fmt.Sprintf("snap_1test%018d", lsn) }

// Folder is the name of the folder of the snapshot at a position.
func Folder(lsn uint64) string { return fmt.Sprintf("lsn_%020d-%s", lsn, ID(lsn)) }

type member struct {
	name  string
	value any
}

// object is a JSON object whose members keep their order.
type object []member

func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		v, err := json.Marshal(m.value)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%q:%s", m.name, v)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func (p *Partition) at(lsn uint64) string {
	since := p.Since
	if since.IsZero() {
		since = time.Date(2026, 11, 21, 2, 9, 24, 130e6, time.UTC)
	}
	return since.Add(time.Duration(lsn) * time.Minute).Format(time.RFC3339Nano)
}

func (p *Partition) identity() object {
	cluster, fingerprint := p.Cluster, p.Fingerprint
	if cluster == "" {
		cluster = "quarry-test"
	}
	if fingerprint == 0 {
		fingerprint = 10637059926839506764
	}
	return object{{"partition_id", p.Number}, {"log_id", p.Number}, {"cluster_name", cluster}, {"cluster_fingerprint", fingerprint}, {"node_name", "n1"}}
}

// Pointer is latest.json for these snapshots, the newest of which it points to.
func (p *Partition) Pointer() ([]byte, error) {
	list := slices.Clone(p.Snapshots)
	slices.SortFunc(list, func(a, b Snapshot) int {
		if a.LSN > b.LSN {
			return -1
		}
		return 1
	})
	if len(list) == 0 {
		return nil, fmt.Errorf("a pointer points to a snapshot")
	}
	version := "V2"
	if p.V1 {
		version = "V1"
	}
	newest := list[0].LSN
	o := append(object{{"version", version}}, p.identity()...)
	o = append(o, member{"created_at", p.at(newest)}, member{"snapshot_id", ID(newest)}, member{"min_applied_lsn", newest}, member{"path", Folder(newest)})
	if !p.V1 {
		var retained []object
		for _, s := range list {
			retained = append(retained, object{{"snapshot_id", ID(s.LSN)}, {"min_applied_lsn", s.LSN}, {"created_at", p.at(s.LSN)}, {"path", Folder(s.LSN)}})
		}
		o = append(o, member{"retained_snapshots", retained})
	}
	return json.MarshalIndent(o, "", "  ")
}

// Write writes everything: tables, metadata, and the pointer last, as a server does.
func (p *Partition) Write(ctx context.Context, s Store) error {
	for _, snap := range slices.Concat(p.Snapshots, p.Unlisted) {
		if err := p.WriteSnapshot(ctx, s, snap); err != nil {
			return err
		}
	}
	if len(p.Snapshots) == 0 {
		return nil
	}
	raw, err := p.Pointer()
	if err != nil {
		return err
	}
	return s.Put(ctx, strings.Trim(p.Prefix, "/")+"/latest.json", raw)
}

// WriteSnapshot writes one snapshot's folder and leaves the pointer alone.
func (p *Partition) WriteSnapshot(ctx context.Context, s Store, snap Snapshot) error {
	dir := strings.Trim(p.Prefix, "/") + "/" + Folder(snap.LSN) + "/"
	n, size := snap.Files, snap.Bytes
	if n == 0 {
		n = 2
	}
	if size == 0 {
		size = 100
	}
	var files []object
	for i := range n {
		name := fmt.Sprintf("%06d.sst", i+1)
		files = append(files, object{
			{"column_family_name", ""}, {"name", "/" + name}, {"directory", "/tmp"}, {"size", size}, {"level", 6},
			{"start_key", "00"}, {"end_key", "ff"}, {"smallest_seqno", 0}, {"largest_seqno", snap.LSN}, {"num_entries", 0}, {"num_deletions", 0},
		})
		if name == snap.Without {
			continue
		}
		body := bytes.Repeat([]byte{byte(snap.LSN), byte(i)}, size)[:size]
		if name == snap.Short {
			body = body[1:]
		}
		if err := s.Put(ctx, dir+name, body); err != nil {
			return err
		}
	}
	if snap.Without == "metadata.json" {
		return nil
	}
	// Servers write the same members as in the pointer, in another order.
	is := map[string]any{}
	for _, m := range p.identity() {
		is[m.name] = m.value
	}
	o := object{
		{"version", "V1"}, {"cluster_name", is["cluster_name"]}, {"cluster_fingerprint", is["cluster_fingerprint"]}, {"partition_id", is["partition_id"]},
		{"node_name", is["node_name"]}, {"created_at", p.at(snap.LSN)}, {"snapshot_id", ID(snap.LSN)},
		{"key_range", object{{"start", uint64(0)}, {"end", uint64(1<<64 - 1)}}}, {"log_id", is["log_id"]}, {"min_applied_lsn", snap.LSN},
		{"db_comparator_name", "leveldb.BytewiseComparator"}, {"files", files},
	}
	raw, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		return err
	}
	return s.Put(ctx, dir+"metadata.json", raw)
}
