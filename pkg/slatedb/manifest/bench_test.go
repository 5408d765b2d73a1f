package manifest_test

import (
	"fmt"
	"testing"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// large makes up a V2 manifest of n tables with keys of 24 bytes, half of them
// in L0 and half in runs of 100.
func large(n int) []byte {
	shared, l0 := make(vector, n), vector{}
	var runs vector
	for i := range n {
		first, last := fmt.Sprintf("tenant/%05d/user/%07d", i%100, i), fmt.Sprintf("tenant/%05d/user/%07d", i%100, i+1)
		shared[i] = table{0: id128(uint64(i)), 1: table{0: []byte(first), 1: uint64(1 << 26), 2: uint64(1 << 16), 3: uint64(1 << 25), 4: uint64(1 << 15), 5: uint8(4), 7: []byte(last), 8: uint64(1<<26 + 1<<16), 9: uint64(500), 10: uint8(1)}, 2: uint16(2)}
		view := table{0: id128(uint64(i)), 1: id128(uint64(i))}
		if i < n/2 {
			l0 = append(l0, view)
			continue
		}
		if i%100 == 0 || len(runs) == 0 {
			runs = append(runs, table{0: uint32(n - i), 1: vector{}})
		}
		r := runs[len(runs)-1]
		r[1] = append(r[1].(vector), view)
	}
	return encode(2, table{2: true, 3: uint64(1), 8: shared, 9: l0, 10: runs, 12: vector{}, 16: vector{}})
}

func BenchmarkDecode(b *testing.B) {
	name := "opendata/log-compacted/slate/manifest/00000000000000000025.manifest"
	real := objects(b, name)[name]
	if real == nil {
		b.Fatalf("no fixture %s", name)
	}
	for _, c := range []struct {
		name string
		raw  []byte
	}{{"largest-fixture", real}, {"made-up-10000-tables", large(10_000)}} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(c.raw)))
			b.ReportAllocs()
			for b.Loop() {
				m, err := manifest.Decode(c.raw)
				if err != nil || m.UnknownFields {
					b.Fatal(err)
				}
			}
		})
	}
}

// The bounds on work that a damaged manifest meets are wide enough for a real
// one of any size.
func TestALargeManifestDecodes(t *testing.T) {
	m, err := manifest.Decode(large(50_000))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	m.Tables(func(*manifest.Table) { n++ })
	if n != 50_000 || len(m.L0) != 25_000 || m.Runs[0].Tables[0].Info.Compression != 4 {
		t.Errorf("%d tables", n)
	}
}
