package cmd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// only is the resource as a table of the named fields, as -o json spells them.
func (r resource) only(fields string) resource {
	var names []string
	for _, f := range strings.Split(fields, ",") {
		if f = strings.TrimSpace(f); f != "" {
			names = append(names, f)
		}
	}
	r.header = func(bool) []string {
		var h []string
		for _, n := range names {
			h = append(h, strings.ToUpper(strings.ReplaceAll(n, "_", " ")))
		}
		return h
	}
	r.cells = func(raw json.RawMessage, _ bool) ([]string, error) {
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber() // positions and epochs are longer than a float
		var row any
		if err := d.Decode(&row); err != nil {
			return nil, fmt.Errorf("the hub's answer is not understood; is it of another version? %w", err)
		}
		var cells []string
		for _, n := range names {
			cells = append(cells, cellText(pick(row, strings.Split(n, "."))))
		}
		return cells, nil
	}
	return r
}

// pick follows a path into objects, and into each element of lists.
func pick(v any, path []string) any {
	if len(path) == 0 {
		return v
	}
	switch v := v.(type) {
	case map[string]any:
		// A label's name may have dots in it.
		if rest, ok := v[strings.Join(path, ".")]; ok {
			return rest
		}
		if next, ok := v[path[0]]; ok {
			return pick(next, path[1:])
		}
	case []any:
		out := make([]any, 0, len(v))
		for _, e := range v {
			out = append(out, pick(e, path))
		}
		return out
	}
	return absent{}
}

// absent is a field that the row does not have.
type absent struct{}

func cellText(v any) string {
	switch v := v.(type) {
	case absent:
		return ""
	case nil:
		return "?"
	case string:
		return v
	case []any:
		var parts []string
		for _, e := range v {
			parts = append(parts, cellText(e))
		}
		return strings.Join(parts, ",")
	case map[string]any:
		b, err := json.Marshal(v)
		if err != nil {
			return "?"
		}
		return string(b)
	}
	return fmt.Sprint(v)
}
