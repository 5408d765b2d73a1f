package api

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/quarry-db/quarry/hub/query"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// current is the newest view, or a problem while there is none.
func (c *call) current() (*view.View, error) {
	if v := c.src.View(); v != nil {
		return v, nil
	}
	return nil, notReady()
}

func notReady() *Problem {
	p := problem(http.StatusServiceUnavailable, CodeNotReady, "", "try again in a moment", "the hub is loading its saved view")
	p.header = http.Header{"Retry-After": {"1"}}
	return p
}

func (c *call) list(res *resource) error {
	v, err := c.current()
	if err != nil {
		return err
	}
	return c.listRows(res, v, sourceOf(res, v))
}

func (c *call) listRows(res *resource, v *view.View, src query.Source) error {
	size, err := c.number("page_size")
	if err != nil {
		return err
	}
	plan, err := res.typ.Plan(query.Request{
		Filter: c.query.Get("filter"), OrderBy: c.query.Get("order_by"), Fields: c.query.Get("fields"),
		PageSize: size, PageToken: c.query.Get("page_token"),
	})
	if err != nil {
		return err
	}
	now := c.o.Now()
	fresh, err := c.freshness(res, v, plan.Filter, now)
	if err != nil {
		return err
	}
	page := plan.Page(src, now)
	out := append(make([]byte, 0, 256+1024*len(page.Rows)), `{"items":[`...)
	for i, row := range page.Rows {
		if i > 0 {
			out = append(out, ',')
		}
		out = row.AppendJSON(out, plan.Mask)
	}
	out = append(out, `],"next_page_token":`...)
	out = fmt.Appendf(out, "%q", page.Next)
	return c.answer(fresh.append(out))
}

func (c *call) get(res *resource) error {
	v, err := c.current()
	if err != nil {
		return err
	}
	mask, err := res.typ.Mask(c.query.Get("fields"))
	if err != nil {
		return err
	}
	row := res.get(v, c.name)
	if row == nil {
		hint := ""
		if off := v.Unreachable(); len(off) > 0 {
			hint = "not every region is heard: " + strings.Join(off, ", ")
		}
		return problem(http.StatusNotFound, CodeNotFound, "name", hint, "there is no %s %q", res.one, c.name)
	}
	f, err := res.typ.Filter("")
	if err != nil {
		return err
	}
	fresh, err := c.freshness(res, v, f, c.o.Now(), regionsOf(row)...)
	if err != nil {
		return err
	}
	out := append([]byte(nil), `{"item":`...)
	return c.answer(fresh.append(res.typ.AppendJSON(out, row, mask)))
}

// regionsOf names the regions that an answer about one region covers; none
// means all, for a slate may be in any region that was not heard.
func regionsOf(row any) []string {
	if r, ok := row.(*catalog.Region); ok {
		return []string{r.Name}
	}
	return nil
}

func (c *call) summarize(res *resource) error {
	v, err := c.current()
	if err != nil {
		return err
	}
	return c.summarizeRows(res, v, sourceOf(res, v))
}

func (c *call) summarizeRows(res *resource, v *view.View, src query.Source) error {
	sum, err := res.typ.Summary(c.query.Get("by"))
	if err != nil {
		return err
	}
	plan, err := res.typ.Plan(query.Request{Filter: c.query.Get("filter")})
	if err != nil {
		return err
	}
	now := c.o.Now()
	fresh, err := c.freshness(res, v, plan.Filter, now)
	if err != nil {
		return err
	}
	groups, err := sum.GroupsOf(plan, src, now)
	if err != nil {
		return err
	}
	out := append([]byte(nil), `{"groups":[`...)
	for i, g := range groups {
		if i > 0 {
			out = append(out, ',')
		}
		out = sum.AppendJSON(out, g)
	}
	return c.answer(fresh.append(append(out, ']')))
}

