package manifest_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// Every manifest that a real core wrote is, encoded again, the same value; so
// many of them are the same bytes that the layout is SlateDB's own.
func TestEncodeGivesBackEveryRealManifest(t *testing.T) {
	all, same := 0, 0
	err := filepath.WalkDir(fixtures, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".manifest") {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		m, err := manifest.Decode(raw)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		out, err := manifest.Encode(m)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		back, err := manifest.Decode(out)
		if err != nil {
			t.Fatalf("%s: what was written does not read: %v", path, err)
		}
		if !reflect.DeepEqual(m, back) {
			t.Errorf("%s: the value changed", path)
		}
		all++
		if bytes.Equal(raw, out) {
			same++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of %d manifests are byte for byte the core's own", same, all)
	if all < 1000 || same < all/2 {
		t.Errorf("%d manifests, %d the same bytes", all, same)
	}
}

func TestEncodeRefusesWhatItWouldLose(t *testing.T) {
	for name, spoil := range map[string]func(*manifest.Manifest){
		"unknown fields":                  func(m *manifest.Manifest) { m.UnknownFields = true },
		"an unknown version":              func(m *manifest.Manifest) { m.Version = 3 },
		"segments in version 1":           func(m *manifest.Manifest) { m.Segments = []manifest.Segment{{Prefix: []byte("a")}} },
		"an extractor in version 1":       func(m *manifest.Manifest) { m.ExtractorName = "fix1" },
		"views in version 1":              func(m *manifest.Manifest) { m.L0 = []manifest.Table{{ViewID: [16]byte{1}}} },
		"a WAL store's mark in version 2": func(m *manifest.Manifest) { m.Version, m.WALStoreMarked = manifest.V2, true },
		"metadata of a new kind":          func(m *manifest.Manifest) { m.Checkpoints = []manifest.Checkpoint{{MetadataType: 2}} },
	} {
		m := manifest.New()
		spoil(m)
		if _, err := manifest.Encode(m); !errors.Is(err, manifest.ErrUnwritable) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
