package sst_test

import (
	"bytes"
	"testing"

	"github.com/quarry-db/quarry/pkg/slatedb/sst"
)

func TestEveryTableOfTheRealCoresReadsInOrder(t *testing.T) {
	var n, rows, filters, padded, stats int
	codecs := map[int8]int{}
	tables(t, "compacted", func(path string, raw []byte) {
		n++
		tab, err := sst.Whole(raw)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			return
		}
		foot, _ := tab.Footer(t.Context())
		codecs[foot.Info.Compression]++
		filter, err := tab.Filter(t.Context())
		if err != nil {
			t.Errorf("%s: %v", path, err)
			return
		}
		if foot.Info.FilterLen > 0 {
			filters++
		}
		x, err := tab.Index(t.Context())
		if err != nil {
			t.Errorf("%s: %v", path, err)
			return
		}
		for _, b := range x.Blocks {
			if b.EncodedLen > 0 {
				padded++
			}
		}
		st, ok, err := tab.Stats(t.Context())
		if err != nil || !ok {
			t.Errorf("%s: statistics %v %v", path, ok, err)
		}
		stats += int(st.Puts + st.Deletes + st.Merges)
		s := tab.Scan(t.Context(), nil, nil)
		defer s.Close()
		var last []byte
		var lastSeq uint64
		for i := 0; s.Next(); i++ {
			r := s.Row()
			if i == 0 && !bytes.Equal(r.Key, foot.Info.FirstKey) {
				t.Errorf("%s: first key %q, footer has %q", path, r.Key, foot.Info.FirstKey)
			}
			if c := bytes.Compare(last, r.Key); i > 0 && (c > 0 || c == 0 && lastSeq <= r.Seq) {
				t.Errorf("%s: row %d out of order", path, i)
			}
			if !filter.MayContain(r.Key) {
				t.Errorf("%s: filter denies %q", path, r.Key)
			}
			last, lastSeq = append(last[:0], r.Key...), r.Seq
			rows++
		}
		if s.Err() != nil {
			t.Errorf("%s: %v", path, s.Err())
		}
		if foot.Info.LastKey != nil && !bytes.Equal(last, foot.Info.LastKey) {
			t.Errorf("%s: last key %q, footer has %q", path, last, foot.Info.LastKey)
		}
	})
	t.Logf("%d tables, %d rows, %d with filters, %d padded blocks, codecs %v", n, rows, filters, padded, codecs)
	if rows == 0 || rows != stats {
		t.Errorf("%d rows, statistics say %d", rows, stats)
	}
	if filters == 0 || padded == 0 || len(codecs) != 5 {
		t.Errorf("fixtures lost their variety: %d filters, %d padded blocks, codecs %v", filters, padded, codecs)
	}
}
