package slatedb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
	"github.com/quarry-db/quarry/pkg/slatedb/sst"
)

// table looks at one table: its size, its footer, what each manifest says of
// it, and with checksums all of it.
func (v *verification) table(n *need) {
	size, ok := v.present(n)
	if !ok {
		return
	}
	v.mu.Lock()
	v.rep.TableBytes += size
	v.mu.Unlock()

	first := n.views[0].table.Info
	foot, err := v.footer(n.key, size, first)
	if err != nil {
		if uint64(size) < first.Size()+sst.TrailerLen && errors.Is(err, sst.ErrCorrupt) {
			v.found(truncated(n, size))
			return
		}
		v.tableFault(n.key, err)
		return
	}
	for _, view := range n.views {
		v.compare(n.key, view, foot)
	}
	if v.opts.Checksums {
		v.checksums(n.key, foot)
	}
}

// present asks for the size of a table and tells when it is not there.
func (v *verification) present(n *need) (size int64, ok bool) {
	size, _, err := v.s.Stat(v.ctx, n.key)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		v.found(Finding{Code: ObjectMissing, Object: n.key, What: fmt.Sprintf("needed by manifest %s", n.ids()), Who: theirReads, Cure: fromCopy})
	case err != nil:
		v.found(unreadable(n.key, err))
	}
	return size, err == nil
}

func truncated(n *need, size int64) Finding {
	return Finding{
		Code: ObjectTruncated, Object: n.key, What: fmt.Sprintf("%d bytes, manifest %s needs more than %d", size, n.ids(), n.views[0].table.Info.Size()),
		Who: theirReads, Cure: fromCopy,
	}
}

func unknownFormat(key string, err error) Finding {
	return Finding{Code: UnknownFormat, Object: key, What: err.Error(), Who: "releases older than the one that wrote it", Cure: "a newer SlateDB may have written it: read it with a newer quarry"}
}

// ids lists the manifests that need the table.
func (n *need) ids() string {
	var ids []string
	for _, view := range n.views {
		id := fmt.Sprint(view.manifestID)
		if len(ids) == 0 || ids[len(ids)-1] != id {
			ids = append(ids, id)
		}
	}
	return strings.Join(ids, ", ")
}

// footer reads the end of the object, in one request when the manifest's keys
// are those of the table.
func (v *verification) footer(key string, size int64, hint manifest.Info) (sst.Footer, error) {
	n := min(size, int64(len(hint.FirstKey)+len(hint.LastKey))+512)
	for {
		tail, err := v.s.GetRange(v.ctx, key, size-n, n)
		if err != nil {
			return sst.Footer{}, err
		}
		if int64(len(tail)) != n {
			return sst.Footer{}, fmt.Errorf("%d bytes of %d at %d: %w", len(tail), n, size-n, errShort)
		}
		foot, need, err := sst.ParseFooter(tail, size)
		if err != nil || need == 0 {
			return foot, err
		}
		n = need
	}
}

var errShort = errors.New("the store gave fewer bytes than the object has")

// compare tells where a manifest and the table itself disagree. The footer has
// a checksum, the manifest none.
func (v *verification) compare(key string, view neededView, foot sst.Footer) {
	m, f := view.table.Info, foot.Info
	var fields []string
	differ := func(name string, a, b any) {
		if a != b {
			fields = append(fields, fmt.Sprintf("%s %v (table: %v)", name, a, b))
		}
	}
	differ("format_version", view.table.Format, foot.Format)
	if !bytes.Equal(m.FirstKey, f.FirstKey) {
		differ("first_entry", fmt.Sprintf("%x", m.FirstKey), fmt.Sprintf("%x", f.FirstKey))
	}
	if !bytes.Equal(m.LastKey, f.LastKey) {
		differ("last_entry", fmt.Sprintf("%x", m.LastKey), fmt.Sprintf("%x", f.LastKey))
	}
	differ("index_offset", m.IndexOffset, f.IndexOffset)
	differ("index_len", m.IndexLen, f.IndexLen)
	differ("filter_offset", m.FilterOffset, f.FilterOffset)
	differ("filter_len", m.FilterLen, f.FilterLen)
	differ("compression", m.Compression, f.Compression)
	differ("sst_type", m.Type, f.Type)
	differ("stats_offset", m.StatsOffset, f.StatsOffset)
	differ("stats_len", m.StatsLen, f.StatsLen)
	if len(fields) > 0 {
		v.found(Finding{
			Code: InfoMismatch, Object: key, What: fmt.Sprintf("manifest %d says %s", view.manifestID, strings.Join(fields, ", ")), Who: theirReads,
			Cure: "the table's own footer has a checksum and the manifest has none: compare with the manifests before, write a manifest that is right",
		})
	}
	// Without a filter its format says nothing and nothing is lost by it,
	// but the mark is of the same hand, so it is told.
	switch {
	case m.FilterFormat == f.FilterFormat:
	case view.manifestID == v.rep.ManifestID:
		v.found(filterMismatch(key, view.manifestID, m.FilterFormat, f.FilterFormat))
	default:
		v.found(filterMismatchPinned(key, view.manifestID, m.FilterFormat, f.FilterFormat))
	}
}

// checksums reads the whole table.
func (v *verification) checksums(key string, foot sst.Footer) {
	t := sst.NewTable(func(ctx context.Context, off, n int64) ([]byte, error) {
		return v.s.GetRange(ctx, key, off, n)
	}, foot.Info)
	v.padded(key, t)
	rows, err := t.Check(v.ctx, func(f *sst.Fault) { v.tableFault(key, f) })
	if err != nil {
		v.tableFault(key, err)
	}
	v.mu.Lock()
	v.rep.Rows += rows
	v.mu.Unlock()
}

// padded tells who in use cannot read padded blocks: all before 0.18, which take
// the padding for the checksum.
func (v *verification) padded(key string, t *sst.Table) {
	x, err := t.Index(v.ctx)
	if err != nil || !slices.ContainsFunc(x.Blocks, func(b sst.BlockMeta) bool { return b.EncodedLen > 0 }) {
		return // Check tells of an index that is damaged
	}
	for _, release := range v.opts.InUse {
		if major, minor, ok := parseRelease(release); ok && major == 0 && minor < 18 {
			v.found(Finding{
				Code: MixedVersions, Object: key, What: fmt.Sprintf("release %s is in use, and the blocks of this table are padded, as 0.18 can write them, which it does not know (checksum mismatch)", release),
				Who: "its reads of these rows", Cure: newerOnly,
			})
		}
	}
}

func (v *verification) tableFault(key string, err error) {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		v.found(Finding{Code: ObjectMissing, Object: key, What: "went away while it was looked at", Who: "nobody, if the database moved on", Cure: "verify again"})
	case errors.Is(err, sst.ErrFormat):
		v.found(unknownFormat(key, err))
	case errors.Is(err, sst.ErrOrder):
		v.found(Finding{Code: TableUnordered, Object: key, What: err.Error(), Who: theirReads, Cure: "tell the makers of the writer; compact the table away or put it back from a copy"})
	case errors.Is(err, sst.ErrCorrupt):
		v.found(Finding{Code: TableDamaged, Object: key, What: err.Error(), Who: theirReads, Cure: fromCopy})
	default:
		v.found(unreadable(key, err))
	}
}
