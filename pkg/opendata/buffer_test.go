package opendata

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fixtures holds slates and a buffer that the real systems wrote.
const fixtures = "../../e2e/fixtures/data/opendata"

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(fixtures, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readJSON(t testing.TB, name string, into any) {
	t.Helper()
	if err := json.Unmarshal(readFile(t, name), into); err != nil {
		t.Fatal(err)
	}
}

func realManifest(t testing.TB) []byte { return readFile(t, "buffer/bucket/q1/manifest") }

// A producer wrote eight batches and a consumer acknowledged two of them: six
// are left, epoch 1.
func TestRealBufferReadsAsItsLibraryReadsIt(t *testing.T) {
	var want struct {
		Manifest struct {
			Epoch        uint64
			NextSequence uint64 `json:"next_sequence"`
			Entries      []struct {
				Location string
				Metadata int
				Sequence uint64
			}
		}
		Backlog int `json:"backlog_after_ack"`
	}
	readJSON(t, "buffer/expected.json", &want)
	b, err := DecodeBuffer(realManifest(t))
	if err != nil {
		t.Fatal(err)
	}
	if b.Epoch != want.Manifest.Epoch || b.NextSequence != want.Manifest.NextSequence || b.Backlog() != want.Backlog || b.Backlog() != 6 {
		t.Errorf("epoch %d, next %d, backlog %d, want %+v", b.Epoch, b.NextSequence, b.Backlog(), want)
	}
	for i, w := range want.Manifest.Entries {
		e := b.Entries[i]
		if e.Sequence != w.Sequence || e.Location != w.Location || len(e.Ranges) != w.Metadata {
			t.Errorf("entry %d is %+v, want %+v", i, e, w)
		}
		// The generator attached "meta-N" to batch N.
		if r := e.Ranges[0]; r.StartIndex != 0 || r.PayloadBytes != len("meta-N") {
			t.Errorf("entry %d has %+v", i, r)
		}
	}
	if at, ok := b.OldestIngestion(); !ok || at.UnixMilli() != 1795228783340 {
		t.Errorf("oldest ingestion %s (%d), %v", at, at.UnixMilli(), ok)
	}
}

func TestDrainedBufferHasNoBacklogAndNoOldestRecord(t *testing.T) {
	real := realManifest(t)
	drained := append([]byte{0, 0, 0, 0}, real[len(real)-18:]...)
	b, err := DecodeBuffer(drained)
	if err != nil || b.Backlog() != 0 || b.NextSequence != 8 || b.Epoch != 1 {
		t.Errorf("%+v, %v", b, err)
	}
	if _, ok := b.OldestIngestion(); ok {
		t.Error("nothing is queued and there is an oldest record")
	}
}

func TestDamagedBufferManifestIsRefused(t *testing.T) {
	real := realManifest(t)
	footer := len(real) - footerBytes
	for _, c := range []struct {
		name string
		do   func(b []byte) []byte
		want string
	}{
		{"empty", func(b []byte) []byte { return nil }, "0 bytes"},
		{"no footer", func(b []byte) []byte { return b[:21] }, "21 bytes"},
		{"cut at its front", func(b []byte) []byte { return b[1:] }, "entry 0 of 6"},
		{"cut at its end", func(b []byte) []byte { return b[:len(b)-1] }, "version 256: unknown version"},
		{"another version", func(b []byte) []byte { b[len(b)-2] = 2; return b }, "version 2: unknown version"},
		{"one entry more than there are", func(b []byte) []byte { b[footer] = 7; return b }, "entry 6 of 7: entry length needs 4 bytes, 0 are left"},
		{"one entry fewer", func(b []byte) []byte { b[footer] = 5; return b }, "between the entries and the footer"},
		{"four thousand million entries", func(b []byte) []byte { binary.LittleEndian.PutUint32(b[footer:], 1<<32-1); return b }, "entry 6 of"},
		{"an entry longer than the rest", func(b []byte) []byte { binary.LittleEndian.PutUint32(b, 1<<32-1); return b }, "entry needs 4294967295 bytes"},
		{"a location longer than its entry", func(b []byte) []byte { b[12] = 0xFF; return b }, "location needs 255 bytes"},
		{"a location that is not text", func(b []byte) []byte { b[14] = 0xFF; return b }, "location is not UTF-8"},
		{"more ranges than bytes", func(b []byte) []byte { b[52] = 0xFF; return b }, "range count is"},
		{"a shorter payload", func(b []byte) []byte { b[65] = 5; return b }, "entry 0 of 6: 1 bytes too many"},
		{"a sequence that goes back", func(b []byte) []byte { b[4+75] = 2; return b }, "sequence 2 after 2"},
		{"a sequence not yet given", func(b []byte) []byte { b[4] = 8; return b }, "sequence 8 is not below the next one, 8"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := DecodeBuffer(c.do(append([]byte(nil), real...)))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%+v, %v, want %s", b, err, c.want)
			}
			if strings.Contains(c.want, "unknown version") != errors.Is(err, ErrBufferVersion) {
				t.Errorf("%v", err)
			}
		})
	}
}

// Row OD-13, the decoding: a buffer is recognised by its names, and its backlog
// and epoch are in its manifest.
func TestOD13_BufferIsKnownByItsNames(t *testing.T) {
	files, err := os.ReadDir(filepath.Join(fixtures, "buffer/bucket/q1"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
	}
	for _, c := range []struct {
		names []string
		want  bool
	}{
		{names, true},
		{[]string{"manifest"}, false},
		{[]string{"01M7XZJMPXWR4479FEPBN3VX8B.batch"}, false},
		{[]string{"manifest", "x.batch", "01M7XZJMPXWR4479FEPBN3VX8B.sst"}, false},
		{[]string{"manifest", "01M7XZJMPXWR4479FEPBN3VX8!.batch"}, false},
		{[]string{"01M7XZJMPXWR4479FEPBN3VX8B.batch", "a", "manifest"}, true},
	} {
		if got := IsBufferListing(c.names); got != c.want {
			t.Errorf("%v: %v", c.names, got)
		}
	}
}

func FuzzBuffer(f *testing.F) {
	f.Add(realManifest(f))
	f.Add(realManifest(f)[450:])
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := DecodeBuffer(data)
		if err != nil {
			return
		}
		for i, e := range b.Entries {
			if e.Sequence >= b.NextSequence || i > 0 && e.Sequence <= b.Entries[i-1].Sequence {
				t.Errorf("%+v", b)
			}
		}
		// What was accepted has one spelling only.
		if again := encodeSizes(b); again != len(data) {
			t.Errorf("%d bytes were read as %d", len(data), again)
		}
	})
}

// encodeSizes is how many bytes the manifest of b has.
func encodeSizes(b Buffer) int {
	n := footerBytes
	for _, e := range b.Entries {
		n += 4 + 8 + 2 + len(e.Location) + 4
		for _, r := range e.Ranges {
			n += rangeBytes + r.PayloadBytes
		}
	}
	return n
}
