//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quarry-db/quarry/e2e/peers"
)

type dump struct {
	Revision uint64 `json:"revision"`
	Items    []row  `json:"items"`
}

// row is one of the catalog.
type row struct {
	Path     string          `json:"path"`
	Revision uint64          `json:"revision"`
	Value    json.RawMessage `json:"value"`
}

func dumped(t testing.TB, url string) (d dump) {
	t.Helper()
	if err := json.Unmarshal([]byte(must(t, nil, "catalog", "dump", "--bucket", url, "-o", "json")), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// Registrants go on while the agent that holds the region's duty is killed
// again and again: each registration is in the catalog exactly once, the inbox
// is empty, revisions only grew. The hub is stopped then, and the catalog is
// read all the same, by us and by the real SlateDB, which see the same rows.
func TestOD3_OD4_TheCatalogHoldsEachRegistrationOnceWhoeverIsKilled(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	dir := t.TempDir()
	url := "file://" + dir
	h := startHub(t, "eu")
	agent := startAgent(t, h, "eu", url, nil)
	kills := 2
	if os.Getenv("QUARRY_SOAK") != "" {
		kills = 8
	}
	last := uint64(0)
	var want int
	register := func(n int) {
		var wg sync.WaitGroup
		for range n {
			slate := fmt.Sprintf("slate-%03d", want)
			want++
			wg.Go(func() {
				if o := quarry(t, nil, "catalog", "register", "--bucket", url, "--name", slate, "--root", "dbs/"+slate, "--kind", "log", "--owner", "team", "--label", "a=b"); o.code != 0 {
					t.Errorf("register %s: %s", slate, o.stderr)
				}
			})
		}
		wg.Wait()
	}
	folded := func() error {
		left, _ := filepath.Glob(filepath.Join(dir, ".quarry", "inbox", "*.json"))
		d := dumped(t, url)
		if d.Revision < last {
			t.Fatalf("revision %d after %d", d.Revision, last)
		}
		last = d.Revision
		if len(left) > 0 || last == 0 {
			return fmt.Errorf("%d in the inbox at revision %d", len(left), last)
		}
		return nil
	}
	register(50)
	eventually(t, 40*time.Second, "the inbox is folded", folded)
	for range kills {
		register(5)
		time.Sleep(time.Duration(rng.IntN(6000)) * time.Millisecond)
		agent.kill()
		before := last
		agent = startAgent(t, h, "eu", url, nil)
		eventually(t, 80*time.Second, "the next holder folds", folded)
		if last < before {
			t.Fatalf("revision %d after %d", last, before)
		}
	}
	o := h.cli(t, "get", "regions", "-o", "json")
	if o.code != 0 {
		t.Fatal(errors.New(o.stderr))
	}
	agent.stop()
	h.stop()

	ours := dumped(t, url)
	seen := map[string]int{}
	for _, row := range ours.Items {
		if !strings.HasPrefix(row.Path, "slate/") {
			continue
		}
		var r struct{ Slate string }
		if err := json.Unmarshal(row.Value, &r); err != nil {
			t.Fatal(err)
		}
		seen[r.Slate]++
	}
	if len(seen) != want {
		t.Errorf("%d slates in the catalog, %d were registered", len(seen), want)
	}
	for slate, n := range seen {
		if n != 1 {
			t.Errorf("%s is there %d times", slate, n)
		}
	}
	versions := []string{peers.Versions[len(peers.Versions)-1]}
	if os.Getenv("QUARRY_SOAK") != "" {
		versions = peers.Versions
	}
	for _, version := range versions {
		agree(t, version, dir, ours)
	}
}
