package query

import (
	"cmp"
	"encoding/json"
	"fmt"
	"iter"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// thing is a row with a field of each kind.
type thing struct {
	Name   string             `json:"name"`
	Zone   string             `json:"zone,omitempty"`
	Size   *uint64            `json:"size"`
	Delta  int64              `json:"delta"`
	Rate   *float64           `json:"rate"`
	On     bool               `json:"on"`
	At     *time.Time         `json:"at"`
	Labels map[string]string  `json:"labels,omitempty"`
	Costs  map[string]float64 `json:"costs,omitempty"`
	Tags   []string           `json:"tags"`
	Parts  []part             `json:"parts"`
}

type part struct {
	ID string  `json:"id"`
	N  *uint64 `json:"n"`
}

var things = TypeOf[thing]("things", nil, "name")

func randomThing(r *rand.Rand, i int) *thing {
	pick := func(of ...string) string { return of[r.IntN(len(of))] }
	t := &thing{Name: fmt.Sprintf("n%03d", i), Zone: pick("", "a", "b", "Ab"), Delta: r.Int64N(5) - 2, On: r.IntN(2) == 0}
	if r.IntN(3) > 0 {
		t.Size = ptr([]uint64{0, 1, 2, 1 << 10, 1<<63 + 1, 1<<63 + 2, 1<<64 - 1}[r.IntN(7)])
	}
	if r.IntN(3) > 0 {
		t.Rate = ptr([]float64{0, 1.5, -2, 1024, 1e300}[r.IntN(5)])
	}
	if r.IntN(3) > 0 {
		t.At = ptr(now.Add(time.Duration(r.IntN(5)-2) * time.Hour))
	}
	if r.IntN(2) > 0 {
		t.Labels = map[string]string{"team": pick("x", "y", "")}
		if r.IntN(2) > 0 {
			t.Labels["a.b/c"] = pick("x", "1")
		}
	}
	if r.IntN(2) > 0 {
		t.Costs = map[string]float64{"list": float64(r.IntN(3))}
	}
	for range r.IntN(3) {
		t.Tags = append(t.Tags, pick("red", "green", "blue"))
		p := part{ID: pick("p", "q")}
		if r.IntN(2) > 0 {
			p.N = ptr(uint64(r.IntN(3)))
		}
		t.Parts = append(t.Parts, p)
	}
	return t
}

// dumb is a condition on the JSON of a row, which knows nothing of Go's types.
type dumb func(row map[string]any) bool

var (
	texts   = []string{"a", "b", "Ab", "x", "y", "n001", "red", "p", "q", "1"}
	numbers = []string{"0", "1", "2", "-2", "1.5", "1Ki", "1024", "9223372036854775809", "18446744073709551615", "1e3", "1e300"}
	hours   = []string{"now", "now-1h", "now+1h", "now-2h", "now+30m"}
	ops     = []string{"=", "!=", "<", "<=", ">", ">="}
)

// randomFilter writes a filter and what it means.
func randomFilter(r *rand.Rand, depth int) (string, dumb) {
	pick := func(of []string) string { return of[r.IntN(len(of))] }
	if depth > 0 && r.IntN(2) == 0 {
		a, fa := randomFilter(r, depth-1)
		b, fb := randomFilter(r, depth-1)
		switch r.IntN(4) {
		case 0:
			return "(" + a + ") AND (" + b + ")", func(m map[string]any) bool { return fa(m) && fb(m) }
		case 1:
			return "(" + a + ") OR (" + b + ")", func(m map[string]any) bool { return fa(m) || fb(m) }
		case 2:
			return "NOT (" + a + ")", func(m map[string]any) bool { return !fa(m) }
		}
		return "(" + a + ") -(" + b + ")", func(m map[string]any) bool { return fa(m) && !fb(m) }
	}
	op := pick(ops)
	compare := func(get func(map[string]any) any, arg string, by func(v any) int) (string, dumb) {
		return arg, func(m map[string]any) bool {
			v := get(m)
			if v == nil {
				return false
			}
			c := by(v)
			switch op {
			case "=":
				return c == 0
			case "!=":
				return c != 0
			case "<":
				return c < 0
			case "<=":
				return c <= 0
			case ">":
				return c > 0
			}
			return c >= 0
		}
	}
	field := func(name string) func(map[string]any) any { return func(m map[string]any) any { return m[name] } }
	switch r.IntN(9) {
	case 0: // texts; one that is left out is empty
		name, arg := pick([]string{"name", "zone"}), pick(texts)
		_, f := compare(func(m map[string]any) any {
			if m[name] == nil {
				return ""
			}
			return m[name]
		}, arg, func(v any) int { return strings.Compare(v.(string), arg) })
		return name + op + arg, f
	case 1:
		name, arg := pick([]string{"size", "delta", "rate"}), pick(numbers)
		_, f := compare(field(name), arg, func(v any) int { return rat(v.(json.Number).String()).Cmp(rat(arg)) })
		return name + " " + op + " " + arg, f
	case 2:
		arg := pick(hours)
		_, f := compare(field("at"), arg, func(v any) int {
			at, err := time.Parse(time.RFC3339Nano, v.(string))
			if err != nil {
				panic(err)
			}
			want := now
			if len(arg) > 3 {
				d, err := time.ParseDuration(arg[3:])
				if err != nil {
					panic(err)
				}
				want = now.Add(d)
			}
			return at.Compare(want)
		})
		return "at" + op + arg, f
	case 3:
		key, arg := pick([]string{"team", "a.b/c", "none"}), pick(texts)
		_, f := compare(func(m map[string]any) any {
			l, _ := m["labels"].(map[string]any)
			return l[key]
		}, arg, func(v any) int { return strings.Compare(v.(string), arg) })
		return fmt.Sprintf("labels.%q %s %q", key, op, arg), f
	case 4:
		name := pick([]string{"size", "rate", "at", "labels", "costs", "tags", "parts", "zone"})
		there := func(m map[string]any) bool {
			switch v := m[name].(type) {
			case nil:
				return false
			case []any:
				return len(v) > 0
			}
			return true
		}
		switch r.IntN(3) {
		case 0:
			return name + ":*", there
		case 1:
			return "has:" + name, there
		}
		return name + " = null", func(m map[string]any) bool { return !there(m) }
	case 5:
		arg := pick(texts)
		return "tags:" + arg, func(m map[string]any) bool { return slices.Contains(m["tags"].([]any), any(arg)) }
	case 6:
		arg := pick([]string{"0", "1", "2"})
		if op == "!=" {
			op = "="
		}
		_, one := compare(field("n"), arg, func(v any) int { return rat(v.(json.Number).String()).Cmp(rat(arg)) })
		return "parts.n" + op + arg, func(m map[string]any) bool {
			return slices.ContainsFunc(m["parts"].([]any), func(p any) bool { return one(p.(map[string]any)) })
		}
	case 7:
		arg := pick([]string{"A", "b", "n0", "02", "R"})
		return "name:" + arg, func(m map[string]any) bool {
			return strings.Contains(strings.ToLower(m["name"].(string)), strings.ToLower(arg))
		}
	}
	return "on", func(m map[string]any) bool { return m["on"].(bool) }
}

func rat(s string) *big.Rat {
	if n, ok := strings.CutSuffix(s, "Ki"); ok {
		return new(big.Rat).Mul(rat(n), big.NewRat(1024, 1))
	}
	x, ok := new(big.Rat).SetString(s)
	if !ok {
		panic(s)
	}
	return x
}

// randomOrder writes an order_by and compares the JSON of rows by it.
func randomOrder(r *rand.Rand) (string, func(a, b map[string]any) int) {
	names := []string{"name", "zone", "size", "delta", "rate", "on", "at", "labels.team"}
	r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	names = names[:r.IntN(3)]
	var terms []string
	desc := map[string]bool{}
	for _, n := range names {
		if desc[n] = r.IntN(2) == 0; desc[n] {
			n += " desc"
		}
		terms = append(terms, n)
	}
	get := func(m map[string]any, name string) any {
		if key, ok := strings.CutPrefix(name, "labels."); ok {
			l, _ := m["labels"].(map[string]any)
			return l[key]
		}
		return m[name]
	}
	return strings.Join(terms, ", "), func(a, b map[string]any) int {
		for _, n := range append(slices.Clone(names), "name") {
			x, y := get(a, n), get(b, n)
			if x == nil || y == nil {
				if x != y {
					if x == nil {
						return 1
					}
					return -1
				}
				continue
			}
			c := 0
			switch x := x.(type) {
			case string:
				c = strings.Compare(x, y.(string))
			case bool:
				c = cmp.Compare(fmt.Sprint(x), fmt.Sprint(y))
			case json.Number:
				c = rat(x.String()).Cmp(rat(y.(json.Number).String()))
			}
			if c != 0 {
				if desc[n] {
					return -c
				}
				return c
			}
		}
		return 0
	}
}

func source(rows []*thing) Source {
	return Source{Rows: func(*Filter) iter.Seq[any] {
		return func(yield func(any) bool) {
			for _, r := range rows {
				if !yield(r) {
					return
				}
			}
		}
	}}
}

func TestFilterOrderAndPagesAgreeWithADumbReading(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 1))
	rounds := 3000
	if testing.Short() {
		rounds = 300
	}
	matched := 0
	for range rounds {
		var rows []*thing
		var plain []map[string]any
		for i := range r.IntN(30) {
			row := randomThing(r, i)
			rows = append(rows, row)
			var m map[string]any
			d := json.NewDecoder(strings.NewReader(string(things.AppendJSON(nil, row, nil))))
			d.UseNumber()
			if err := d.Decode(&m); err != nil {
				t.Fatal(err)
			}
			plain = append(plain, m)
		}
		filter, means := randomFilter(r, 3)
		orderBy, before := randomOrder(r)
		var want []string
		plain = slices.DeleteFunc(plain, func(m map[string]any) bool { return !means(m) })
		slices.SortFunc(plain, before)
		for _, m := range plain {
			want = append(want, m["name"].(string))
		}
		src := source(rows)
		if r.IntN(2) == 0 {
			src.Ordered = true // they come by name
		} else {
			r.Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
		}
		var got []string
		for req := (Request{Filter: filter, OrderBy: orderBy, PageSize: 1 + r.IntN(6)}); ; {
			p, err := things.Plan(req)
			if err != nil {
				t.Fatalf("seed %d: %s by %q: %v", seed, filter, orderBy, err)
			}
			page := p.Page(src, now)
			for _, row := range page.Rows {
				got = append(got, row.Value().(*thing).Name)
			}
			if req.PageToken = page.Next; page.Next == "" {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("seed %d: filter %s\norder %q\ngot  %v\nwant %v", seed, filter, orderBy, got, want)
		}
		matched += len(got)
	}
	if matched == 0 {
		t.Error("no filter matched anything: the test shows nothing")
	}
}

