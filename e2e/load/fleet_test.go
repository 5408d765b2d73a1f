package load

import (
	"crypto/sha256"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/wire"
)

func fleet(t testing.TB, slates int, seed uint64, regions ...string) *Fleet {
	t.Helper()
	f, err := New(Options{Regions: regions, Slates: slates, Seed: seed, Epoch: 1000})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// print is a hash of all that a fleet says, now and in its next changes.
func print(t testing.TB, f *Fleet, changes int) [32]byte {
	h := sha256.New()
	e := json.NewEncoder(h)
	for r := range f.Regions() {
		for fact := range f.Facts(r) {
			if err := e.Encode(fact); err != nil {
				t.Fatal(err)
			}
		}
	}
	for range changes {
		if err := e.Encode(f.Next()); err != nil {
			t.Fatal(err)
		}
	}
	return [32]byte(h.Sum(nil))
}

func TestTheSameSeedIsTheSameFleet(t *testing.T) {
	one := print(t, fleet(t, 300, 7, "eu", "us"), 5000)
	if two := print(t, fleet(t, 300, 7, "eu", "us"), 5000); one != two {
		t.Error("two fleets of one seed differ")
	}
	if other := print(t, fleet(t, 300, 8, "eu", "us"), 5000); one == other {
		t.Error("two seeds give one fleet")
	}
}

// Every fact must pass the checks of the wire: what the hub quarantines loads
// nobody.
func TestEveryFactTravels(t *testing.T) {
	f := fleet(t, 2000, 1, "eu", "us", "ap")
	check := func(fact catalog.Fact) {
		t.Helper()
		rec, err := wire.Encode(fact)
		if err != nil {
			t.Fatal(err)
		}
		rec.Revision = 1
		if _, err := wire.Decode(1, rec); err != nil {
			t.Fatal(err)
		}
	}
	keys := map[string]bool{}
	for r, region := range f.Regions() {
		for fact := range f.Facts(r) {
			check(fact)
			k := region + string(rune(fact.Kind)) + fact.Key
			if keys[k] {
				t.Fatalf("two facts with the key %q", k)
			}
			keys[k] = true
			if fact.Registration != nil {
				if err := fact.Registration.Validate(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for range 20_000 {
		check(f.Next().Fact)
	}
}

// Ninety, nine and one of a hundred, what exists stays about as many, and
// within one incarnation nothing goes back.
func TestTheMixIsWhatItSaysAndHistoryGoesForward(t *testing.T) {
	const n = 200_000
	f := fleet(t, 500, 3, "eu", "us")
	type last struct {
		incarnation        string
		position, manifest uint64
	}
	before := map[string]last{}
	counts := map[Mix]int{}
	for range n {
		c := f.Next()
		counts[c.Mix]++
		s := c.Fact.Sighting
		now := last{incarnation: s.Incarnation, position: *s.Position}
		if s.ManifestID != nil {
			now.manifest = *s.ManifestID
		}
		k := f.Regions()[c.Region] + s.Root
		was, known := before[k]
		if known && was.incarnation == now.incarnation && (now.position < was.position || now.manifest < was.manifest) {
			t.Fatalf("%s went from %+v to %+v", k, was, now)
		}
		if known && (was.incarnation != now.incarnation) != (c.Mix == Made) {
			t.Fatalf("%s %s: incarnation %s, was %s", k, c.Mix, now.incarnation, was.incarnation)
		}
		before[k] = now
	}
	for m, want := range map[Mix]float64{Moved: .90, Taken: .09, Made: .005, Deleted: .005} {
		if got := float64(counts[m]) / n; got < want*.85 || got > want*1.15 {
			t.Errorf("%s: %.4f of all, want %.3f", m, got, want)
		}
	}
	live := 0
	for row := range f.Rows() {
		if row.State == catalog.StateLive {
			live++
		}
	}
	if live < 450*2 || f.Size() > (500+25+10)*2 {
		t.Errorf("%d live of %d after %d changes", live, f.Size(), n)
	}
}

// Some names are in all regions and some in one, owners and labels come by
// registration, and there is something rare to look for.
func TestAFleetLooksLikeOne(t *testing.T) {
	f := fleet(t, 5000, 1, "eu", "us", "ap")
	regions := map[string]int{}
	var owned, pilots, unreadable, readers int
	kindsSeen := map[catalog.Kind]int{}
	for row := range f.Rows() {
		regions[row.Slate]++
		kindsSeen[row.Kind]++
		readers += row.Readers
		if row.Owner != "" {
			owned++
		}
		if row.Labels["pilot"] == "yes" {
			pilots++
		}
		if row.State == catalog.StateUnreadable {
			unreadable++
		}
	}
	byCount := map[int]int{}
	for _, n := range regions {
		byCount[n]++
	}
	if byCount[3] < 2500 || byCount[1] < 5000 || byCount[2] > 0 {
		t.Errorf("names by number of regions: %v", byCount)
	}
	if len(kindsSeen) != len(catalog.Kinds) {
		t.Errorf("kinds %v", kindsSeen)
	}
	if owned < 10_000 || owned > 11_000 || pilots == 0 || pilots > 20 || unreadable < 30 || readers < 3000 {
		t.Errorf("%d owned, %d pilots, %d unreadable, %d readers", owned, pilots, unreadable, readers)
	}
}

func TestOptionsSayWhatIsWrong(t *testing.T) {
	for _, o := range []Options{{Slates: 1}, {Regions: []string{"a"}}, {Regions: []string{"a", "a"}, Slates: 1}, {Regions: []string{""}, Slates: 1}, {Regions: []string{"a"}, Slates: 1, Epoch: 1 << 41}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

// Against the plain way: sort and look.
func TestQuantilesAreThoseOfASortedList(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		var h Histogram
		var all []time.Duration
		for range 1 + rng.IntN(500) {
			d := time.Duration(rng.Uint64() >> (1 + rng.IntN(63)))
			h.Add(d)
			all = append(all, d)
		}
		slices.Sort(all)
		for _, q := range []float64{0, .01, .5, .9, .99, 1} {
			i := max(0, int(q*float64(len(all))+.9999999)-1)
			want, got := all[min(i, len(all)-1)], h.Quantile(q)
			if got < want || float64(got) > float64(want)*(1+1.0/16)+1 {
				t.Fatalf("q %g of %d: %d, want %d", q, len(all), got, want)
			}
		}
		if h.Max() != all[len(all)-1] || h.Count() != uint64(len(all)) {
			t.Fatal("count or max")
		}
	}
	var empty Histogram
	if empty.Quantile(.5) != 0 {
		t.Error("an empty histogram has no median")
	}
}
