package catalog

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// What owners drop is anybody's: a bad object is refused with a reason that
// names it, and a good one means what it says.
func TestDeclarationsAreCheckedOnTheWayIn(t *testing.T) {
	good := `{"version":1,"action":"register","slate":"orders","root":"dbs/orders","kind":"log","owner":"team-a","labels":{"tier":"gold"},"at":"2026-11-21T00:00:00Z","from_the_future":true}`
	r, err := DecodeRegistration(InboxPrefix+"01ABC.json", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if r.ID != "01ABC" || r.Slate != "orders" || r.Root != "dbs/orders" || r.Kind != KindLog || r.Labels["tier"] != "gold" {
		t.Errorf("read as %+v", r)
	}
	for name, bad := range map[string]string{
		"another version":     strings.Replace(good, `"version":1`, `"version":2`, 1),
		"no action":           strings.Replace(good, `"register"`, `""`, 1),
		"an unknown kind":     strings.Replace(good, `"log"`, `"blob"`, 1),
		"a name that climbs":  strings.Replace(good, `"orders"`, `"../orders"`, 1),
		"a root that climbs":  strings.Replace(good, `"dbs/orders"`, `"dbs/../../etc"`, 1),
		"an empty segment":    strings.Replace(good, `"dbs/orders"`, `"dbs//orders"`, 1),
		"a control character": strings.Replace(good, `"team-a"`, `"team\u0007"`, 1),
		"two objects":         good + good,
		"no JSON":             "register orders",
		"not UTF-8":           "{\"version\":1,\"slate\":\"\xff\"}",
		"too large":           `{"version":1,"slate":"` + strings.Repeat("x", MaxDeclared) + `"}`,
		"too long a label":    strings.Replace(good, `"gold"`, `"`+strings.Repeat("g", 257)+`"`, 1),
		"nothing":             "",
	} {
		if _, err := DecodeRegistration(InboxPrefix+"x.json", []byte(bad)); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), InboxPrefix+"x.json") {
			t.Errorf("%s: %v, expected a refusal that names the object", name, err)
		}
	}
	if _, err := DecodeLease("k", []byte(`{"version":1,"slate":"a","role":"boss","id":"1"}`), time.Time{}); !errors.Is(err, ErrInvalid) {
		t.Errorf("a lease of an unknown role: %v", err)
	}
	if _, err := DecodeRegion([]byte(`{"version":1,"region":"eu"}`)); !errors.Is(err, ErrInvalid) {
		t.Errorf("a region without a bucket id: %v", err)
	}
}

// A placement's part of its slate's row carries what the placement says.
func TestASlatesRowSaysWhatThePlacementSays(t *testing.T) {
	epoch, id := uint64(7), uint64(42)
	p := Placement{Region: "eu", State: StateLive, Registered: true, Owner: "team-a"}
	p.Root, p.WriterEpoch, p.ManifestID = "dbs/orders", &epoch, &id
	in := p.In()
	if in.Region != "eu" || in.Root != "dbs/orders" || *in.WriterEpoch != 7 || *in.ManifestID != 42 || !in.Registered || in.Owner != "team-a" || in.State != StateLive {
		t.Errorf("%+v", in)
	}
}

func FuzzDeclared(f *testing.F) {
	f.Add([]byte(`{"version":1,"action":"register","slate":"orders","root":"dbs/orders","labels":{"a":"b"}}`))
	f.Add([]byte(`{"version":1,"slate":"a","role":"reader","id":"1","holder":"pod","ttl_seconds":30}`))
	f.Add([]byte(`{"version":1,"region":"eu","bucket":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := DecodeRegistration("inbox/x.json", b); err == nil {
			if err := r.Validate(); err != nil {
				t.Errorf("accepted what Validate refuses: %v", err)
			}
			if strings.Contains(r.Slate, "..") && CheckName(r.Slate) != nil {
				t.Errorf("accepted the name %q", r.Slate)
			}
		}
		if l, err := DecodeLease("leases/x.json", b, time.Time{}); err == nil && (l.ID == "" || l.Slate == "") {
			t.Errorf("accepted a lease of nobody: %+v", l)
		}
		if d, err := DecodeRegion(b); err == nil && (d.Region == "" || d.Bucket == "") {
			t.Errorf("accepted a descriptor of nowhere: %+v", d)
		}
	})
}
