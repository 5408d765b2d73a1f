package slatedb

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
	"github.com/quarry-db/quarry/pkg/slatedb/wal"
)

// Sight is what was seen of a database without reading its tables. What was not
// looked at is nil, and nothing is concluded from it. Everything must be of one
// moment, or the listings not older than Head.
type Sight struct {
	Root string
	// Head is the newest manifest. Without one there are no symptoms.
	Head *Head
	// Before are earlier manifests of the same database, in any order: the
	// one that Head followed, when somebody follows, tells the most.
	Before []*Head
	// Manifests, Compactions and WAL are listings of these folders. WAL may
	// begin with the object at the mark of Head's tables (its
	// ReplayAfterWAL): no collector takes that, so it shows that the WAL is
	// here. An empty listing is not nil.
	Manifests, Compactions, WAL []Stored
	// WALNamed: WAL is of the store that somebody who knows has named.
	WALNamed bool
	// Boundary is the collector's mark; BoundaryError says that it is there
	// and is no number.
	Boundary      *uint64
	BoundaryError error
	// CompactionsVersion is the format of the newest compactor's state; 0:
	// not read, or there is none.
	CompactionsVersion int
	// InUse are the releases that are known to open this database, such as
	// "0.12.1"; see [CheckRelease].
	InUse []string
	// Lasting leaves out what the releases in use do to each other for a moment
	// only: for whoever tells when a finding comes and when it goes.
	Lasting bool
	Now     time.Time
}

const (
	// stuckAfter: no collector with default settings leaves garbage longer
	// (interval 10 min, age 5 min).
	stuckAfter = time.Hour
	// Fewer do not matter to anybody.
	pileOfManifests   = 50
	pileOfCompactions = 40
	// crowdedL0 is two flushes before writers of 0.16 and 0.17 wait.
	crowdedL0 = 6
)

// Symptoms recognises what releases of SlateDB do to each other and to a
// database, as far as it can be told without reading its tables. It is pure,
// and costs no more than its input: who follows a database can call it at each
// manifest, with what he has seen of it anyway. [Look] gathers it all; [Verify]
// does, and looks at the tables as well.
func Symptoms(s *Sight) []Finding {
	if s.Head == nil || s.Head.Manifest == nil {
		return nil
	}
	var found []Finding
	if s.Boundary != nil && *s.Boundary >= s.Head.ID {
		found = append(found, boundaryAhead(s.Root, *s.Boundary, s.Head.ID))
	}
	if s.BoundaryError != nil {
		found = append(found, boundaryUnreadable(BoundaryKey(s.Root), s.BoundaryError))
	}
	found = append(found, s.changed()...)
	found = append(found, s.log()...)
	found = append(found, s.dangling()...)
	found = append(found, s.stuck()...)
	found = append(found, s.strangers()...)
	return found
}

// changed compares the newest manifest with earlier ones.
func (s *Sight) changed() []Finding {
	m := s.Head.Manifest
	var found []Finding
	var segmented, marked *Head
	filters := map[ulid.ULID]int8{}
	for _, h := range s.Before {
		if h.Manifest == nil || h.ID >= s.Head.ID {
			continue
		}
		if segmentedBy(h.Manifest) != "" && (segmented == nil || h.ID > segmented.ID) {
			segmented = h
		}
		if h.Manifest.WALStoreMarked && (marked == nil || h.ID > marked.ID) {
			marked = h
		}
		h.Manifest.Tables(func(t *manifest.Table) { filters[t.ID] = max(filters[t.ID], t.Info.FilterFormat) })
	}
	if segmented != nil && segmentedBy(m) == "" {
		found = append(found, segmentsLost(s.Root, s.Head.ID, segmented.ID, segmented.Manifest.ExtractorName, restorable(m, segmented.Manifest)))
	}
	if marked != nil && !m.WALStoreMarked && !s.WALNamed {
		found = append(found, walUnmarked(s.Root, fmt.Sprintf("manifest %d says that the WAL is in another store, manifest %d does not: a process of release 0.16 or later has written it, and that format has no mark", marked.ID, s.Head.ID)))
	}
	// A table is never written again: when its filter changed, the manifest
	// lies. 0.12 knows the old format only, and no release goes from the
	// new to the old.
	keyOf := tableKeys(s.Root, m)
	told := map[ulid.ULID]bool{}
	m.Tables(func(t *manifest.Table) {
		if was := filters[t.ID]; was > t.Info.FilterFormat && !told[t.ID] {
			told[t.ID] = true
			found = append(found, filterMismatch(keyOf(t.ID), s.Head.ID, t.Info.FilterFormat, was))
		}
	})
	return found
}

// segmentedBy says how a database is divided, "" when it is not.
func segmentedBy(m *manifest.Manifest) string {
	if m.ExtractorName == "" && len(m.Segments) > 0 {
		return "an extractor without a name"
	}
	return m.ExtractorName
}

