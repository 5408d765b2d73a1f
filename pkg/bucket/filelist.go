package bucket

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
)

// List walks the folders in the order of whole keys: in it "a-b" comes before
// "a/b" although the folder a is "before" the file a-b, because '-' sorts before
// '/'. So a folder takes part in the order as its name with the slash.
func (s *fileStore) List(ctx context.Context, prefix, after string, level bool, page func(Page) error) error {
	w := &fileWalk{ctx: ctx, store: s, prefix: prefix, after: after, level: level, pager: newPager(page)}
	// Everything that can match lies below the prefix's last whole folder.
	start := prefix[:strings.LastIndexByte(prefix, '/')+1]
	if start != "" {
		if _, err := s.path(strings.TrimSuffix(start, "/") + "/x"); err != nil {
			return s.there() // no such keys in a folder
		}
	}
	err := w.folder(start)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		err = nil
	}
	if err != nil {
		return err
	}
	// Folders that vanish on the way hold nothing; a root that vanishes could
	// have held anything.
	if err := s.there(); err != nil {
		return err
	}
	return w.pager.flush()
}

type fileWalk struct {
	ctx           context.Context
	store         *fileStore
	prefix, after string
	level         bool
	pager         *pager
	above         []fs.FileInfo // folders entered through a link, against loops
}

// entry is a file or, with a "/" at the end of its name, a folder.
type entry struct {
	name string
	fs.DirEntry
}

func (e entry) isFolder() bool { return strings.HasSuffix(e.name, "/") }

// folder visits the folder whose keys begin with at, which is "" or ends in "/".
func (w *fileWalk) folder(at string) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	entries, err := w.entries(at)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := w.visit(at, e); err != nil {
			return err
		}
	}
	return nil
}

func (w *fileWalk) visit(at string, e entry) error {
	key := at + e.name
	if !e.isFolder() {
		return w.object(key, e)
	}
	if w.level && len(key) > len(w.prefix) {
		some, err := w.holdsSome(key)
		if err != nil || !some {
			return err
		}
		return w.pager.folder(key)
	}
	leave, err := w.enter(key, e)
	if err != nil || leave == nil {
		return err
	}
	defer leave()
	return unlessGone(w.folder(key))
}

func (w *fileWalk) object(key string, e entry) error {
	info, err := e.Info()
	if err == nil && info.Mode()&fs.ModeSymlink != 0 {
		info, err = os.Stat(w.store.root + "/" + key)
	}
	if err != nil {
		return unlessGone(err) // removed since the folder was read
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	return w.pager.object(Object{Key: key, Size: info.Size(), Modified: info.ModTime()})
}

// entries reads a folder, drops what cannot match, and sorts.
func (w *fileWalk) entries(at string) ([]entry, error) {
	d, err := os.Open(w.store.root + "/" + at)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	all, err := d.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	entries := make([]entry, 0, len(all))
	for _, found := range all {
		name := found.Name()
		folder := found.IsDir()
		if found.Type()&fs.ModeSymlink != 0 {
			info, err := os.Stat(w.store.root + "/" + at + name)
			folder = err == nil && info.IsDir()
		}
		if folder {
			name += "/"
		}
		if w.wanted(at+name, folder) {
			entries = append(entries, entry{name: name, DirEntry: found})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return entries, nil
}

// wanted reports whether key, or for a folder some key below it, can match.
func (w *fileWalk) wanted(key string, folder bool) bool {
	if folder {
		below := strings.HasPrefix(key, w.prefix) || strings.HasPrefix(w.prefix, key)
		return below && (key > w.after || strings.HasPrefix(w.after, key)) && key != "lost+found/"
	}
	return strings.HasPrefix(key, w.prefix) && key > w.after && !staged(key[strings.LastIndexByte(key, '/')+1:])
}

// enter returns what to call on leaving the folder, or nil when it is one that
// the walk is already in by another name.
func (w *fileWalk) enter(key string, e entry) (leave func(), err error) {
	if e.Type()&fs.ModeSymlink == 0 {
		return func() {}, nil
	}
	info, err := os.Stat(w.store.root + "/" + key)
	if err != nil {
		return nil, unlessGone(err)
	}
	for _, one := range w.above {
		if os.SameFile(one, info) {
			return nil, nil
		}
	}
	w.above = append(w.above, info)
	return func() { w.above = w.above[:len(w.above)-1] }, nil
}

// holdsSome reports whether there is any object below a folder.
func (w *fileWalk) holdsSome(key string) (bool, error) {
	errSome := errors.New("some")
	probe := &fileWalk{ctx: w.ctx, store: w.store, prefix: key, after: w.after, above: slices.Clone(w.above),
		pager: &pager{send: func(Page) error { return errSome }, atOnce: true}}
	err := probe.folder(key)
	if errors.Is(err, errSome) {
		return true, nil
	}
	return false, unlessGone(err)
}

func unlessGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	return err
}