func TestPagesNeitherRepeatNorSkipRowsThatStay(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	for range 200 {
		var rows []*thing
		for i := range 40 {
			rows = append(rows, randomThing(r, i))
		}
		stay := map[string]bool{}
		for _, row := range rows[:20] {
			stay[row.Name] = true
		}
		orderBy, _ := randomOrder(r)
		times := map[string]int{}
		for req := (Request{OrderBy: orderBy, PageSize: 3}); ; {
			p, err := things.Plan(req)
			if err != nil {
				t.Fatal(err)
			}
			page := p.Page(source(rows), now)
			for _, row := range page.Rows {
				times[row.Value().(*thing).Name]++
			}
			if req.PageToken = page.Next; page.Next == "" {
				break
			}
			// The others change, come and go.
			for i := 20; i < 40; i++ {
				rows[i] = randomThing(r, 20+r.IntN(60))
			}
		}
		for name := range stay {
			if times[name] != 1 {
				t.Fatalf("by %q: %s was given %d times", orderBy, name, times[name])
			}
		}
	}
}

func FuzzFilter(f *testing.F) {
	for _, s := range []string{
		`region = "eu" AND (state = live OR NOT bytes > 1GiB)`, `labels."a.b":* readers.expires < now-1d2h`, `has:readers -"text"`,
		`state=(live AND stale)`, `slate = "a\*b*" OR slate:x`, `checkpoints.created = 2026-11-21T00:00:00Z`, `"`, `a.`, `((`, `NOT NOT registered`,
	} {
		f.Add(s)
	}
	row := orders()
	f.Fuzz(func(t *testing.T, src string) {
		flt, err := placements.Filter(src)
		if err != nil {
			e, ok := err.(*Error)
			if !ok || e.Msg == "" || e.Column > len([]rune(src))+1 {
				t.Fatalf("%q: %#v", src, err)
			}
			_ = e.Caret()
			return
		}
		got := flt.Match(row, now)
		if flt.Match(row, now) != got {
			t.Fatalf("%q: two answers", src)
		}
		// What narrows a source must not lose a row that matches.
		if only, ok := flt.Only("region"); got && ok && !slices.Contains(only, row.Region) {
			t.Fatalf("%q matches, yet only %v", src, only)
		}
		if strings.TrimSpace(src) == "" {
			return
		}
		neg, err := placements.Filter("NOT (" + src + ")")
		if err == nil && neg.Match(row, now) == got {
			t.Fatalf("%q: NOT gives the same", src)
		}
	})
}

