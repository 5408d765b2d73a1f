package slatedb

import (
	"bytes"

	"github.com/quarry-db/quarry/pkg/slatedb/manifest"
)

// span is the keys from ≤ key < to. A nil to is no bound; a nil from and an
// empty one are the same.
type span struct{ from, to []byte }

func (s span) empty() bool { return s.to != nil && bytes.Compare(s.from, s.to) >= 0 }

func (s span) has(key []byte) bool {
	return bytes.Compare(key, s.from) >= 0 && (s.to == nil || bytes.Compare(key, s.to) < 0)
}

// and returns the keys in both.
func (s span) and(o span) span {
	if bytes.Compare(o.from, s.from) > 0 {
		s.from = o.from
	}
	if o.to != nil && (s.to == nil || bytes.Compare(o.to, s.to) < 0) {
		s.to = o.to
	}
	return s
}

// after is the first key greater than key.
func after(key []byte) []byte { return append(bytes.Clone(key), 0) }

// visible is what may be read of a table.
func visible(r *manifest.Range) span {
	var s span
	if r == nil {
		return s
	}
	if !r.Start.Unbounded {
		s.from = r.Start.Key
		if !r.Start.Inclusive {
			s.from = after(s.from)
		}
	}
	if !r.End.Unbounded {
		s.to = bytes.Clone(r.End.Key)
		if s.to == nil {
			s.to = []byte{}
		}
		if r.End.Inclusive {
			s.to = after(s.to)
		}
	}
	return s
}

// stored is the keys that can be in a table by its first and last key.
func stored(i manifest.Info) span {
	s := span{from: i.FirstKey}
	if i.LastKey != nil {
		s.to = after(i.LastKey)
	}
	return s
}

// prefixed is the keys that begin with prefix.
func prefixed(prefix []byte) span {
	s := span{from: prefix}
	for n := len(prefix); n > 0; n-- {
		if prefix[n-1] != 0xff {
			s.to = append(bytes.Clone(prefix[:n-1]), prefix[n-1]+1)
			break
		}
	}
	return s
}
