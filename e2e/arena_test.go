//go:build e2e

package e2e

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/quarry-db/quarry/e2e/peers"
	"github.com/quarry-db/quarry/pkg/bucket"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

// arena is a database that our writer and the real ones write in turn, and what
// was acknowledged to either.
type arena struct {
	t     *testing.T
	b     *bucket.Bucket
	env   []string // of peers, for the same store
	root  string
	acked model
	// The one batch that was under way when a writer was killed; nil: none.
	// It is there whole, or not at all.
	doubt changes
	peers map[string]*peers.Peer
}

// changes are one batch: key to value, nil for a delete.
type changes map[string]*string

func (c changes) in(m model) model {
	m = maps.Clone(m)
	for k, v := range c {
		if v == nil {
			delete(m, k)
		} else {
			m[k] = *v
		}
	}
	return m
}

func (c changes) batch() *slatedb.Batch {
	var b slatedb.Batch
	for k, v := range c {
		if v == nil {
			b.Delete([]byte(k))
		} else {
			b.Put([]byte(k), []byte(*v))
		}
	}
	return &b
}

func (c changes) rows() map[string]any {
	rows := map[string]any{}
	for k, v := range c {
		if v == nil {
			rows[hex.EncodeToString([]byte(k))] = nil
		} else {
			rows[hex.EncodeToString([]byte(k))] = hex.EncodeToString([]byte(*v))
		}
	}
	return rows
}

// some returns a batch of random puts and deletes of few keys, some of them
// binary, some unlike all others.
func some(rng *rand.Rand, size int) changes {
	c := changes{}
	for range 1 + rng.IntN(size) {
		k := fmt.Sprintf("k%04d", rng.IntN(300))
		if rng.IntN(12) == 0 {
			k = strings.Repeat("\x00", 1+rng.IntN(3)) + k
		}
		if rng.IntN(5) == 0 {
			c[k] = nil
			continue
		}
		v := make([]byte, rng.IntN(200))
		for i := range v {
			v[i] = byte(rng.UintN(256))
		}
		c[k] = new(string(v))
	}
	return c
}

// folderArena is one on a folder.
func folderArena(t *testing.T, root string) *arena {
	t.Helper()
	folder := t.TempDir()
	b, err := bucket.Open(t.Context(), "file://"+folder)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return &arena{t: t, b: b, env: peers.Local(folder), root: root, acked: model{}, peers: map[string]*peers.Peer{}}
}

// at is another database of the same store.
func (a *arena) at(root string) *arena {
	c := *a
	c.root, c.acked, c.doubt = root, model{}, nil
	return &c
}

// peer is the process of the version, started when there is none.
func (a *arena) peer(version string) *peers.Peer {
	a.t.Helper()
	if a.peers[version] == nil {
		a.peers[version] = peers.Start(a.t, version, a.env)
	}
	return a.peers[version]
}

// kill ends the process of the version as a crash does.
func (a *arena) kill(version string) {
	if p := a.peers[version]; p != nil {
		p.Kill()
		delete(a.peers, version)
	}
}

// ours opens our writer.
func (a *arena) ours(o slatedb.Options) *slatedb.Writer {
	a.t.Helper()
	w, err := slatedb.Open(a.t.Context(), a.b, a.root, o)
	if err != nil {
		a.t.Fatalf("open %s: %v", a.root, err)
	}
	a.t.Cleanup(w.Abandon)
	return w
}

// theirs opens the real writer of the version.
func (a *arena) theirs(version string, options ...string) *peers.Peer {
	a.t.Helper()
	p := a.peer(version)
	op := map[string]any{"op": "open", "root": a.root}
	for _, o := range options {
		op[o] = true
	}
	p.Do(op)
	return p
}

// write is a durable batch of ours.
func (a *arena) write(w *slatedb.Writer, c changes) {
	a.t.Helper()
	if _, err := w.Write(a.t.Context(), c.batch()); err != nil {
		a.t.Fatalf("write: %v", err)
	}
	a.acked = c.in(a.acked)
}

// put is a durable batch of theirs.
func (a *arena) put(p *peers.Peer, c changes) {
	a.t.Helper()
	p.Do(map[string]any{"op": "put", "root": a.root, "rows": c.rows()})
	a.acked = c.in(a.acked)
}

