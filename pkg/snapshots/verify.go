package snapshots

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"strings"
	"time"
)

const (
	// maxProblems is how many problems of one snapshot are kept by name.
	maxProblems = 20
	// maxFolder is how many objects one snapshot's folder may hold. Only
	// one folder's names are in memory at a time.
	maxFolder = 1 << 20
	// verifyTries is how often a partition whose pointer moved under the
	// listing is looked at again.
	verifyTries = 3
)

// Verify reads the pointer of the partition at prefix and looks at everything
// below it: one request for the pointer, one listing, and one request for the
// metadata.json of each folder that has changed since prev, which is what an
// earlier Verify of the same prefix returned, or nil. prev is not changed and
// nothing in it is trusted beyond this: the same names, sizes and times of
// change in a folder mean the same metadata.json.
//
// When a restore point is not whole the pointer is read once more, and all of
// it again if it has moved: an eviction under way is not damage.
//
// The error is about the store: nothing was learned and what was known before
// still stands. Damage is never an error but a [State].
func Verify(ctx context.Context, s Store, prefix string, prev *Partition) (Partition, error) {
	for try := 1; ; try++ {
		p, err := verify(ctx, s, prefix, prev)
		if err != nil {
			return Partition{}, err
		}
		if try == verifyTries || len(p.VerifiedLSNs()) == len(p.Points) {
			return p, nil
		}
		again, err := ReadPartition(ctx, s, prefix)
		if err != nil {
			return Partition{}, err
		}
		if again.PointerSHA256 == p.PointerSHA256 {
			return p, nil
		}
		prev = &p
	}
}

func verify(ctx context.Context, s Store, prefix string, prev *Partition) (Partition, error) {
	p, err := ReadPartition(ctx, s, prefix)
	if err != nil {
		return Partition{}, err
	}
	w := walker{store: s, p: &p, points: map[string]int{}, before: map[string]*Snapshot{}, left: map[string]bool{}}
	for i := range p.Points {
		w.points[p.Points[i].Path] = i
	}
	if prev != nil && prev.Prefix == p.Prefix {
		for _, list := range [][]Snapshot{prev.Points, prev.Unlisted} {
			for i := range list {
				w.before[list[i].Path] = &list[i]
			}
		}
	}
	below := p.Prefix
	if below != "" {
		below += "/"
	}
	err = s.Walk(ctx, below, "", func(key string, size int64, modified time.Time) error {
		return w.object(ctx, below, key, size, modified)
	})
	if err == nil {
		err = w.leave(ctx)
	}
	if err != nil {
		return Partition{}, fmt.Errorf("verify %s: %w", below, err)
	}
	for i := range p.Points {
		if p.Points[i].State == Listed {
			p.Points[i].absent(p)
		}
	}
	p.Walked = true
	return p, nil
}

// walker takes a partition's objects in the order of their keys and settles
// each snapshot's folder when it leaves it.
type walker struct {
	store  Store
	p      *Partition
	points map[string]int       // by path, into p.Points
	before map[string]*Snapshot // by path, from the Verify before
	in     *folder              // nil outside of any
	left   map[string]bool      // folders that were settled
}

// folder is the snapshot's folder that the walk is in.
type folder struct {
	path     string
	sizes    map[string]int64 // by the object's name in the folder
	objects  int64
	bytes    int64
	modified time.Time
	listing  hash.Hash
}

func (w *walker) object(ctx context.Context, below, key string, size int64, modified time.Time) error {
	rest, ok := strings.CutPrefix(key, below)
	if !ok {
		return fmt.Errorf("the store listed %q, which is not below it", key)
	}
	w.p.Objects++
	w.p.Bytes += size
	dir, name, deep := strings.Cut(rest, "/")
	if w.in != nil && (!deep || dir != w.in.path) {
		if err := w.leave(ctx); err != nil {
			return err
		}
	}
	_, listed := w.points[dir]
	_, _, named := parseFolder(dir)
	switch {
	case deep && (listed || named):
		if w.left[dir] {
			// It was settled by half of its files.
			return fmt.Errorf("the store listed %q out of order", key)
		}
		if w.in == nil {
			w.in = &folder{path: dir, sizes: map[string]int64{}, listing: sha256.New()}
		}
		w.in.add(name, size, modified)
	case rest != pointerName:
		w.p.StrayObjects++
		w.p.StrayBytes += size
	}
	return nil
}

func (f *folder) add(name string, size int64, modified time.Time) {
	f.objects++
	f.bytes += size
	if modified.After(f.modified) {
		f.modified = modified
	}
	if len(f.sizes) < maxFolder {
		f.sizes[name] = size
	}
	var b []byte
	b = binary.AppendUvarint(b, uint64(len(name)))
	b = append(b, name...)
	b = binary.AppendVarint(b, size)
	b = binary.AppendVarint(b, modified.UnixNano())
	f.listing.Write(b)
}