// restorable: nothing was moved to tables since had was written, so its trees
// and the WAL after them have every row there is.
func restorable(m, had *manifest.Manifest) bool {
	return len(m.L0) == 0 && len(m.Runs) == 0 && m.ReplayAfterWAL == had.ReplayAfterWAL && m.LastL0Seq == had.LastL0Seq
}

// log looks at the WAL.
func (s *Sight) log() []Finding {
	m := s.Head.Manifest
	if s.WAL == nil || m.WALStoreMarked && !s.WALNamed {
		return nil
	}
	if s.unmarked() {
		return []Finding{walUnmarked(s.Root, fmt.Sprintf("WAL ids up to %d are in use and the store holds no WAL object at all", max(m.WALLastSeen, m.ReplayAfterWAL)))}
	}
	var ids []uint64
	any := false
	for _, o := range s.WAL {
		id, ok := ParseWALKey(s.Root, o.Key)
		if ok && id > m.ReplayAfterWAL {
			ids = append(ids, id)
		}
		any = any || ok && id >= m.ReplayAfterWAL
	}
	slices.Sort(ids)
	if h, ok := tailHole(m, ids, any); ok {
		what := fmt.Sprintf("%v; manifest %d replays from %d", h, s.Head.ID, m.ReplayAfterWAL+1)
		return []Finding{walHole(s.Root, h.ID, what)}
	}
	return nil
}

// tailHole is [TailHole] where nothing at all, not even the object at the mark
// of the tables, is a hole as well: any says that something is there.
func tailHole(m *manifest.Manifest, ids []uint64, any bool) (*wal.Hole, bool) {
	if any {
		return TailHole(m, ids)
	}
	return errors.AsType[*wal.Hole](wal.Check(m.ReplayAfterWAL, m.WALLastSeen, ids))
}

// unmarked: WAL ids were given out, and there is no object of any. A clone
// begins without those of its parent that are in tables.
func (s *Sight) unmarked() bool {
	m := s.Head.Manifest
	if s.WALNamed || m.WALStoreMarked || max(m.WALLastSeen, m.ReplayAfterWAL) == 0 {
		return false
	}
	if begun(m) {
		return false
	}
	return !slices.ContainsFunc(s.WAL, func(o Stored) bool {
		id, ok := ParseWALKey(s.Root, o.Key)
		return ok && id >= m.ReplayAfterWAL
	})
}

// dangling looks for the manifests that checkpoints pin.
func (s *Sight) dangling() []Finding {
	if s.Manifests == nil {
		return nil
	}
	there := map[uint64]bool{s.Head.ID: true}
	for _, o := range s.Manifests {
		if id, ok := ParseManifestKey(s.Root, o.Key); ok {
			there[id] = true
		}
	}
	var found []Finding
	for _, c := range s.Head.Manifest.Checkpoints {
		if !there[c.ManifestID] && !c.Expired(s.Now) {
			there[c.ManifestID] = true // once
			found = append(found, dangling(s.Root, c.ID, c.ManifestID))
		}
	}
	return found
}

func dangling(root string, checkpoint uuid.UUID, id uint64) Finding {
	return Finding{
		Code: CheckpointDangling, Object: ManifestKey(root, id),
		What: fmt.Sprintf("checkpoint %s pins this manifest, which is gone", checkpoint), Who: pinnedReads,
		Cure: fmt.Sprintf("put the manifest back from a copy, or give the checkpoint up: `quarry slatedb checkpoints delete ROOT %s`", checkpoint),
	}
}

// stuck counts what no collector has taken for long.
func (s *Sight) stuck() []Finding {
	pinned := map[uint64]bool{}
	for _, c := range s.Head.Manifest.Checkpoints {
		pinned[c.ManifestID] = true
	}
	var found []Finding
	pile := func(folder, what string, objects []Stored, limit int, counts func(key string) bool) {
		n, bytes := 0, int64(0)
		var oldest time.Time
		for _, o := range objects {
			if !o.Modified.IsZero() && s.Now.Sub(o.Modified) > stuckAfter && counts(o.Key) {
				if n == 0 || o.Modified.Before(oldest) {
					oldest = o.Modified
				}
				n, bytes = n+1, bytes+o.Size
			}
		}
		if n <= limit {
			return
		}
		cure := "run a collector: `quarry slatedb gc`, or SlateDB's own"
		if s.Boundary != nil && *s.Boundary > 0 {
			cure += "; on a store without conditional replacing (a folder) SlateDB 0.14 and later stops after its first run: switch its boundary files off there"
		}
		found = append(found, Finding{
			Code: CollectorStuck, Object: below(s.Root, folder),
			What: fmt.Sprintf("%d %s (%d bytes) that nothing needs, older than %s, the oldest of %s", n, what, bytes, stuckAfter, oldest.UTC().Format(time.RFC3339)),
			Who:  "whoever pays for the store, and whoever opens the database, who lists them all", Cure: cure,
		})
	}
	pile("manifest/", "manifests", s.Manifests, pileOfManifests, func(key string) bool {
		id, ok := ParseManifestKey(s.Root, key)
		return ok && id < s.Head.ID && !pinned[id]
	})
	newest := uint64(0)
	for _, o := range s.Compactions {
		id, _ := ParseCompactionsKey(s.Root, o.Key)
		newest = max(newest, id)
	}
	pile("compactions/", "compactor's states", s.Compactions, pileOfCompactions, func(key string) bool {
		id, ok := ParseCompactionsKey(s.Root, key)
		return ok && id < newest
	})
	return found
}

