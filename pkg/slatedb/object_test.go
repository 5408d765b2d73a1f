package slatedb_test

import (
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/quarry-db/quarry/pkg/slatedb"
)

func TestKeysAndBack(t *testing.T) {
	id := ulid.MustParse("01M7XXYXY510V7WFC8DFAZMKSW")
	for root, dir := range map[string]string{"": "", "/": "", "dbs/orders": "dbs/orders/", "/dbs/orders/": "dbs/orders/"} {
		for got, want := range map[string]string{
			slatedb.ManifestKey(root, 7):    dir + "manifest/00000000000000000007.manifest",
			slatedb.CompactionsKey(root, 7): dir + "compactions/00000000000000000007.compactions",
			slatedb.WALKey(root, 7):         dir + "wal/00000000000000000007.sst",
			slatedb.TableKey(root, id):      dir + "compacted/01M7XXYXY510V7WFC8DFAZMKSW.sst",
			slatedb.BoundaryKey(root):       dir + "gc/manifest.boundary",
		} {
			if got != want {
				t.Errorf("root %q: %s, want %s", root, got, want)
			}
		}
		const largest = ^uint64(0)
		if n, ok := slatedb.ParseManifestKey(root, slatedb.ManifestKey(root, largest)); !ok || n != largest {
			t.Errorf("root %q: the largest manifest id comes back as %d, %v", root, n, ok)
		}
		if n, ok := slatedb.ParseCompactionsKey(root, slatedb.CompactionsKey(root, 9)); !ok || n != 9 {
			t.Errorf("root %q: compactions 9 come back as %d, %v", root, n, ok)
		}
		if n, ok := slatedb.ParseWALKey(root, slatedb.WALKey(root, 9)); !ok || n != 9 {
			t.Errorf("root %q: WAL 9 comes back as %d, %v", root, n, ok)
		}
		if got, ok := slatedb.ParseTableKey(root, slatedb.TableKey(root, id)); !ok || got != id {
			t.Errorf("root %q: the table comes back as %s, %v", root, got, ok)
		}
	}
}

func TestOtherNamesAreNoObjectsOfADatabase(t *testing.T) {
	for _, key := range []string{
		"manifest/00000000000000000007.manifest", // of another root
		"db/manifest/7.manifest",
		"db/manifest/00000000000000000007.manifest#3", // a staging file of local folders
		"db/manifest/00000000000000000007.manifest.tmp",
		"db/manifest/+0000000000000000007.manifest",
		"db/manifest/99999999999999999999.manifest", // more than 64 bits
		"db/manifest/x/00000000000000000007.manifest",
		"db/manifest/.manifest",
		"db/manifest/00000000000000000007.sst",
		"db/manifest/",
		"",
	} {
		if id, ok := slatedb.ParseManifestKey("db", key); ok {
			t.Errorf("%q is manifest %d", key, id)
		}
	}
	for _, key := range []string{
		"db/compacted/01m7xxyxy510v7wfc8dfazmksw.sst",  // lower case
		"db/compacted/81M7XXYXY510V7WFC8DFAZMKSW.sst",  // more than 128 bits
		"db/compacted/01M7XXYXY510V7WFC8DFAZMKSU.sst",  // U is no digit
		"db/compacted/01M7XXYXY510V7WFC8DFAZMKSW.sst1", // something else
		"db/compacted/README.sst",
	} {
		if id, ok := slatedb.ParseTableKey("db", key); ok {
			t.Errorf("%q is table %s", key, id)
		}
	}
}