// leave settles the folder that the walk was in.
func (w *walker) leave(ctx context.Context) error {
	f := w.in
	w.in = nil
	if f == nil {
		return nil
	}
	w.left[f.path] = true
	var s Snapshot
	i, listed := w.points[f.path]
	if listed {
		s = w.p.Points[i]
	} else {
		s = Snapshot{Path: f.path, Standing: w.p.standing(f.path)}
		s.LSN, s.ID, _ = parseFolder(f.path)
	}
	s.Objects, s.Bytes, s.Modified = f.objects, f.bytes, f.modified
	f.listing.Sum(s.listing[:0])
	if err := w.compare(ctx, f, &s); err != nil {
		return err
	}
	s.settle(*w.p)
	if listed {
		w.p.Points[i] = s
	} else {
		w.p.Unlisted = append(w.p.Unlisted, s)
	}
	return nil
}

func (p Partition) standing(path string) Standing {
	if p.PointerState != PointerRead {
		return Unplaced
	}
	if lsn, _, _ := parseFolder(path); lsn > p.Pointer.LSN {
		return OrphanNewer
	}
	return OrphanOlder
}

// compare fills the snapshot's meta, Files and Problems, from the Verify before
// when the folder is as it was then, else from its metadata.json.
func (w *walker) compare(ctx context.Context, f *folder, s *Snapshot) error {
	if b := w.before[f.path]; b != nil && b.meta != nil && b.listing == s.listing {
		s.meta, s.Files, s.Problems, s.ProblemCount = b.meta, b.Files, b.Problems, b.ProblemCount
		return nil
	}
	dir := join(w.p.Prefix, f.path)
	size, ok := f.sizes[metadataName]
	switch {
	case f.objects > maxFolder:
		s.meta = &metadata{broken: fmt.Errorf("the folder has %d objects, more than %d", f.objects, maxFolder)}
		return nil
	case !ok:
		s.problem(Problem{Key: join(dir, metadataName), Kind: NoMetadata})
		return nil
	case size > maxMetadata:
		s.meta = &metadata{broken: fmt.Errorf("metadata.json has %d bytes, more than %d", size, maxMetadata)}
		return nil
	}
	b, err := w.store.Get(ctx, join(dir, metadataName))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// Deleted since it was listed; the next look finds it so.
		s.problem(Problem{Key: join(dir, metadataName), Kind: NoMetadata})
		return nil
	case errors.Is(err, fs.ErrPermission):
		// One forbidden object must not hide the others. It is not kept for
		// the next Verify: rights change without a trace in the listing.
		s.State, s.Reason = Unreadable, fmt.Sprintf("metadata.json: %v", err)
		return nil
	case err != nil:
		return fmt.Errorf("read %s: %w", join(dir, metadataName), err)
	}
	m, files, err := parseMetadata(b)
	if err != nil {
		s.meta = &metadata{broken: fmt.Errorf("metadata.json: %w", err)}
		return nil
	}
	s.meta, s.Files = &m, len(files)
	for _, one := range files {
		got, ok := f.sizes[one.name]
		switch {
		case !ok:
			s.problem(Problem{Key: join(dir, one.name), Kind: Missing})
		case uint64(got) != one.size:
			s.problem(Problem{Key: join(dir, one.name), Kind: WrongSize, Want: one.size, Got: uint64(got)})
		}
	}
	return nil
}

func (s *Snapshot) problem(p Problem) {
	s.ProblemCount++
	if len(s.Problems) < maxProblems {
		s.Problems = append(s.Problems, p)
	}
}

// settle decides the state from what compare found.
func (s *Snapshot) settle(p Partition) {
	if s.State == Unreadable {
		return
	}
	if s.meta != nil {
		var why string
		if s.meta.broken != nil {
			why = s.meta.broken.Error()
		} else {
			why = s.meta.disagreement(*s, p)
			if s.CreatedAt.IsZero() {
				s.CreatedAt = s.meta.createdAt
			}
		}
		if why != "" {
			s.State, s.Reason = Unreadable, why
			return
		}
	}
	if lsn, id, ok := parseFolder(s.Path); ok && (lsn != s.LSN || id != s.ID) {
		s.State, s.Reason = Unreadable, fmt.Sprintf("the pointer gives folder %s LSN %d and id %s", s.Path, s.LSN, s.ID)
		return
	}
	if s.ProblemCount == 0 {
		s.State, s.Reason = Verified, ""
		return
	}
	s.State, s.Reason = Incomplete, s.Problems[0].String()
	if s.ProblemCount > 1 {
		s.Reason += fmt.Sprintf(", and %d more", s.ProblemCount-1)
	}
}

// absent is the state of a restore point whose folder was not met.
func (s *Snapshot) absent(p Partition) {
	s.problem(Problem{Key: join(join(p.Prefix, s.Path), metadataName), Kind: NoMetadata})
	s.State = Incomplete
	s.Reason = fmt.Sprintf("the pointer lists %s, and nothing is there", join(p.Prefix, s.Path))
}
