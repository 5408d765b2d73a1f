//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/e2e/peers"
	"github.com/quarry-db/quarry/e2e/servers"
	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

// On a store where SlateDB's collector can raise its marks both collect in
// turns, and raise them: the mark is never at the newest manifest, and nothing
// above it is gone. A copy into the store is opened there.
func TestAdmin_CollectingInTurnsWithTheRealCollectorOnS3(t *testing.T) {
	s3 := servers.S3(t)
	for _, release := range releasesFrom("0.15.0") {
		t.Run(release, func(t *testing.T) {
			name := "r" + strings.ReplaceAll(release, ".", "")
			url := s3.Make(t, name)
			env := peers.S3(s3.Endpoint(), name, servers.S3Env()["AWS_ACCESS_KEY_ID"], servers.S3Env()["AWS_SECRET_ACCESS_KEY"])
			b, err := bucket.Open(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			defer b.Close()
			acked := model{}
			p := peers.Start(t, release, env)
			p.Do(map[string]any{"op": "open", "root": "db", "compact": true})
			raised := 0
			for round := range 12 {
				write(t, p, acked, map[string]string{fmt.Sprintf("k%d", round%5): fmt.Sprint(round)})
				p.Op("l0", "db")
				must(t, environ(servers.S3Env()), "slatedb", "checkpoints", "create", "--bucket", url, "db", "--name", "turn", "--lifetime", "1s")
				if round%2 == 0 {
					p.Op("gc", "db")
				} else {
					time.Sleep(1100 * time.Millisecond) // S3 keeps whole seconds
					must(t, environ(servers.S3Env()), "slatedb", "gc", "--bucket", url, "db", "--min-age", "1ms", "--fence-age", "1ms", "--yes")
				}
				ids, err := slatedb.ManifestIDs(t.Context(), b, "db")
				if err != nil {
					t.Fatal(err)
				}
				mark, err := slatedb.Boundary(t.Context(), b, "db")
				if err != nil {
					t.Fatal(err)
				}
				if mark >= ids[len(ids)-1] {
					t.Fatalf("round %d: the mark is %d, the newest manifest %d", round, mark, ids[len(ids)-1])
				}
				for id := mark + 1; id < ids[len(ids)-1]; id++ {
					if !slices.Contains(ids, id) {
						t.Fatalf("round %d: manifest %d is gone, the mark is %d", round, id, mark)
					}
				}
				if mark > 0 {
					raised++
				}
			}
			if raised < 8 {
				t.Errorf("the mark was set in %d of 12 rounds", raised)
			}
			shows(t, "to the writer", theirs(t, p.Op("scan", "db")), acked)
			p.Kill()
			must(t, environ(servers.S3Env()), "slatedb", "copy", "--bucket", url, "db", "--to", url, "--to-root", "twin")
			next := peers.Start(t, release, env)
			for _, root := range []string{"db", "twin"} {
				next.Open(root)
				shows(t, root, theirs(t, next.Op("scan", root)), acked)
				next.Op("close", root)
				must(t, environ(servers.S3Env()), "slatedb", "verify", "--bucket", url, root, "--checksums")
			}
		})
	}
}
