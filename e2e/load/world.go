package load

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// What exists is the same for every seed: the i-th slate of a region always
// has the same name, kind and owner. Names are made, not kept.

var teams = []string{
	"payments", "ledger", "search", "checkout", "identity", "fraud", "catalogue", "pricing", "shipping", "returns",
	"support", "growth", "ads", "billing", "risk", "mail", "media", "video", "maps", "routing", "fleet", "telemetry",
	"alerts", "audit", "archive", "labs", "games", "social", "chat", "voice", "docs", "forms", "sheets", "calendar",
	"storage", "compute", "network", "edge", "data", "platform",
}

var things = []string{"orders", "events", "users", "sessions", "carts", "prices", "traces", "metrics", "vectors", "jobs", "stock", "offers", "clicks", "invoices"}

// kinds of a fleet, as often as they are found in it.
var kinds = weighted[catalog.Kind]{
	{35, catalog.KindLog}, {25, catalog.KindKeyValue}, {15, catalog.KindTimeseries}, {10, catalog.KindSnapshots},
	{5, catalog.KindVector}, {5, catalog.KindBuffer}, {5, catalog.KindSlateDB},
}

var envs = weighted[string]{{70, "prod"}, {20, "staging"}, {10, "dev"}}

type weighted[T any] []struct {
	percent uint64
	value   T
}

func (w weighted[T]) pick(h uint64) T {
	n := h % 100
	for _, x := range w {
		if n < x.percent {
			return x.value
		}
		n -= x.percent
	}
	return w[len(w)-1].value
}

// mix scatters the bits of a number (splitmix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Salts keep the properties of one slate independent of each other.
const (
	ofTeam = iota + 1
	ofThing
	ofKind
	ofEnv
	ofShared
	ofOwner
	ofCenter
	ofPilot
	ofReader
	ofPoint
	ofStart
	ofPresence
)

func trait(i int, salt uint64) uint64 { return mix(mix(uint64(i)) ^ salt<<56) }

// teamOf is skewed: the first teams have many slates, the last few.
func teamOf(i int) string {
	h := trait(i, ofTeam)
	n := uint64(len(teams))
	return teams[min(h%n, h>>32%n)]
}

// shared says that the i-th slates of all regions have one name: the same
// database in several regions.
func shared(i int) bool { return trait(i, ofShared)%10 < 6 }

// name of the i-th slate of a region, which is also its root.
func name(region string, i int) string {
	thing := things[trait(i, ofThing)%uint64(len(things))]
	if shared(i) {
		return fmt.Sprintf("dbs/%s/%s-%07d", teamOf(i), thing, i)
	}
	return fmt.Sprintf("local/%s/%s/%s-%07d", region, teamOf(i), thing, i)
}

// registered says that an owner declared the i-th slate.
func registered(i int) bool { return trait(i, ofOwner)%10 < 7 }

func ownerOf(i int) string { return teamOf(i) + "-oncall" }

// Labels has what many slates say and what nearly none does: one in ten
// thousand is a pilot.
func labels(i int) map[string]string {
	l := map[string]string{
		"team": teamOf(i), "env": envs.pick(trait(i, ofEnv)),
		"cost-center": fmt.Sprintf("cc-%04d", trait(i, ofCenter)%1000),
	}
	if trait(i, ofPilot)%10_000 < 1 || i == 17 {
		l["pilot"] = "yes"
	}
	return l
}

// id is a ULID that is always the same for the same words.
func id(at time.Time, words ...string) string {
	h := sha256.New()
	for _, w := range words {
		h.Write(binary.AppendUvarint(nil, uint64(len(w))))
		h.Write([]byte(w))
	}
	var u ulid.ULID
	copy(u[6:], h.Sum(nil))
	_ = u.SetTime(ulid.Timestamp(at)) // refuses only times after the year 10889
	return u.String()
}

// BucketID is the incarnation of a region's bucket, which does not exist. It
// goes by the region alone, so that a later run is the same bucket.
func BucketID(region string) string {
	s := sha256.Sum256([]byte("quarry loadgen " + region))
	s[6], s[8] = s[6]&0x0f|0x40, s[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", s[:4], s[4:6], s[6:8], s[8:10], s[10:16])
}