// is compares rows with what was acknowledged. A batch that was in doubt is
// none any more afterwards.
func (a *arena) is(when string, got model) {
	a.t.Helper()
	if a.doubt != nil {
		if with := a.doubt.in(a.acked); maps.Equal(got, with) {
			a.acked = with
		}
		a.doubt = nil
	}
	if !maps.Equal(got, a.acked) {
		a.t.Fatalf("%s: %d rows, %d were acknowledged; first difference: %s", when, len(got), len(a.acked), differ(got, a.acked))
	}
}

func scan(t testing.TB, when string, r *slatedb.Reader) model {
	t.Helper()
	got := model{}
	for e, err := range r.Scan(t.Context(), nil, nil) {
		if err != nil {
			t.Fatalf("%s: scan: %v", when, err)
		}
		got[string(e.Key)] = string(e.Value)
	}
	return got
}

// said is the rows of an answer.
func said(answer peers.Answer) model {
	got := model{}
	for _, kv := range answer.Rows {
		k, _ := hex.DecodeString(kv[0])
		v, _ := hex.DecodeString(kv[1])
		got[string(k)] = string(v)
	}
	return got
}

// weRead compares what our reader and our verification see.
func (a *arena) weRead(when string) {
	a.t.Helper()
	when = a.root + ", " + when + ", read by us"
	r, err := slatedb.OpenReader(a.t.Context(), a.b, a.root, slatedb.ReaderOptions{})
	if err != nil {
		a.t.Fatalf("%s: %v", when, err)
	}
	a.is(when, scan(a.t, when, r))
	for i := 0; i < 300; i += 7 {
		k := fmt.Sprintf("k%04d", i)
		e, err := r.Get(a.t.Context(), []byte(k))
		want, there := a.acked[k]
		if there && (err != nil || string(e.Value) != want) || !there && !errors.Is(err, fs.ErrNotExist) {
			a.t.Fatalf("%s: get %s: %v", when, k, err)
		}
	}
	rep, err := slatedb.Verify(a.t.Context(), a.b, a.root, slatedb.VerifyOptions{Checksums: true})
	if err != nil || !rep.OK() {
		a.t.Fatalf("%s: verify: %v %v", when, err, rep.Findings)
	}
}

// theyRead compares what a real process sees: its writer if one is open at the
// root, else a reader. All keys are also read one by one.
func (a *arena) theyRead(when, version string) {
	a.t.Helper()
	when = a.root + ", " + when + ", read by SlateDB " + version
	p := a.peer(version)
	a.is(when, said(p.Op("scan", a.root)))
	keys := slices.Sorted(maps.Keys(a.acked))
	asked := []string{hex.EncodeToString([]byte("absent")), hex.EncodeToString([]byte("k"))}
	for i, k := range keys {
		if len(keys) < 400 || i%(len(keys)/200) == 0 {
			asked = append(asked, hex.EncodeToString([]byte(k)))
		}
	}
	values := p.Do(map[string]any{"op": "get", "root": a.root, "keys": asked}).Values
	for i, v := range values {
		k, _ := hex.DecodeString(asked[i])
		want, there := a.acked[string(k)]
		if there != (v != nil) || there && *v != hex.EncodeToString([]byte(want)) {
			a.t.Fatalf("%s: get of %q is wrong (there: %v)", when, k, v != nil)
		}
	}
}

// head is the newest manifest.
func (a *arena) head() *slatedb.Head {
	a.t.Helper()
	h, err := slatedb.Latest(a.t.Context(), a.b, a.root)
	if err != nil {
		a.t.Fatal(err)
	}
	return h
}

// wal lists the ids of the WAL objects.
func (a *arena) wal() []uint64 {
	a.t.Helper()
	objects, _, err := a.b.List(a.t.Context(), a.root+"/wal/")
	if err != nil {
		a.t.Fatal(err)
	}
	var ids []uint64
	for _, o := range objects {
		var id uint64
		if _, err := fmt.Sscanf(filepath.Base(o.Key), "%d.sst", &id); err != nil {
			a.t.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}