func FuzzPageToken(f *testing.F) {
	for _, by := range []string{"", "bytes desc", "observed_at, registered", "labels.team"} {
		p, err := placements.Plan(Request{OrderBy: by, PageSize: 1})
		if err != nil {
			f.Fatal(err)
		}
		a, b := orders(), orders()
		b.Root = "other"
		page := p.Page(Source{Rows: func(*Filter) iter.Seq[any] { return slices.Values([]any{a, b}) }}, now)
		if page.Next == "" {
			f.Fatal("no token")
		}
		f.Add(by, page.Next)
	}
	f.Fuzz(func(t *testing.T, by, token string) {
		p, err := placements.Plan(Request{OrderBy: by, PageToken: token, PageSize: 1})
		if err != nil {
			if _, ok := err.(*Error); !ok {
				t.Fatalf("%#v", err)
			}
			return
		}
		p.Page(Source{Rows: func(*Filter) iter.Seq[any] { return slices.Values([]any{orders(), orders()}) }}, now)
	})
}

func BenchmarkList(b *testing.B) {
	rows := make([]any, 100_000)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range rows {
		p := orders()
		p.Slate = fmt.Sprintf("dbs/%06d", i)
		p.Region = []string{"eu", "us", "asia"}[r.IntN(3)]
		p.Bytes = ptr(r.Uint64())
		p.Labels = map[string]string{"team": fmt.Sprint("t", r.IntN(50))}
		rows[i] = p
	}
	src := Source{Rows: func(*Filter) iter.Seq[any] { return slices.Values(rows) }, Ordered: true}
	for _, c := range []struct{ name, filter, order string }{
		{"first page", "", ""},
		{"sort", "", "bytes desc"},
		{"filter and sort", `region = "us" AND state = live AND bytes > 1GiB`, "bytes desc"},
		{"label and sort", `labels.team = "t7"`, "bytes desc, slate"},
		{"nobody", `slate = "x*"`, ""},
		{"any text", `"nowhere"`, ""},
	} {
		b.Run(c.name, func(b *testing.B) {
			p, err := placements.Plan(Request{Filter: c.filter, OrderBy: c.order})
			if err != nil {
				b.Fatal(err)
			}
			var out []byte
			b.ReportAllocs()
			for b.Loop() {
				out = out[:0]
				for _, row := range p.Page(src, now).Rows {
					out = row.AppendJSON(out, nil)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(rows)), "ns/row")
		})
	}
	b.Run("summarize", func(b *testing.B) {
		s, err := placements.Summary("region,kind,state")
		if err != nil {
			b.Fatal(err)
		}
		all, err := placements.Plan(Request{})
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if _, err := s.GroupsOf(all, src, now); err != nil {
				b.Fatal(err)
			}
		}
	})
}
