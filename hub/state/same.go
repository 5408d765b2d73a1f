package state

import (
	"maps"
	"slices"
	"strconv"
	"strings"
)

// same keeps one of what many declarations say alike: owners, contacts and sets
// of labels. It forgets everything now and then rather than grow without bound;
// then there are two of some.
type same struct {
	texts  map[string]string
	labels map[string]map[string]string
}

// mostSame bounds each of the two.
const mostSame = 1 << 16

func (s *same) text(t string) string {
	if t == "" {
		return ""
	}
	if one, ok := s.texts[t]; ok {
		return one
	}
	if s.texts == nil || len(s.texts) >= mostSame {
		s.texts = map[string]string{}
	}
	s.texts[t] = t
	return t
}

// set gives the labels, which nobody may change from now on.
func (s *same) set(l map[string]string) map[string]string {
	if len(l) == 0 {
		return nil
	}
	var key strings.Builder
	for _, k := range slices.Sorted(maps.Keys(l)) {
		key.WriteString(strconv.Itoa(len(k)) + ":" + k + strconv.Itoa(len(l[k])) + ":" + l[k])
	}
	if one, ok := s.labels[key.String()]; ok {
		return one
	}
	if s.labels == nil || len(s.labels) >= mostSame {
		s.labels = map[string]map[string]string{}
	}
	one := make(map[string]string, len(l))
	for k, v := range l {
		one[s.text(k)] = s.text(v)
	}
	s.labels[key.String()] = one
	return one
}