// freshness is the end of every answer about rows.
type freshness struct {
	asOf        map[string]catalog.Freshness
	unreachable []string
	idle        string // why the hub does not decide; empty: it does
}

// freshness says how current the regions are that an answer covers, and
// refuses the request when it asked for fresher ones. Regions that people
// retired hold nothing back, unless they were asked for by name.
func (c *call) freshness(res *resource, v *view.View, f *query.Filter, now time.Time, only ...string) (freshness, error) {
	if len(only) == 0 && res.region != "" {
		if names, ok := f.Only(res.region); ok {
			only = append([]string{}, names...)
		}
	}
	out := freshAt(v, now, only)
	out.idle = c.idle()
	limit := c.query.Get("require_fresh")
	if limit == "" {
		return out, nil
	}
	d, ok := query.ParseAge(limit)
	if !ok {
		return out, problem(http.StatusBadRequest, CodeBadParameter, "require_fresh", "for example 30s, 10m or 1h", "require_fresh: %q is no age", limit)
	}
	names := only
	if names == nil {
		names = slices.Sorted(maps.Keys(out.asOf))
	}
	var late []RegionAge
	var says []string
	for _, name := range names {
		fr, known := out.asOf[name]
		if r := v.Region(name); r != nil && r.Membership == catalog.Retired && only == nil {
			continue
		}
		if known && fr.AgeMS != nil && time.Duration(*fr.AgeMS)*time.Millisecond <= d {
			continue
		}
		late = append(late, RegionAge{Name: name, State: string(fr.State), AgeMS: fr.AgeMS})
		switch {
		case !known:
			says = append(says, name+" is not in the region set")
		case fr.AgeMS == nil:
			says = append(says, name+" was not heard since the hub started")
		default:
			says = append(says, fmt.Sprintf("%s is %s old", name, (time.Duration(*fr.AgeMS)*time.Millisecond).Round(time.Millisecond)))
		}
	}
	if late == nil {
		return out, nil
	}
	p := problem(http.StatusConflict, CodeNotFresh, "require_fresh", "check these regions' agents, or ask for less", "not as fresh as %s: %s", limit, strings.Join(says, ", "))
	p.Regions = late
	return out, p
}

// freshAt is how current regions are now; only nil: all regions.
func freshAt(v *view.View, now time.Time, only []string) freshness {
	out := freshness{asOf: v.AsOf(), unreachable: []string{}}
	covered := func(name string) bool { return only == nil || slices.Contains(only, name) }
	for name, f := range out.asOf {
		if !covered(name) {
			delete(out.asOf, name)
			continue
		}
		if f.At != nil {
			// The view may be a while old when nothing happens.
			age := max(0, now.Sub(*f.At).Milliseconds())
			f.AgeMS = &age
			out.asOf[name] = f
		}
	}
	for _, name := range v.Unreachable() {
		if covered(name) {
			out.unreachable = append(out.unreachable, name)
		}
	}
	return out
}

// append ends an answer's object.
func (f freshness) append(dst []byte) []byte {
	asOf, err := json.Marshal(f.asOf)
	if err != nil {
		panic("api: as_of: " + err.Error()) // plain fields always marshal
	}
	off, err := json.Marshal(f.unreachable)
	if err != nil {
		panic("api: unreachable: " + err.Error())
	}
	dst = append(append(dst, `,"as_of":`...), asOf...)
	dst = append(append(dst, `,"unreachable":`...), off...)
	if f.idle != "" {
		dst = append(append(dst, `,"not_deciding":`...), jsonText(f.idle)...)
	}
	return append(dst, '}')
}

func (c *call) answer(b []byte) error {
	c.w.Header().Set("Content-Type", "application/json")
	// An error here means that the reader has gone: there is nobody to tell.
	_, _ = c.w.Write(append(b, '\n'))
	return nil
}

// object is the freshness on its own.
func (f freshness) object() []byte {
	b := f.append(nil)
	b[0] = '{' // in place of the comma
	return b
}
