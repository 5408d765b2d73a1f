//go:build e2e

package e2e

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// scanned is one line of `quarry slatedb scan -o json`.
type scanned struct {
	Key      string   `json:"key"`
	Value    *string  `json:"value"`
	Base     *string  `json:"base"`
	Operands []string `json:"operands"`
	Seq      uint64   `json:"seq"`
	CreateTS *int64   `json:"create_ts"`
	ExpireTS *int64   `json:"expire_ts"`
}

func scanCLI(t *testing.T, bucket, root string, extra ...string) []scanned {
	t.Helper()
	out := must(t, nil, append([]string{"slatedb", "scan", "--bucket", bucket, root, "-o", "json"}, extra...)...)
	var rows []scanned
	sc := bufio.NewScanner(strings.NewReader(out))
	sc.Buffer(nil, 64<<20)
	for sc.Scan() {
		var r scanned
		if err := json.Unmarshal(sc.Bytes(), &r); err != nil {
			t.Fatalf("line %q: %v", sc.Text(), err)
		}
		rows = append(rows, r)
	}
	return rows
}

// joined is the value as the fixtures record it: operands joined by ",".
func (r scanned) joined(t *testing.T) []byte {
	t.Helper()
	un := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	if r.Operands == nil {
		if r.Value == nil {
			t.Fatalf("key %s has neither value nor operands", r.Key)
		}
		return un(*r.Value)
	}
	var parts []string
	if r.Base != nil {
		parts = append(parts, string(un(*r.Base)))
	}
	for _, o := range r.Operands {
		parts = append(parts, string(un(o)))
	}
	return []byte(strings.Join(parts, ","))
}

// sameValue compares with a recorded value: hex, or length and hash.
func sameValue(t *testing.T, want json.RawMessage, got []byte) bool {
	t.Helper()
	var asHex string
	if json.Unmarshal(want, &asHex) == nil {
		return asHex == hex.EncodeToString(got)
	}
	var big struct {
		Len    int    `json:"len"`
		SHA256 string `json:"sha256"`
	}
	if err := json.Unmarshal(want, &big); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(got)
	return big.Len == len(got) && big.SHA256 == hex.EncodeToString(sum[:])
}

// Every database that the real cores wrote reads back, through the command
// line, to what the same core read from it.
func TestEveryFixtureScansToWhatTheCoreRead(t *testing.T) {
	files, err := filepath.Glob(fixture("0.*", "*", "expected.json"))
	if err != nil {
		t.Fatal(err)
	}
	databases := 0
	for _, file := range files {
		dir := filepath.Dir(file)
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var want struct {
			Roots map[string]string              `json:"roots"`
			WAL   string                         `json:"wal"`
			Scan  map[string][][]json.RawMessage `json:"scan"`
		}
		if err := json.Unmarshal(b, &want); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		name, _ := filepath.Rel(fixture(), dir)
		for key, root := range want.Roots {
			databases++
			t.Run(name+"/"+key, func(t *testing.T) {
				var extra []string
				if want.WAL != "" {
					extra = []string{"--wal", "file://" + filepath.Join(dir, want.WAL)}
				}
				got := scanCLI(t, "file://"+dir, root, extra...)
				if len(got) != len(want.Scan[key]) {
					t.Fatalf("%d rows, the core read %d", len(got), len(want.Scan[key]))
				}
				for i, w := range want.Scan[key] {
					var k string
					var seq uint64
					_ = json.Unmarshal(w[0], &k)
					_ = json.Unmarshal(w[2], &seq)
					if got[i].Key != k || got[i].Seq != seq || !sameValue(t, w[1], got[i].joined(t)) {
						t.Fatalf("row %d: got %+v, the core read %s", i, got[i], w)
					}
					if len(w) > 3 {
						var create, expire *int64
						_ = json.Unmarshal(w[3], &create)
						_ = json.Unmarshal(w[4], &expire)
						if !same(got[i].CreateTS, create) || !same(got[i].ExpireTS, expire) {
							t.Fatalf("row %d: times %+v, the core read %s", i, got[i], w)
						}
					}
				}
			})
		}
	}
	if databases != 144 {
		t.Errorf("%d databases of SlateDB in the fixtures, expected 144: was one left out?", databases)
	}
}

func same[T comparable](a, b *T) bool {
	return a == nil && b == nil || a != nil && b != nil && *a == *b
}

// The command line speaks of OpenData's slates too: kinds by what is in them.
func TestOpenDataSlatesScan(t *testing.T) {
	for _, kind := range []string{"log", "log-compacted", "log-lz4", "log-retained", "log-reopened", "log-open", "timeseries", "vector"} {
		t.Run(kind, func(t *testing.T) {
			b, err := os.ReadFile(fixture("opendata", kind, "expected-raw.json"))
			if err != nil {
				t.Fatal(err)
			}
			var want struct {
				Total  int                 `json:"total"`
				Merged []string            `json:"merged_keys"`
				Rows   [][]json.RawMessage `json:"rows"`
			}
			if err := json.Unmarshal(b, &want); err != nil {
				t.Fatal(err)
			}
			merged := map[string]bool{}
			for _, k := range want.Merged {
				merged[k] = true
			}
			got := scanCLI(t, "file://"+fixture("opendata", kind), "slate")
			if len(got) != want.Total {
				t.Fatalf("%d rows, the core read %d", len(got), want.Total)
			}
			for i, w := range want.Rows {
				var k string
				_ = json.Unmarshal(w[0], &k)
				if got[i].Key != k {
					t.Fatalf("row %d: key %s, the core read %s", i, got[i].Key, k)
				}
				if merged[k] {
					if len(got[i].Operands) == 0 {
						t.Errorf("key %s: the core merges operands here, the scan shows none", k)
					}
					continue
				}
				sum := sha256.Sum256(got[i].joined(t))
				var want string
				_ = json.Unmarshal(w[1], &want)
				if hex.EncodeToString(sum[:]) != want {
					t.Errorf("key %s: another value than the core read", k)
				}
			}
		})
	}
}
