package sst_test

import (
	"encoding/binary"
	"testing"

	"github.com/quarry-db/quarry/pkg/slatedb/sst"
)

type rowV1 struct {
	key, value     string
	seq            uint64
	flags          sst.Flags
	create, expire int64
}

// blockV1 writes a block of format 1 as its description has it: prefixes are
// shared with the first key of the block.
func blockV1(rows ...rowV1) []byte {
	var b []byte
	var offsets []byte
	for i, r := range rows {
		offsets = binary.BigEndian.AppendUint16(offsets, uint16(len(b)))
		prefix := 0
		for i > 0 && prefix < min(len(r.key), len(rows[0].key)) && r.key[prefix] == rows[0].key[prefix] {
			prefix++
		}
		b = binary.BigEndian.AppendUint16(b, uint16(prefix))
		b = binary.BigEndian.AppendUint16(b, uint16(len(r.key)-prefix))
		b = append(b, r.key[prefix:]...)
		b = binary.BigEndian.AppendUint64(b, r.seq)
		b = append(b, byte(r.flags))
		if r.flags&sst.HasExpire != 0 {
			b = binary.BigEndian.AppendUint64(b, uint64(r.expire))
		}
		if r.flags&sst.HasCreate != 0 {
			b = binary.BigEndian.AppendUint64(b, uint64(r.create))
		}
		if r.flags&sst.Tombstone == 0 {
			b = binary.BigEndian.AppendUint32(b, uint32(len(r.value)))
			b = append(b, r.value...)
		}
	}
	return binary.BigEndian.AppendUint16(append(b, offsets...), uint16(len(rows)))
}

func TestABlockOfFormat1GivesItsRows(t *testing.T) {
	rows := []rowV1{
		{"apple", "red", 9, sst.HasCreate, 5, 0},
		{"apple", "green", 2, 0, 0, 0},
		{"apricot", "", 3, sst.HasCreate | sst.HasExpire, -6, 0},
		{"banana", "", 4, sst.Tombstone | sst.HasCreate, 7, 0},
		{"cherry", "+1", 5, sst.Merge, 0, 0},
	}
	b, err := sst.ParseBlock(blockV1(rows...), sst.V1)
	if err != nil {
		t.Fatal(err)
	}
	for from, key := range []string{"", "apple\x00", "apq", "b", "cherry", "d"} {
		var c sst.Cursor
		c.Reset(b)
		c.Seek([]byte(key))
		want := rows[[]int{0, 2, 2, 3, 4, 5}[from]:]
		for _, w := range want {
			if !c.Next() {
				t.Fatalf("from %q: no %q: %v", key, w.key, c.Err())
			}
			r := &c.Row
			if string(r.Key) != w.key || string(r.Value) != w.value || r.Seq != w.seq || r.Flags != w.flags || r.CreateTS != w.create || r.ExpireTS != w.expire {
				t.Errorf("from %q: %+v, want %+v", key, r, w)
			}
			if (r.Value == nil) != r.Tombstone() {
				t.Errorf("value %v of %+v", r.Value, w)
			}
		}
		if c.Next() || c.Err() != nil {
			t.Errorf("from %q: more than there is: %q %v", key, c.Row.Key, c.Err())
		}
	}
}
