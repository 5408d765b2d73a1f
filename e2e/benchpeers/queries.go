package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/quarry-db/quarry/e2e/load"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// query is one question, as each system is asked it and as a plain scan
// answers it.
type query struct {
	name string
	// Of Quarry: parameters of GET /v1/placements, or of :summarize when by is set.
	filter, order, by string
	second            bool // the page after the first, by its token
	// Of PostgreSQL; $1… are args. sql2 asks for the page after the first, with
	// the last row's bytes, slate and region as further arguments.
	sql  string
	sql2 string
	args []any
	// Of Redis: the key of a sorted set whose top is asked, or of one row.
	zset, key string
	// The plain scan.
	match func(*load.Row) bool
	less  func(a, b *load.Row) int // then by slate and region
	group func(*load.Row) string   // instead of rows
}

// pageSize is what people see at once.
const pageSize = 50

// columns are what every system stores and answers of a row.
const columns = "region,slate,kind,state,owner,labels,incarnation,lineage,position_domain,position,bytes,manifest_id,writer_epoch,wal_tail_id"

func byBytes(a, b *load.Row) int    { return cmp.Compare(b.Bytes, a.Bytes) }
func byPosition(a, b *load.Row) int { return cmp.Compare(b.Position, a.Position) }
func byName(*load.Row, *load.Row) int {
	return 0 // what follows in any case
}

// questions about a fleet; middle is a size that half of the rows exceed.
func questions(regions []string, middle uint64, one *load.Row) []*query {
	sel := "SELECT " + columns + " FROM placements "
	r := regions[len(regions)/2]
	live, rare := catalog.StateLive, catalog.StateUnreadable
	return []*query{
		{
			name:   "one by name",
			filter: fmt.Sprintf("slate=%q AND region=%q", one.Slate, one.Region),
			sql:    sel + "WHERE slate=$1 AND region=$2 ORDER BY slate, region LIMIT 50", args: []any{one.Slate, one.Region},
			key:   "p:" + one.Key(),
			match: func(x *load.Row) bool { return x.Slate == one.Slate && x.Region == one.Region }, less: byName,
		}, {
			name:   "3 filters, sort, 50",
			filter: fmt.Sprintf("region=%q AND kind=%q AND state=%q", r, catalog.KindLog, live), order: "bytes desc",
			sql:   sel + "WHERE region=$1 AND kind=$2 AND state=$3 ORDER BY bytes DESC, slate, region LIMIT 50",
			args:  []any{r, string(catalog.KindLog), string(live)},
			match: func(x *load.Row) bool { return x.Region == r && x.Kind == catalog.KindLog && x.State == live }, less: byBytes,
		}, {
			name:   "keyset page, middle",
			filter: fmt.Sprintf("bytes<%d", middle), order: "bytes desc", second: true,
			sql:   sel + "WHERE bytes<$1 ORDER BY bytes DESC, slate, region LIMIT 50",
			sql2:  sel + "WHERE bytes<$1 AND bytes<=$2 AND (bytes<$2 OR (slate, region)>($3, $4)) ORDER BY bytes DESC, slate, region LIMIT 50",
			args:  []any{int64(middle)},
			match: func(x *load.Row) bool { return x.Bytes < middle }, less: byBytes,
		}, {
			name:   "top of a region by position",
			filter: fmt.Sprintf("region=%q", r), order: "position desc",
			sql:   sel + "WHERE region=$1 ORDER BY position DESC, slate, region LIMIT 50",
			args:  []any{r},
			match: func(x *load.Row) bool { return x.Region == r }, less: byPosition,
		}, {
			name: "largest of all", order: "bytes desc",
			sql:   sel + "ORDER BY bytes DESC, slate, region LIMIT 50",
			zset:  "z:bytes",
			match: func(*load.Row) bool { return true }, less: byBytes,
		}, {
			name:   "name prefix",
			filter: `slate="dbs/payments/*"`,
			sql:    sel + "WHERE slate >= 'dbs/payments/' AND slate < 'dbs/payments0' ORDER BY slate, region LIMIT 50",
			match:  func(x *load.Row) bool { return strings.HasPrefix(x.Slate, "dbs/payments/") }, less: byName,
		}, {
			name:   "label without index, sort, 50",
			filter: `labels.team="routing"`, order: "bytes desc",
			sql:   sel + "WHERE labels->>'team'='routing' ORDER BY bytes DESC, slate, region LIMIT 50",
			match: func(x *load.Row) bool { return x.Labels["team"] == "routing" }, less: byBytes,
		}, {
			name:   "rare label (1 in 10,000)",
			filter: `labels.pilot="yes"`, order: "bytes desc",
			sql:   sel + "WHERE labels->>'pilot'='yes' ORDER BY bytes DESC, slate, region LIMIT 50",
			match: func(x *load.Row) bool { return x.Labels["pilot"] == "yes" }, less: byBytes,
		}, {
			name:   "rare state, against the order",
			filter: fmt.Sprintf("state=%q AND bytes<4096", rare), order: "bytes desc",
			sql:   sel + "WHERE state=$1 AND bytes<4096 ORDER BY bytes DESC, slate, region LIMIT 50",
			args:  []any{string(rare)},
			match: func(x *load.Row) bool { return x.State == rare && x.Bytes < 4096 }, less: byBytes,
		}, {
			name:   "nothing matches",
			filter: `owner="nobody" AND kind="log"`, order: "position desc",
			sql:   sel + "WHERE owner='nobody' AND kind='log' ORDER BY position DESC, slate, region LIMIT 50",
			match: func(*load.Row) bool { return false }, less: byPosition,
		}, {
			name:   "count with 2 filters",
			filter: fmt.Sprintf("region=%q AND kind=%q", r, catalog.KindLog), by: "state",
			sql:   "SELECT state, count(*), sum(bytes)::bigint FROM placements WHERE region=$1 AND kind=$2 GROUP BY state",
			args:  []any{r, string(catalog.KindLog)},
			match: func(x *load.Row) bool { return x.Region == r && x.Kind == catalog.KindLog },
			group: func(x *load.Row) string { return string(x.State) },
		}, {
			name: "facets on 3 dimensions", by: "region,kind,state",
			sql:   "SELECT region||'|'||kind||'|'||state, count(*), sum(bytes)::bigint FROM placements GROUP BY region, kind, state",
			match: func(*load.Row) bool { return true },
			group: func(x *load.Row) string { return x.Region + "|" + string(x.Kind) + "|" + string(x.State) },
		}, {
			name:   "facets under a filter",
			filter: `labels.env="staging"`, by: "region,kind",
			sql:   "SELECT region||'|'||kind, count(*), sum(bytes)::bigint FROM placements WHERE labels->>'env'='staging' GROUP BY region, kind",
			match: func(x *load.Row) bool { return x.Labels["env"] == "staging" },
			group: func(x *load.Row) string { return x.Region + "|" + string(x.Kind) },
		},
	}
}

