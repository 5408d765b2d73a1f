//go:build e2e

package e2e

import (
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/quarry-db/quarry/e2e/peers"
	"github.com/quarry-db/quarry/e2e/servers"
	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

// life is one database whose writers are ours and real ones, in any order.
type life struct {
	*arena
	rng     *rand.Rand
	url     string
	ourEnv  []string
	writers []string // versions, ours among them
	writer  *peers.Peer
	// compacts: however many tables it makes, it goes on.
	compacts bool
	short    model // rows that live for a millisecond, as they were last written
	pins     []pin
	count    map[string]int
	story    []string // the last steps
}

// pin is a checkpoint and what it must show.
type pin struct {
	id   string
	rows model
}

func (l *life) tell(format string, args ...any) {
	l.story = append(l.story, fmt.Sprintf(format, args...))
	l.story = l.story[max(0, len(l.story)-25):]
}

func (l *life) start(version string) *peers.Peer {
	l.t.Helper()
	if version == peers.Ours {
		return peers.StartOurs(l.t, l.url, l.ourEnv)
	}
	return peers.Start(l.t, version, l.env)
}

// open lets another writer take over. The one before was closed or killed, or
// is alive and is fenced.
func (l *life) open() {
	l.t.Helper()
	version := l.writers[l.rng.IntN(len(l.writers))]
	if l.rng.IntN(2) == 0 {
		version = peers.Ours
	}
	op := map[string]any{"op": "open", "root": l.root, "compact": l.rng.IntN(2) == 0, "codec": l.rng.IntN(5)}
	if version != peers.Ours {
		op["gc"] = l.rng.IntN(2) == 0
		op["poll"] = poll.String()
		op["compact"] = op["compact"] == true || l.crowded(3)
	}
	l.tell("open %v", op)
	p := l.start(version)
	p.Do(op)
	if old := l.writer; old != nil {
		l.count["fence"]++
		answer := old.Try(map[string]any{"op": "put", "root": l.root, "rows": map[string]any{"00": "00"}})
		if !strings.Contains(answer.Error, "newer DB client") && !strings.Contains(answer.Error, "another writer has taken over") {
			l.t.Fatalf("%s wrote after %s had taken over: %q", old.Version, version, answer.Error)
		}
		old.Kill()
	}
	l.writer, l.compacts = p, version == peers.Ours || op["compact"] == true
	l.count["open by "+version]++
	l.check("opened by "+version, l.writer)
}

// poll is how often a real writer reads the manifest.
const poll = 100 * time.Millisecond

// settled waits until a real writer has seen what its compactor did. A writer of
// 0.16 or 0.17 that still counts eight tables in L0, when a reader of 0.15 or
// earlier writes the manifest, flushes never again (docs/slatedb-compat.md).
func (l *life) settled() bool {
	if l.writer.Version == peers.Ours {
		return true
	}
	if l.crowded(7) {
		return false
	}
	time.Sleep(3 * poll)
	return !l.crowded(7)
}

// crowded reports whether there are n tables in L0. At eight a real writer
// without a compactor flushes and closes no more, and does not say why.
func (l *life) crowded(n int) bool {
	h, err := slatedb.Latest(l.t.Context(), l.b, l.root)
	return err == nil && len(h.Manifest.L0) >= n
}

// check compares what a process sees, its open writer or a reader.
func (l *life) check(when string, p *peers.Peer) {
	l.t.Helper()
	got := said(p.Op("scan", l.root))
	maps.DeleteFunc(got, func(k, v string) bool {
		if !strings.HasPrefix(k, "short") {
			return false
		}
		// Whether it is still there is between the flushes and the clocks;
		// but no other value than the last.
		if want, ok := l.short[k]; !ok || v != want && want != "" {
			l.t.Fatalf("%s: %q is %q, it was last %q", when, k, v, want)
		}
		return true
	})
	l.is(when, got)
}

// end closes the writer or kills it, perhaps in the middle of a batch.
func (l *life) end() {
	l.t.Helper()
	p := l.writer
	l.writer = nil
	how := l.rng.IntN(4)
	if !l.compacts && l.crowded(6) {
		how = 1
	}
	switch how {
	case 0:
		l.tell("close")
		p.Op("close", l.root)
		p.Kill()
		l.count["close"]++
	case 1:
		l.tell("kill")
		p.Kill()
		l.count["kill"]++
	default:
		c := some(l.rng, 30)
		op := map[string]any{"op": "put", "root": l.root, "rows": c.rows()}
		after := time.Duration(l.rng.IntN(1000)) * time.Microsecond
		if p.Version != peers.Ours {
			after = time.Duration(l.rng.IntN(130)) * time.Millisecond // they wait for 100 ms
		}
		answer, answered := p.Hurry(op, after)
		l.tell("kill in a batch after %v: answered %v", after, answered)
		switch {
		case answer.Error != "":
			l.t.Fatalf("put: %s", answer.Error)
		case answered:
			l.acked = c.in(l.acked)
		default:
			l.doubt = c
		}
		l.count["kill in a batch"]++
	}
}

// step does one thing of those that a writer or somebody beside it does.
func (l *life) step() {
	l.t.Helper()
	ours := func(op map[string]any) peers.Answer {
		p := l.start(peers.Ours)
		defer p.Kill()
		op["root"] = l.root
		return p.Do(op)
	}
	switch n := l.rng.IntN(100); {
	case n < 55:
		l.tell("batch")
		l.put(l.writer, some(l.rng, 40))
		l.count["batch"]++
	case n < 63:
		k, v := fmt.Sprintf("short%d", l.rng.IntN(5)), strconv.Itoa(l.rng.IntN(1000))
		enc := hex.EncodeToString([]byte(k))
		l.tell("short-lived %s", k)
		l.short[k] = v
		l.writer.Do(map[string]any{"op": "put", "root": l.root, "rows": map[string]any{enc: hex.EncodeToString([]byte(v))}, "ttl": map[string]any{enc: 1}})
		l.count["short-lived"]++
	case n < 68:
		c := some(l.rng, 10)
		ttl := map[string]any{}
		for k := range c.rows() {
			ttl[k] = 3_600_000
		}
		l.tell("long-lived")
		l.writer.Do(map[string]any{"op": "put", "root": l.root, "rows": c.rows(), "ttl": ttl})
		l.acked = c.in(l.acked)
		l.count["long-lived"]++
	case n < 80 && (l.compacts || !l.crowded(6)):
		l.tell("flush")
		l.writer.Op("l0", l.root)
		l.count["flush"]++
	case n < 85:
		l.tell("checkpoint")
		a := ours(map[string]any{"op": "checkpoint", "name": fmt.Sprint("pin ", l.count["checkpoint"])})
		l.pins = append(l.pins, pin{a.ID, maps.Clone(l.acked)})
		l.count["checkpoint"]++
	case n < 92 && len(l.pins) > 0:
		i := l.rng.IntN(len(l.pins))
		version := l.writers[l.rng.IntN(len(l.writers))]
		l.tell("read checkpoint %s with %s", l.pins[i].id, version)
		p := l.start(version)
		got := said(p.Do(map[string]any{"op": "scan", "root": l.root, "checkpoint": l.pins[i].id}))
		p.Kill()
		maps.DeleteFunc(got, func(k, _ string) bool { return strings.HasPrefix(k, "short") })
		if !maps.Equal(got, l.pins[i].rows) {
			l.t.Fatalf("checkpoint %s read by %s: %d rows, %d were pinned; first difference: %s", l.pins[i].id, version, len(got), len(l.pins[i].rows), differ(got, l.pins[i].rows))
		}
		if l.rng.IntN(2) == 0 {
			ours(map[string]any{"op": "uncheckpoint", "checkpoint": l.pins[i].id})
			l.pins = slices.Delete(l.pins, i, i+1)
		}
		l.count["checkpoint read"]++
	case n < 97:
		l.tell("collect")
		ours(map[string]any{"op": "gc"})
		l.count["collection"]++
	default:
		version := l.writers[l.rng.IntN(len(l.writers))]
		if !l.settled() {
			return
		}
		l.tell("read by %s", version)
		p := l.start(version)
		l.check("read beside the writer by "+version, p)
		p.Kill()
	}
}

// live goes on until the time is over.
func (l *life) live(until time.Time) {
	defer func() {
		if l.t.Failed() {
			l.t.Logf("the last steps: %s", strings.Join(l.story, "; "))
		}
	}()
	for time.Now().Before(until) {
		l.open()
		for range 1 + l.rng.IntN(14) {
			l.step()
		}
		l.check("before the end", l.writer)
		if l.rng.IntN(4) > 0 {
			l.end()
		}
	}
	if l.writer != nil {
		l.writer.Kill()
	}
	for _, version := range l.writers {
		p := l.start(version)
		l.check("in the end, by "+version, p)
		p.Kill()
	}
}

// A seeded mix of everything alternates between our writer and the real ones on
// one database: batches, rows that expire, flushes, checkpoints, reopening,
// SIGKILL, fencing, compaction, and collection at an age of one second, on a
// folder and on an S3 server. After each change of writers the full scans are
// equal and no acknowledged write is missing. QUARRY_SEED repeats a run as far
// as the clocks do. Without it the 30 seconds of CI always take the same seed,
// for what the real cores do to each other must not stop us; QUARRY_SOAK=1 is
// 10 minutes of a new one.
func TestInterop_RandomLives(t *testing.T) {
	long, seed := 30*time.Second, uint64(1795267715281950802)
	if os.Getenv("QUARRY_SOAK") != "" {
		long, seed = 10*time.Minute, uint64(time.Now().UnixNano())
	}
	if s := os.Getenv("QUARRY_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("QUARRY_SEED=%d", seed)
	s3 := servers.S3(t)
	count := map[string]int{}
	each := long / time.Duration(2*len(companies))
	for i, company := range companies {
		for j, store := range []string{"folder", "s3"} {
			ok := t.Run(fmt.Sprintf("%s/%s", store, company[0]), func(t *testing.T) {
				a := folderArena(t, "dbs/life")
				l := &life{
					arena: a, rng: rand.New(rand.NewPCG(seed, uint64(2*i+j))), writers: append([]string{peers.Ours}, company...),
					short: model{}, count: count, url: a.b.URL(),
				}
				if store == "s3" {
					name := fmt.Sprintf("life%d", i)
					l.url = s3.Make(t, name)
					b, err := bucket.Open(t.Context(), l.url)
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { b.Close() })
					env := servers.S3Env()
					l.b, l.env = b, peers.S3(s3.Endpoint(), name, env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"])
					for k, v := range env {
						l.ourEnv = append(l.ourEnv, k+"="+v)
					}
				}
				l.live(time.Now().Add(each))
			})
			if !ok {
				return
			}
		}
	}
	for _, what := range slices.Sorted(maps.Keys(count)) {
		t.Logf("%5d %s", count[what], what)
	}
}
