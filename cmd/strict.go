package cmd

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// decodeStrict reads YAML and refuses fields it does not know; its errors name
// the file, the line, the column and the field. What the file does not say
// stays as it was in into.
func decodeStrict(file string, b []byte, into any) (err error) {
	// The YAML library can be made to panic by files that are no YAML.
	defer func() {
		if p := recover(); p != nil {
			err = usagef("%s: this cannot be read as YAML: %v", file, p)
		}
	}()
	if len(fieldsOf(b)) == 0 && emptyYAML(b) {
		return nil // the decoder would make everything zero
	}
	if err = yaml.UnmarshalWithOptions(b, into, yaml.Strict()); err == nil {
		return nil
	}
	// goccy's form is "[line:column] what".
	text := strings.TrimSpace(yaml.FormatError(err, false, false))
	if at, what, ok := strings.Cut(strings.TrimPrefix(text, "["), "] "); ok && strings.HasPrefix(text, "[") {
		what, _, _ = strings.Cut(what, "\n")
		if f := culprit(b, into); f != nil && !strings.Contains(what, f.name) {
			what = f.name + ": " + what
		}
		return usagef("%s:%s: %s", file, at, what)
	}
	if f := culprit(b, into); f != nil {
		return usagef("%s:%s: %s: %s", file, f.at, f.name, text)
	}
	return usagef("%s: %s", file, text)
}

// inFile puts the place in front of an error that begins with a field's name,
// when that field is in the file. Whatever a flag said instead is not.
func inFile(file string, b []byte, changed func(flag string) bool, err error) error {
	for _, f := range fieldsOf(b) {
		if strings.HasPrefix(err.Error(), f.name+" ") && !changed(f.name) {
			return fmt.Errorf("%s:%s: %w", file, f.at, err)
		}
	}
	if file != "" {
		return fmt.Errorf("%s: %w", file, err)
	}
	return err
}

// field is a key at the top of a file and where it is, as line:column.
type field struct {
	name, at string
	node     *ast.MappingValueNode
}

func fieldsOf(b []byte) []field {
	f, err := parser.ParseBytes(b, 0)
	if err != nil {
		return nil
	}
	var out []field
	for _, doc := range f.Docs {
		m, ok := doc.Body.(*ast.MappingNode)
		if !ok {
			continue
		}
		for _, v := range m.Values {
			at := v.Key.GetToken().Position
			out = append(out, field{v.Key.String(), fmt.Sprintf("%d:%d", at.Line, at.Column), v})
		}
	}
	return out
}

// culprit is the field that cannot be decoded alone.
func culprit(b []byte, into any) *field {
	for _, f := range fieldsOf(b) {
		alone := reflect.New(reflect.TypeOf(into).Elem()).Interface()
		if yaml.Unmarshal([]byte(f.node.String()), alone) != nil {
			return &f
		}
	}
	return nil
}

// emptyYAML tells files of nothing but comments and space.
func emptyYAML(b []byte) bool {
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if line != "" && line != "---" && !strings.HasPrefix(line, "#") {
			return false
		}
	}
	return true
}