// answer is what a system said: keys of rows in order, or groups.
type answer []string

func groupLine(group string, count, bytes uint64) string {
	return fmt.Sprintf("%s|%d|%d", group, count, bytes)
}

// hash of an answer; groups have no order.
func (a answer) hash(q *query) string {
	lines := slices.Clone(a)
	if q.by != "" {
		slices.Sort(lines)
	}
	h := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return hex.EncodeToString(h[:8])
}

// scan answers one query the plain way.
func scan(all iter.Seq[load.Row], q *query) answer { return scanAll(all, []*query{q})[0] }

// scanAll answers queries in one look at all rows.
func scanAll(all iter.Seq[load.Row], queries []*query) []answer {
	rows := make([][]*load.Row, len(queries))
	groups := make([]map[string][2]uint64, len(queries))
	for row := range all {
		for k, q := range queries {
			switch {
			case !q.match(&row):
			case q.group != nil:
				if groups[k] == nil {
					groups[k] = map[string][2]uint64{}
				}
				g := q.group(&row)
				c := groups[k][g]
				groups[k][g] = [2]uint64{c[0] + 1, c[1] + row.Bytes}
			default:
				rows[k] = append(rows[k], &row)
			}
		}
	}
	out := make([]answer, len(queries))
	for k, q := range queries {
		for g, c := range groups[k] {
			out[k] = append(out[k], groupLine(g, c[0], c[1]))
		}
		slices.SortFunc(rows[k], func(a, b *load.Row) int {
			return cmp.Or(q.less(a, b), cmp.Compare(a.Slate, b.Slate), cmp.Compare(a.Region, b.Region))
		})
		page := rows[k]
		if q.second {
			page = page[min(pageSize, len(page)):]
		}
		for _, r := range page[:min(pageSize, len(page))] {
			out[k] = append(out[k], r.Key())
		}
	}
	return out
}