// strangers tells which releases in use cannot open the database, or damage it.
func (s *Sight) strangers() []Finding {
	var found []Finding
	var reader, writer string
	for _, release := range s.InUse {
		major, minor, ok := parseRelease(release)
		if !ok || major != 0 {
			continue
		}
		switch {
		case minor <= 15:
			reader = release
		case minor <= 17:
			writer = release
		}
		for _, why := range s.refusals(minor) {
			found = append(found, Finding{
				Code: MixedVersions, Object: ManifestKey(s.Root, s.Head.ID), What: fmt.Sprintf("release %s is in use, and %s", release, why.what),
				Who: why.who, Cure: why.cure,
			})
		}
	}
	if n := mostL0(s.Head.Manifest); reader != "" && writer != "" && n >= crowdedL0 && !s.Lasting {
		found = append(found, Finding{
			Code: MixedVersions, Object: ManifestKey(s.Root, s.Head.ID),
			What: fmt.Sprintf("releases %s and %s are in use, and there are %d tables in L0: a process of %s that opens it now, even to read, writes the manifest in version 1, and a writer of %s that counts eight (its limit, l0_max_ssts_per_key) at that moment never flushes again", reader, writer, n, reader, writer),
			Who:  "a running writer of " + writer + ", whose flush and close hang; nothing acknowledged is lost", Cure: "a writer that hangs goes on when it is stopped and opened anew; " + newerOnly,
		})
	}
	return found
}

// mostL0 is how many tables the fullest L0 has.
func mostL0(m *manifest.Manifest) int {
	n := len(m.L0)
	for i := range m.Segments {
		n = max(n, len(m.Segments[i].L0))
	}
	return n
}

type refusal struct{ what, who, cure string }

const newerOnly = "bring every process that opens it to one release, the newest that any of them has"

// refusals tells what release 0.minor cannot do with the database, of what the
// real releases were seen to do.
func (s *Sight) refusals(minor int) []refusal {
	m := s.Head.Manifest
	var all []refusal
	add := func(what, who, cure string) { all = append(all, refusal{what, who, cure}) }
	if minor <= 13 {
		for _, o := range s.WAL {
			if id, ok := ParseWALKey(s.Root, o.Key); ok && id > m.ReplayAfterWAL && o.Size == 0 {
				add(fmt.Sprintf("WAL object %d is an empty fence of 0.14 or later, which it cannot replay (empty SSTable)", id),
					"its writers and readers, which cannot open", "open and close the database once with 0.14 or later: the flush at the end moves the replay past the fence")
				break
			}
		}
		if minor == 13 && segmentedBy(m) != "" {
			add("it has no segment extractor, so it cannot write a segmented database", "its writers, which cannot open", newerOnly)
		}
	}
	if minor <= 12 {
		if segmentedBy(m) != "" {
			add("it ignores segments and writes the manifest without them, even as a reader", "everybody: rows of all segments disappear and the owner cannot open", "let no process of it open the database, not even to read")
		}
		composite := false
		m.Tables(func(t *manifest.Table) { composite = composite || t.Info.FilterFormat == 1 && t.Info.FilterLen > 0 })
		if composite {
			add("it takes composite filters for its own and writes the manifest without their format, even as a reader", "its point reads, and after it those of every release", "let no process of it open the database, not even to read")
		}
		if s.CompactionsVersion >= 2 {
			add("the compactor's state has version 2, which it does not know", "its writers with a compactor, which cannot open", newerOnly)
		}
	}
	if minor <= 14 && len(m.ExternalDBs) > 0 {
		add("the database is a clone, and its readers look for the parent's tables in the wrong place", "its readers, which fail (object not found)", "read it with 0.15 or later, or make a copy instead of a clone")
	}
	return all
}

// CheckRelease says what is wrong with the name of a release of SlateDB as
// InUse takes them: "0.12.1" or "0.12", with or without a v. Nothing is known of
// releases from 1.0 on, so nothing is found of them.
func CheckRelease(v string) error {
	if _, _, ok := parseRelease(v); !ok {
		return fmt.Errorf("%q is no release of SlateDB; write for example 0.12.1", v)
	}
	return nil
}

func parseRelease(v string) (major, minor int, ok bool) {
	parts := strings.SplitN(strings.TrimPrefix(v, "v"), ".", 3)
	if len(parts) < 2 {
		return 0, 0, false
	}
	a, err1 := strconv.ParseUint(parts[0], 10, 31)
	b, err2 := strconv.ParseUint(parts[1], 10, 31)
	return int(a), int(b), err1 == nil && err2 == nil
}
