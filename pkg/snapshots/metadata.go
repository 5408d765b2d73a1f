package snapshots

import (
	"bytes"
	"errors"
	"fmt"
	"time"
)

// maxMetadata is the size in bytes above which metadata.json is refused
// unread. One file takes about 450 bytes in it.
const maxMetadata = 64 << 20

// metadata is what is kept of a metadata.json once its files were compared.
// When broken is set nothing else is.
type metadata struct {
	broken      error
	partition   uint64
	cluster     string
	fingerprint string
	createdAt   time.Time
	id          string
	lsn         uint64
}

// file is one object that a snapshot needs, by its name in the folder.
type file struct {
	name string
	size uint64
}

// parseMetadata reads a metadata.json and the files that it names.
func parseMetadata(b []byte) (metadata, []file, error) {
	if len(bytes.TrimSpace(b)) == 0 {
		return metadata{}, nil, errors.New("it is empty")
	}
	f, err := parseFields(b)
	if err != nil {
		return metadata{}, nil, err
	}
	if v := f.text("version"); f.err == nil && v != "V1" {
		return metadata{}, nil, fmt.Errorf("version %q is unknown, V1 is known", v)
	}
	m := metadata{
		partition:   f.number("partition_id"),
		cluster:     f.text("cluster_name"),
		fingerprint: f.fingerprint(),
		createdAt:   f.time("created_at"),
		id:          f.text("snapshot_id"),
		lsn:         f.lsn("min_applied_lsn"),
	}
	if f.err == nil && !f.has("files") {
		// No list is not an empty list: nothing would be left to verify.
		return metadata{}, nil, errors.New("files is missing")
	}
	list := f.list("files")
	if f.err != nil {
		return metadata{}, nil, f.err
	}
	files := make([]file, 0, len(list))
	for i, raw := range list {
		f, err := parseFields(raw)
		if err != nil {
			return metadata{}, nil, fmt.Errorf("files[%d]: %w", i, err)
		}
		one := file{name: f.text("name"), size: f.number("size")}
		if f.err == nil {
			one.name, f.err = fileName(one.name)
		}
		if f.err != nil {
			return metadata{}, nil, fmt.Errorf("files[%d]: %w", i, f.err)
		}
		files = append(files, one)
	}
	return m, files, nil
}

// disagreement says where metadata.json contradicts what the snapshot is said
// to be by its folder's name and, when p was read, by the pointer. It returns
// "" when they agree.
func (m metadata) disagreement(s Snapshot, p Partition) string {
	if m.id != s.ID {
		return fmt.Sprintf("metadata.json is of snapshot %s, not %s", m.id, s.ID)
	}
	if m.lsn != s.LSN {
		return fmt.Sprintf("metadata.json has min_applied_lsn %d, not %d", m.lsn, s.LSN)
	}
	if p.PointerState != PointerRead {
		return ""
	}
	if m.partition != p.Pointer.Partition {
		return fmt.Sprintf("metadata.json is of partition %d, the pointer of %d", m.partition, p.Pointer.Partition)
	}
	if m.cluster != p.Pointer.Cluster {
		return fmt.Sprintf("metadata.json is of cluster %q, the pointer of %q", m.cluster, p.Pointer.Cluster)
	}
	// Servers before fingerprints wrote none: compare when both have one.
	if m.fingerprint != "" && p.Pointer.Fingerprint != "" && m.fingerprint != p.Pointer.Fingerprint {
		return fmt.Sprintf("metadata.json has cluster_fingerprint %s, the pointer %s", m.fingerprint, p.Pointer.Fingerprint)
	}
	return ""
}
