package opendata

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// logs are the fixtures of real logs: the first sequence that was not yet
// written, and what is trimmed (-1 for nothing).
var logs = []struct {
	name    string
	next    uint64
	trimmed int64
	block   SequenceBlock
}{
	{"log", 90, -1, SequenceBlock{0, 4096}},
	{"log-compacted", 574, -1, SequenceBlock{0, 4096}},
	{"log-lz4", 208, -1, SequenceBlock{0, 4096}},
	{"log-retained", 150, 143, SequenceBlock{0, 4096}},
	{"log-reopened", 4124, -1, SequenceBlock{4096, 4096}},
	{"log-open", 49, -1, SequenceBlock{0, 4096}},
}

// logWords is a log's expected.json: what its own library read.
type logWords struct {
	Next  uint64 `json:"durable_sequence_exclusive"`
	Reads struct {
		Logs []struct {
			Key     string `json:"key_hex"`
			Entries []struct{ Seq uint64 }
		}
		Segments []struct {
			ID      uint32
			Start   uint64 `json:"start_seq"`
			StartMS int64  `json:"start_time_ms"`
		}
	} `json:"writer_reads"`
}

type row struct{ key, value []byte }

// rawRows are the keys of every row of a log, as the real core scanned them.
// Of values only the hashes were kept: those of the system segment are made
// again from the library's words, and the hashes say that they are the same.
func rawRows(t testing.TB, name string, words logWords, block SequenceBlock) []row {
	t.Helper()
	var raw struct{ Rows [][4]any }
	readJSON(t, name+"/expected-raw.json", &raw)
	var rows []row
	for _, r := range raw.Rows {
		key, err := hex.DecodeString(r[0].(string))
		if err != nil {
			t.Fatal(err)
		}
		var value []byte
		switch k, err := ParseLogKey(key); {
		case err != nil:
			t.Fatal(err)
		case k.Tag == LogSequenceBlock:
			value = pair(block.Base, block.Size)
		case k.Tag == LogSegmentMeta:
			for _, s := range words.Reads.Segments {
				if s.ID == k.Segment {
					value = pair(s.Start, uint64(s.StartMS))
				}
			}
		}
		if sum := sha256.Sum256(value); value != nil && hex.EncodeToString(sum[:]) != r[1].(string) {
			t.Fatalf("the value of %x is not %x", key, value)
		}
		rows = append(rows, row{key, value})
	}
	return rows
}

func pair(a, b uint64) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, a), b)
}

// readLog feeds a state the rows that it asks for and says which ranges these
// were.
func readLog(t testing.TB, rows []row) (s LogState, asked []string) {
	t.Helper()
	for r, more := s.Next(); more; r, more = s.Next() {
		asked = append(asked, fmt.Sprintf("%x-%x", r.From, r.To))
		for _, one := range rows {
			if bytes.Compare(one.key, r.From) >= 0 && bytes.Compare(one.key, r.To) < 0 {
				if err := s.Add(one.key, one.value); err != nil {
					t.Fatal(err)
				}
			}
		}
		s.Done(r)
	}
	return s, asked
}

// check compares a state with the library's words.
func check(t *testing.T, s *LogState, words logWords, next uint64, trimmed int64, block SequenceBlock) {
	t.Helper()
	if head, ok := s.Head(); !ok || head != next-1 || next != words.Next {
		t.Errorf("head %d %v, want %d (library: next %d)", head, ok, next-1, words.Next)
	}
	to, ok := s.TrimmedTo()
	if ok != (trimmed >= 0) || ok && to != uint64(trimmed) {
		t.Errorf("trimmed to %d %v, want %d", to, ok, trimmed)
	}
	if b, ok := s.Reserved(); !ok || b != block {
		t.Errorf("reserved %+v %v, want %+v", b, ok, block)
	}
	var want []LogSegment
	for _, w := range words.Reads.Segments {
		want = append(want, LogSegment{w.ID, w.Start, time.UnixMilli(w.StartMS).UTC()})
	}
	if !slices.Equal(s.Segments(), want) {
		t.Errorf("segments %v, want %v", s.Segments(), want)
	}
	if s.UnknownRows() != 0 {
		t.Errorf("%d rows of unknown tags", s.UnknownRows())
	}
}

func TestRealLogsKnowTheirHeadSegmentsAndTrimPosition(t *testing.T) {
	for _, c := range logs {
		t.Run(c.name, func(t *testing.T) {
			var words logWords
			readJSON(t, c.name+"/expected.json", &words)
			s, asked := readLog(t, rawRows(t, c.name, words, c.block))
			check(t, &s, words, c.next, c.trimmed, c.block)
			if len(asked) != 2 {
				t.Errorf("asked for %v, want the system segment and the newest", asked)
			}
		})
	}
}

