package snapshots

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// seed adds the real files of one name.
func seed(f *testing.F, name string) {
	n := 0
	filepath.WalkDir(fixtures, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == name {
			b, err := os.ReadFile(p)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
			n++
		}
		return err
	})
	if n == 0 {
		f.Fatalf("no %s in %s", name, fixtures)
	}
}

// Whatever bytes a pointer has, it is refused as unreadable or gives positions
// above 0 and paths that stay in the partition, the newest first.
func FuzzPointer(f *testing.F) {
	seed(f, "latest.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePointer(b)
		if err != nil {
			if !errors.Is(err, ErrUnreadablePointer) {
				t.Error(err)
			}
			return
		}
		if len(p.Retained) == 0 || p.Retained[0].LSN != p.LSN {
			t.Errorf("%+v", p)
		}
		for i, r := range p.Retained {
			if r.LSN == 0 || strings.ContainsAny(r.Path, "/\\") || strings.Trim(r.Path, ".") == "" {
				t.Errorf("retained %+v", r)
			}
			if i > 0 && r.LSN > p.Retained[i-1].LSN {
				t.Errorf("%d after %d", r.LSN, p.Retained[i-1].LSN)
			}
		}
	})
}

// Whatever bytes a metadata.json has, it is refused or names only files that
// stay in the snapshot's folder.
func FuzzMetadata(f *testing.F) {
	seed(f, "metadata.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		m, files, err := parseMetadata(b)
		if err != nil {
			return
		}
		if m.lsn == 0 {
			t.Error("position 0")
		}
		for _, one := range files {
			if one.name == "" || strings.HasPrefix(one.name, "/") || filepath.Clean(one.name) != one.name || !filepath.IsLocal(one.name) {
				t.Errorf("file %q", one.name)
			}
		}
	})
}
