package link

import (
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/wire"
	quarryv1 "github.com/quarry-db/quarry/proto/quarry/v1"
)

// T19: an agent of another make sends what no agent of ours would: the session
// stays, each bad record is told and counted, the good ones around them flow,
// and fields of a newer version count in the digests of both.
func TestPoisonOfAnotherMakeIsPutAside(t *testing.T) {
	h := startHub(t, newMirror(t), "127.0.0.1:0")
	conn, err := grpc.NewClient("passthrough:///"+h.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s, err := quarryv1.NewFederationClient(conn).Session(t.Context(), grpc.MaxCallSendMsgSize(8<<20))
	if err != nil {
		t.Fatal(err)
	}
	var number, session uint64
	say := func(f *quarryv1.AgentFrame) {
		t.Helper()
		number++
		f.Number, f.Session = number, session
		if err := s.Send(f); err != nil {
			t.Fatal(err)
		}
	}
	say(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_Hello{Hello: &quarryv1.Hello{
		MinVersion: 1, MaxVersion: 9, Region: "eu", Cluster: "k", Agent: "other", Start: 9, Generation: 9}}})
	f, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	session = f.GetWelcome().GetSession()
	if v := f.GetWelcome().GetVersion(); v != wire.MaxVersion {
		t.Errorf("version %d was chosen", v)
	}
	go func() {
		for {
			if _, err := s.Recv(); err != nil {
				return
			}
		}
	}()

	value := func(position uint64, change func([]byte) []byte) []byte {
		rec, err := wire.Encode(place("good", position))
		if err != nil {
			t.Fatal(err)
		}
		return change(rec.GetValue())
	}
	newer := func(b []byte) []byte {
		return protowire.AppendString(protowire.AppendTag(b, 4000, protowire.BytesType), "of a newer version")
	}
	recs := []*quarryv1.Record{
		{Kind: 1, Key: []byte("huge"), Revision: 1, Value: make([]byte, 100<<10)},
		{Kind: 1, Key: []byte("\xff\xfe"), Revision: 2, Value: []byte("x")},
		{Kind: 1, Key: []byte("good"), Revision: 3, Value: value(3, func(b []byte) []byte {
			return protowire.AppendString(protowire.AppendTag(b, 5, protowire.BytesType), "asleep") // seen: an unknown word
		})},
		{Kind: 60, Key: []byte("a kind of a newer version"), Revision: 4, Value: []byte("x")},
		{Kind: 1, Key: []byte("other"), Revision: 5, Value: value(5, newer)}, // says that it is another
		{Kind: 1, Key: []byte("placements are never withdrawn"), Revision: 6, Gone: []byte("bye")},
		{Kind: 1, Key: []byte("good"), Revision: 7, Value: value(7, newer)},
	}
	empty := new(catalog.Digest).Root()
	say(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_SnapshotBegin{SnapshotBegin: &quarryv1.SnapshotBegin{Empty: true, Digest: empty[:], Upto: &quarryv1.Revision{Start: 9}}}})
	say(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_SnapshotEnd{SnapshotEnd: &quarryv1.SnapshotEnd{}}})
	say(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_Delta{Delta: &quarryv1.Delta{From: &quarryv1.Revision{Start: 9}, Upto: &quarryv1.Revision{Start: 9, Counter: 7}, Records: recs}}})
	// A frame that no hub reads: it is lost, and nothing else.
	s.Send(&quarryv1.AgentFrame{Number: number, Session: session, Body: &quarryv1.AgentFrame_Delta{Delta: &quarryv1.Delta{Moves: make([]byte, 900<<10)}}})

	var d catalog.Digest
	last := map[string]*quarryv1.Record{}
	for _, r := range recs {
		last[string(r.Key)] = r
	}
	for _, r := range last {
		d.Add(wire.Sum(r))
	}
	root := d.Root()
	say(&quarryv1.AgentFrame{Body: &quarryv1.AgentFrame_Beat{Beat: &quarryv1.Beat{ReadOk: true, At: &quarryv1.Revision{Start: 9, Counter: 7}, Digest: root[:]}}})
	eventually(t, "the digests agree", func() bool { ok := false; h.do(func() { ok = h.agreed > 0 }); return ok })
	if got := h.positions(); !same(got, map[string]uint64{"good": 7}) {
		t.Errorf("the hub has %v", got)
	}
	h.do(func() {
		var said []string
		for _, q := range h.quarantined {
			said = append(said, q.Key+": "+q.Why)
		}
		all := strings.Join(said, "\n")
		for _, want := range []string{"huge: ", "not UTF-8", `seen "asleep"`, "kind 60 is not known", "its key is", "never withdrawn", "at most 262144"} {
			if !strings.Contains(all, want) {
				t.Errorf("%q is not told of:\n%s", want, all)
			}
		}
		if len(said) != 7 || h.sessions != 1 || len(h.closed) > 0 || h.mismatches > 0 {
			t.Errorf("%d quarantined, %d sessions, closed %v, %d mismatches:\n%s", len(said), h.sessions, h.closed, h.mismatches, all)
		}
		t.Logf("seed 1: %d of %d records and one frame put aside, the session stays", len(said)-1, len(recs))
	})
}