// Every entry that the library returned for a key is a row, at its sequence,
// and there is no other in a live segment.
func TestEntriesOfRealLogsAreAtTheLibrarysSequences(t *testing.T) {
	for _, c := range logs {
		t.Run(c.name, func(t *testing.T) {
			var words logWords
			readJSON(t, c.name+"/expected.json", &words)
			start := map[uint32]uint64{}
			for _, s := range words.Reads.Segments {
				start[s.ID] = s.Start
			}
			want, got := map[string]bool{}, map[string]bool{}
			for _, l := range words.Reads.Logs {
				for _, e := range l.Entries {
					want[fmt.Sprintf("%s@%d", l.Key, e.Seq)] = true
				}
			}
			for _, r := range rawRows(t, c.name, words, c.block) {
				k, _ := ParseLogKey(r.key)
				if first, live := start[k.Segment]; live && k.Tag == LogEntry {
					got[fmt.Sprintf("%x@%d", k.Key, first+k.Relative)] = true
				}
			}
			if len(want) == 0 || fmt.Sprint(want) != fmt.Sprint(got) {
				t.Errorf("%d entries, want %d:\n%v\n%v", len(got), len(want), got, want)
			}
		})
	}
}

func key(t testing.TB, text string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(text, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestHeadIsInAnOlderSegmentWhileTheNewestHasNoEntries(t *testing.T) {
	rows := []row{
		{key(t, "0301 00000000 20"), pair(4096, 4096)},
		{key(t, "0301 00000000 30 00000002"), pair(10, 5)},
		{key(t, "0301 00000000 30 00000003"), pair(100, 6)},
		{key(t, "0301 00000000 30 00000004"), pair(200, 7)},
		{key(t, "0301 00000000 50 01"), nil},
		{key(t, "0301 00000002 10 61 00 2f0000"), nil},
		{key(t, "0301 00000003 10 61 00 1064"), nil},
		{key(t, "0301 00000003 10 62 00 05"), nil},
		{key(t, "0301 00000009 10 62 00 05"), nil},
	}
	s, asked := readLog(t, rows)
	if head, ok := s.Head(); !ok || head != 200 {
		t.Errorf("head %d %v, want 200", head, ok)
	}
	want := "[030100000000-030100000001 03010000000410-03010000000411 03010000000310-03010000000311]"
	if fmt.Sprint(asked) != want {
		t.Errorf("asked for %v, want %s", asked, want)
	}
	if s.UnknownRows() != 1 {
		t.Errorf("%d unknown rows", s.UnknownRows())
	}
}

func TestLogThatSaysNothingSaysNothing(t *testing.T) {
	var fresh LogState
	if _, more := fresh.Next(); !more {
		t.Error("nothing was read and nothing is asked for")
	}
	empty, asked := readLog(t, nil)
	for name, s := range map[string]*LogState{"fresh": &fresh, "empty": &empty} {
		if _, ok := s.Head(); ok {
			t.Error(name, "has a head")
		}
		if _, ok := s.TrimmedTo(); ok {
			t.Error(name, "is trimmed")
		}
		if _, ok := s.Reserved(); ok {
			t.Error(name, "has a block")
		}
	}
	if len(asked) != 1 {
		t.Errorf("asked for %v", asked)
	}
	// The head is unknown while the newest segment is unread.
	var half LogState
	for _, r := range []row{{key(t, "0301 00000000 30 00000001"), pair(1, 5)}, {key(t, "0301 00000001 10 61 00 05"), nil}} {
		if err := half.Add(r.key, r.value); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok := half.Head(); ok {
		t.Error("half a segment gives a head")
	}
}

func TestNumbersOfLogKeys(t *testing.T) {
	for text, want := range map[string]uint64{
		"00": 0, "0f": 15, "1010": 16, "1011": 17, "1fff": 4095, "201000": 4096, "2fffff": 1<<20 - 1,
		"7fffffffffffffff": 1<<60 - 1, "801000000000000000": 1 << 60, "80ffffffffffffffff": 1<<64 - 1,
	} {
		n, rest, err := varU64(key(t, text+"aa"))
		if err != nil || n != want || len(rest) != 1 {
			t.Errorf("%s: %d, %v, want %d", text, n, err, want)
		}
	}
	for _, text := range []string{"", "10", "100f", "200fff", "8fffffffffffffffff", "800fffffffffffffff", "9000000000000000000000", "80ff"} {
		if n, _, err := varU64(key(t, text)); err == nil {
			t.Errorf("%s is read as %d", text, n)
		}
	}
}

func TestLogKeysThatAreNone(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "is not a log's"},
		{"0301", "is not a log's"},
		{"0301 00000000", "is not a log's"},
		{"0302 00000000 20", "is not a log's"},
		{"0101 00000000 20", "is not a log's"},
		{"0301 00000001 20", "tag 20 in segment 1"},
		{"0301 00000000 10 61 00 01", "tag 10 in segment 0"},
		{"0301 00000000 20 00", "1 bytes too many"},
		{"0301 00000000 30 000001", "ends within"},
		{"0301 00000000 30 00000000", "segment 0"},
		{"0301 00000000 30 00000001 00", "1 bytes too many"},
		{"0301 00000001 10 61", "no end mark"},
		{"0301 00000001 10 61 01", "ends within an escape"},
		{"0301 00000001 10 61 01 04 00 01", "unknown escape 01 04"},
		{"0301 00000001 10 61 00", "the sequence is missing"},
		{"0301 00000001 10 61 00 01 02", "1 bytes too many"},
		{"0301 00000001 77", "unknown tag"},
	} {
		_, err := ParseLogKey(key(t, c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.text, err, c.want)
		}
		if errors.Is(err, ErrLogTag) != (c.want == "unknown tag") {
			t.Error(err)
		}
	}
	for text, want := range map[string]string{"61 0101 0102 ff 0103 62": "610001ffff62", "": ""} {
		k, err := ParseLogKey(key(t, "0301 00000001 10"+text+"00 07"))
		if err != nil || hex.EncodeToString(k.Key) != want || k.Relative != 7 || k.Segment != 1 {
			t.Errorf("%s: %+v, %v", text, k, err)
		}
	}
}

func TestRowsOfTheSystemSegmentThatAreNone(t *testing.T) {
	for _, c := range []struct {
		key   string
		value []byte
	}{
		{"0301 00000000 20", nil},
		{"0301 00000000 20", pair(1<<63, 1<<63)},
		{"0301 00000000 30 00000001", make([]byte, 15)},
		{"ff", nil},
	} {
		var s LogState
		if err := s.Add(key(t, c.key), c.value); err == nil {
			t.Errorf("%s with %x is taken", c.key, c.value)
		}
	}
}

func TestKinds(t *testing.T) {
	for name, want := range map[string]string{
		"opendata-log/v1": "log", "opendata-log/v12": "log", "opendata-timeseries/v2": "timeseries", "opendata-vector/v1": "vector",
		"opendata-keyvalue/v1": "keyvalue", "opendata-log": "", "opendata-log/v": "", "opendata-log/v1x": "", "opendata-graph/v1": "", "log/v1": "", "": "",
	} {
		if got, ok := KindOfExtractor(name); got != want || ok != (want != "") {
			t.Errorf("%q: %q %v", name, got, ok)
		}
	}
	for _, name := range []string{"log", "timeseries", "vector"} {
		var raw struct{ Rows [][]json.RawMessage }
		readJSON(t, name+"/expected-raw.json", &raw)
		var first string
		if err := json.Unmarshal(raw.Rows[0][0], &first); err != nil {
			t.Fatal(err)
		}
		if got, ok := KindOfFirstKey(key(t, first)); got != name || !ok {
			t.Errorf("%s begins with %s: %q", name, first, got)
		}
	}
	for text, want := range map[string]string{"0401": "keyvalue", "": "", "03": "", "0300": "", "0001": "", "6b65": "", "0410": ""} {
		if got, _ := KindOfFirstKey(key(t, text)); got != want {
			t.Errorf("%s: %q", text, got)
		}
	}
}

func FuzzLogKey(f *testing.F) {
	for _, text := range []string{
		"0301 00000000 20", "0301 00000000 30 00000001", "0301 00000001 10 0101ff01020102 00 1011", "0301 00000001 40 00ff0101", "0301 00000001 10 00 80ffffffffffffffff",
	} {
		f.Add(key(f, text), pair(7, 9))
	}
	f.Fuzz(func(t *testing.T, b, value []byte) {
		k, err := ParseLogKey(b)
		var s LogState
		if added := s.Add(b, value); added == nil && err != nil && !errors.Is(err, ErrLogTag) {
			t.Errorf("%x is no key and was added", b)
		}
		s.Segments()
		s.TrimmedTo()
		for r, more := s.Next(); more; r, more = s.Next() {
			if bytes.Compare(r.From, r.To) >= 0 {
				t.Errorf("range %x-%x", r.From, r.To)
			}
			s.Done(r)
		}
		s.Head()
		if err == nil && !bytes.Equal(encode(k), b) && !bytes.Contains(b, []byte{1, 3}) {
			t.Errorf("%x was read as %+v", b, k)
		}
	})
}

// encode writes a key as the real log does.
func encode(k LogKey) []byte {
	if k.Tag == LogSegmentMeta {
		return binary.BigEndian.AppendUint32(append(segmentPrefix(0), byte(k.Tag)), k.Segment)
	}
	b := append(segmentPrefix(k.Segment), byte(k.Tag))
	if k.Tag == LogListing {
		return append(b, k.Key...)
	}
	if k.Tag == LogSequenceBlock {
		return b
	}
	for _, c := range k.Key {
		switch c {
		case 0:
			b = append(b, 1, 1)
		case 1:
			b = append(b, 1, 2)
		default:
			b = append(b, c)
		}
	}
	b = append(b, 0)
	more := 0
	for more < 8 && k.Relative >= 1<<(4+8*more) {
		more++
	}
	first := byte(more << 4)
	if more < 8 {
		first |= byte(k.Relative >> (8 * more))
	}
	b = append(b, first)
	for i := more - 1; i >= 0; i-- {
		b = append(b, byte(k.Relative>>(8*i)))
	}
	return b
}
