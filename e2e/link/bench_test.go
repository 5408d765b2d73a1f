package link

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/quarry-db/quarry/hub/session"
	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// throwaway is a certificate of this run, for both ends.
func throwaway(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: k}}, NextProtos: []string{"h2"}},
		&tls.Config{RootCAs: pool}
}

// sink is a hub that counts and acknowledges, and does nothing else: what is
// left is the link.
type sink struct {
	srv                  *session.Server
	facts, moves, deltas atomic.Int64
	snapshots            atomic.Int64
}

func (s *sink) Deliver(_ context.Context, e state.Event) error {
	switch e := e.(type) {
	case state.Hello:
		s.srv.Post(e.Session, state.Welcome{Reporter: true, Beat: 5 * time.Second})
	case state.Delta:
		s.facts.Add(int64(len(e.Facts)))
		s.deltas.Add(1)
		s.srv.Post(e.Session, state.Ack{Applied: e.Upto})
	case state.Moves:
		s.moves.Add(int64(len(e.Moves)))
		s.deltas.Add(1)
		s.srv.Post(e.Session, state.Ack{Applied: e.Upto})
	case state.Snapshot:
		s.snapshots.Add(1)
		s.facts.Add(int64(e.Count()))
		s.srv.Post(e.Session, state.Ack{Applied: e.Upto})
	}
	return nil
}

// startSink serves over TLS until the test ends.
func startSink(t testing.TB) (s *sink, addr string, client *tls.Config) {
	server, client := throwaway(t)
	s = &sink{}
	s.srv = session.New(session.Options{Inbox: s, TLS: server, Every: -1})
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.srv.Run(ctx, lis); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return s, lis.Addr().String(), client
}

// cpu is what this process has used, in both ends and the kernel.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// typical is a placement as real ones are.
func typical(i uint64) catalog.Fact {
	p := func(v uint64) *uint64 { return &v }
	root := fmt.Sprintf("prod/commerce/orders-%06d", i)
	yes := true
	return catalog.Fact{Kind: catalog.FactPlacement, Key: root, Sighting: &catalog.Sighting{
		Slate: root, Root: root, Kind: catalog.KindLog, KindFrom: "extractor", Seen: catalog.SeenLive,
		Incarnation: fmt.Sprintf("01J9ZV7Q4Y8K3M5N6P7R%06d", i), IncarnationKept: true, Lineage: fmt.Sprintf("01J9ZV7Q4Y8K3M5N6P7R%06d", i),
		ManifestID: p(42 + i), ManifestVersion: p(2), WriterEpoch: p(3), CompactorEpoch: p(3), Initialized: &yes,
		Extractor: "opendata/log-extractor", LastL0Seq: p(1_000_000 + i), ReplayAfterWAL: p(900 + i), WALTail: p(907 + i), WALGap: p(7),
		L0Count: p(4), RunCount: p(3), SegmentCount: p(12), Compaction: "completed",
		Position: p(1_000_000 + i), PositionDomain: "log-seq", TrimmedTo: p(12), Bytes: p(3_000_000_000 + i),
		Checkpoints: []catalog.Checkpoint{},
	}}
}

// BenchmarkUpdate is the way of a change from the sighting in the agent to the
// event in the hub, over TLS on loopback, CPU of both ends: a move of five
// numbers, and a whole record.
func BenchmarkUpdate(b *testing.B) {
	const slates = 20_000
	for _, what := range []string{"move", "whole"} {
		b.Run(what, func(b *testing.B) {
			s, addr, client := startSink(b)
			o := options(addr)
			o.TLS, o.Linger = client, 50*time.Millisecond
			r, _ := startAgent(b, o)
			facts := make([]catalog.Fact, slates)
			set := func(i int) { r.Set(facts[i]) }
			for i := range facts {
				facts[i] = typical(uint64(i))
				set(i)
			}
			r.Ready()
			acked := func() bool { st := r.Status(); return st.Connected && st.Pending == 0 && st.Acked == st.Head }
			eventually(b, "the snapshot is applied", acked)
			before, sent, recs := cpu(), s.deltas.Load(), s.facts.Load()+s.moves.Load()
			began := time.Now()
			n := 0
			for b.Loop() {
				// As many as the link takes, and no more: what waits is superseded.
				if n%2000 == 0 {
					for r.Status().Pending > 8000 {
						time.Sleep(time.Millisecond)
					}
				}
				i := n * 7919 % slates
				n++
				x := facts[i].Sighting
				*x.ManifestID++
				*x.LastL0Seq += 100
				*x.WALTail += 3
				*x.Position += 100
				*x.Bytes += 1 << 20
				if what == "whole" {
					*x.WriterEpoch++
				}
				set(i)
			}
			eventually(b, "all is acknowledged", acked)
			took := cpu() - before
			got := s.facts.Load() + s.moves.Load() - recs
			b.ReportMetric(float64(took.Nanoseconds())/float64(got), "cpu-ns/update")
			b.ReportMetric(float64(got)/float64(max(s.deltas.Load()-sent, 1)), "updates/frame")
			b.ReportMetric(float64(got)/time.Since(began).Seconds(), "updates/s")
		})
	}
}

// BenchmarkSnapshot is the way of a whole region, from a fresh agent to a hub
// that has it all, over TLS on loopback.
func BenchmarkSnapshot(b *testing.B) {
	const rows = 10_000
	_, addr, client := startSink(b)
	start := uint64(1000)
	before := cpu()
	for b.Loop() {
		start++
		o := options(addr)
		o.Start, o.TLS = start, client
		r, stop := startAgent(b, o)
		for i := range uint64(rows) {
			r.Set(typical(i))
		}
		r.Ready()
		for !r.Status().Connected || r.Status().Acked.Counter < rows {
			time.Sleep(time.Millisecond)
		}
		stop()
	}
	b.ReportMetric(float64((cpu()-before).Nanoseconds())/float64(b.N*rows), "cpu-ns/row")
	b.ReportMetric(float64(b.N*rows)/b.Elapsed().Seconds(), "rows/s")
}
