package regions

import (
	"bytes"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/quarry-db/quarry/pkg/catalog"
)

// APIVersion is what documents begin with.
const APIVersion = "quarry/v1"

// Documents are the policies and holds of one file, in its order.
type Documents struct {
	Policies []Policy
	Holds    []Hold

	file   string
	bodies map[string]ast.Node // by kind and name: where errors point
}

// CheckIn refuses documents that name a region which the set does not have, or
// require more regions than they match. The error is a *[DocumentError].
func (d *Documents) CheckIn(set Set) error {
	for i := range d.Policies {
		p := &d.Policies[i]
		if field, err := p.checkIn(set); err != nil {
			return d.at(KindPolicy, p.Name, field, err)
		}
	}
	for i := range d.Holds {
		h := &d.Holds[i]
		if field, err := h.Select.checkIn(set); err != nil {
			return d.at(KindHold, h.Name, field, err)
		}
	}
	return nil
}

// at is an error of a field of one of the documents.
func (d *Documents) at(kind, name, field string, err error) error {
	if body := d.bodies[kind+" "+name]; body != nil {
		return at(d.file, body, field, err)
	}
	return &DocumentError{File: d.file, Field: field, Err: err}
}

// DocumentError says where in a file a document is wrong and what would be
// right. It wraps [ErrInvalid].
type DocumentError struct {
	File         string
	Line, Column int // from 1; 0: the document as a whole
	Field        string
	Err          error
}

func (e *DocumentError) Error() string {
	where := e.File
	if e.Line > 0 {
		where = fmt.Sprintf("%s:%d:%d", e.File, e.Line, e.Column)
	}
	what := strings.TrimSuffix(e.Err.Error(), ": "+ErrInvalid.Error())
	if e.Field != "" {
		what = e.Field + ": " + what
	}
	return where + ": " + what
}

func (e *DocumentError) Unwrap() error { return e.Err }

// maxDocument bounds a file: a thousand policies fit. The YAML library keeps a
// path for every level, and all tokens for every document: a small file of
// nothing but brackets or dashes would take all memory.
const (
	maxDocument  = 1 << 20
	maxDepth     = 64
	maxDocuments = 10_000
)

// bounded refuses files that are nested too deeply, or have too many documents,
// before they are parsed.
func bounded(file string, tokens token.Tokens) error {
	var open []int // columns of the lists and mappings that are open, outside of brackets
	brackets, documents := 0, 0
	for _, tk := range tokens {
		switch tk.Type {
		case token.DocumentHeaderType:
			documents++
		case token.SequenceStartType, token.MappingStartType:
			brackets++
		case token.SequenceEndType, token.MappingEndType:
			brackets = max(0, brackets-1)
		case token.SequenceEntryType, token.MappingKeyType, token.MappingValueType:
			of := tk
			if tk.Type == token.MappingValueType && tk.Prev != nil {
				of = tk.Prev // its key
			}
			if brackets > 0 && tk.Type == token.SequenceEntryType {
				brackets++ // it does not belong there, and is parsed all the same
			}
			if brackets > 0 || of.Position == nil {
				break
			}
			for len(open) > 0 && open[len(open)-1] >= of.Position.Column {
				open = open[:len(open)-1]
			}
			open = append(open, of.Position.Column)
		}
		var err error
		switch {
		case len(open)+brackets > maxDepth:
			err = fmt.Errorf("lists and mappings are nested more than %d deep here: %w", maxDepth, ErrInvalid)
		case documents > maxDocuments:
			err = fmt.Errorf("more than %d documents: split the file: %w", maxDocuments, ErrInvalid)
		default:
			continue
		}
		e := &DocumentError{File: file, Err: err}
		if tk.Position != nil {
			e.Line, e.Column = tk.Position.Line, tk.Position.Column
		}
		return e
	}
	return nil
}

// ParseDocuments reads policies and holds as YAML, several separated by "---".
// It is strict: a field it does not know, given twice, or out of range refuses
// the whole file, for it may be the one that was meant to hold something back.
// Errors are *[DocumentError]s.
func ParseDocuments(file string, b []byte) (out Documents, err error) {
	// The YAML library has more than once been made to panic by files that are
	// no YAML; whoever sends one is told that it cannot be read.
	defer func() {
		if p := recover(); p != nil {
			out, err = Documents{}, &DocumentError{File: file, Err: fmt.Errorf("this cannot be read as YAML: %v: %w", p, ErrInvalid)}
		}
	}()
	if len(b) > maxDocument {
		return out, &DocumentError{File: file, Err: fmt.Errorf("%d bytes, at most %d: %w", len(b), maxDocument, ErrInvalid)}
	}
	tokens := lexer.Tokenize(string(b))
	if err := bounded(file, tokens); err != nil {
		return out, err
	}
	f, err := parser.Parse(tokens, 0)
	if err != nil {
		return out, yamlError(file, err)
	}
	out.file, out.bodies = file, map[string]ast.Node{}
	for _, doc := range f.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.NullType || doc.Body.Type() == ast.CommentType {
			continue
		}
		if err := plain(file, doc.Body); err != nil {
			return Documents{}, err
		}
		kind, name, err := out.read(file, doc.Body)
		if err != nil {
			return Documents{}, err
		}
		if key := kind + " " + name; out.bodies[key] != nil {
			return Documents{}, at(file, doc.Body, "metadata.name", fmt.Errorf("%s %q is in this file twice: %w", kind, name, ErrInvalid))
		} else {
			out.bodies[key] = doc.Body
		}
	}
	if len(out.bodies) == 0 {
		return out, &DocumentError{File: file, Err: fmt.Errorf("no document: one begins with apiVersion: %s and kind: Policy: %w", APIVersion, ErrInvalid)}
	}
	return out, nil
}

type metadata struct {
	Name  string `yaml:"name"`
	Owner string `yaml:"owner"`
}

type head struct {
	APIVersion string   `yaml:"apiVersion"`
	Kind       string   `yaml:"kind"`
	Metadata   metadata `yaml:"metadata"`
}

// The documents as written: their head and their body side by side.
type policyDocument struct {
	Head   head `yaml:",inline"`
	Policy `yaml:",inline"`
}

type holdDocument struct {
	Head  head `yaml:",inline"`
	Hold  `yaml:",inline"`
	Until string `yaml:"until"`
}

func (d *Documents) read(file string, body ast.Node) (kind, name string, _ error) {
	if body.Type() != ast.MappingType {
		return "", "", at(file, body, "", fmt.Errorf("a document is a mapping that begins with apiVersion: %s and kind: Policy: %w", APIVersion, ErrInvalid))
	}
	var h head
	if err := yaml.NodeToValue(body, &h); err != nil {
		return "", "", yamlError(file, err)
	}
	switch {
	case h.APIVersion != APIVersion:
		return "", "", at(file, body, "apiVersion", fmt.Errorf("%q: this version of quarry reads %s: %w", h.APIVersion, APIVersion, ErrInvalid))
	case h.Kind != KindPolicy && h.Kind != KindHold:
		return "", "", at(file, body, "kind", fmt.Errorf("%q: Policy or Hold: %w", h.Kind, ErrInvalid))
	}
	if err := checkDocumentName(h.Metadata.Name); err != nil {
		return "", "", at(file, body, "metadata.name", err)
	}
	if h.Kind == KindPolicy {
		var p policyDocument
		if err := strictly(file, body, &p); err != nil {
			return "", "", err
		}
		p.Name, p.Owner, p.Applied.Source = h.Metadata.Name, h.Metadata.Owner, body.String()
		if field, err := p.Policy.check(); err != nil {
			return "", "", at(file, body, field, err)
		}
		d.Policies = append(d.Policies, p.Policy)
		return h.Kind, h.Metadata.Name, nil
	}
	var p holdDocument
	if err := strictly(file, body, &p); err != nil {
		return "", "", err
	}
	p.Name, p.Applied.Source = h.Metadata.Name, body.String()
	if field, err := p.check(); err != nil {
		return "", "", at(file, body, field, err)
	}
	d.Holds = append(d.Holds, p.Hold)
	return h.Kind, h.Metadata.Name, nil
}

// strictly decodes a node and refuses what it has no field for.
func strictly(file string, body ast.Node, into any) error {
	if err := yaml.NewDecoder(bytes.NewReader(nil), yaml.Strict(), yaml.DisallowUnknownField()).DecodeFromNode(body, into); err != nil {
		e := yamlError(file, err)
		if e.Line == 0 {
			e.Line, e.Column = culprit(body, e.Error())
		}
		return e
	}
	return nil
}

// plain refuses tags, anchors and aliases: a policy says what it means where it
// stands.
func plain(file string, body ast.Node) (err error) {
	ast.Walk(visit(func(n ast.Node) {
		switch n.Type() {
		case ast.TagType, ast.AnchorType, ast.AliasType, ast.MergeKeyType:
			if tk := n.GetToken(); err == nil && tk != nil && tk.Position != nil {
				err = &DocumentError{File: file, Line: tk.Position.Line, Column: tk.Position.Column,
					Err: fmt.Errorf("%s: write the value itself, without tags, anchors and aliases: %w", n.GetToken().Value, ErrInvalid)}
			}
		}
	}), body)
	return err
}

// culprit finds the value that an error quotes; values that are decoded by
// themselves, lengths of time and sizes, lose their place.
func culprit(body ast.Node, text string) (line, column int) {
	ast.Walk(visit(func(n ast.Node) {
		if s, ok := n.(ast.ScalarNode); ok && line == 0 {
			if tk := s.GetToken(); tk != nil && tk.Position != nil && strings.Contains(text, strconv.Quote(fmt.Sprint(s.GetValue()))) {
				line, column = tk.Position.Line, tk.Position.Column
			}
		}
	}), body)
	return line, column
}

type visit func(ast.Node)

func (v visit) Visit(n ast.Node) ast.Visitor { v(n); return v }

// yamlError has the place of an error of the YAML library in front.
func yamlError(file string, err error) *DocumentError {
	text := strings.TrimSpace(yaml.FormatError(err, false, false))
	e := &DocumentError{File: file}
	if place, what, ok := strings.Cut(strings.TrimPrefix(text, "["), "] "); ok && strings.HasPrefix(text, "[") {
		text = what
		_, _ = fmt.Sscanf(place, "%d:%d", &e.Line, &e.Column)
	}
	text, _, _ = strings.Cut(text, "\n")
	e.Err = fmt.Errorf("%s: %w", text, ErrInvalid)
	return e
}

// at is an error of a field given by its path, as in trim.require.atLeast or
// windows[1].cron.
func at(file string, body ast.Node, field string, err error) error {
	e := &DocumentError{File: file, Field: field, Err: err}
	node := body
	// The innermost part of the path that is written is where the eye should go.
	for path := field; path != ""; {
		if p, perr := yaml.PathString("$." + path); perr == nil {
			if n, ferr := p.FilterNode(body); ferr == nil && n != nil {
				node = n
				break
			}
		}
		if i := strings.LastIndexAny(path, ".["); i >= 0 {
			path = path[:i]
		} else {
			break
		}
	}
	if tk := node.GetToken(); tk != nil && tk.Position != nil {
		e.Line, e.Column = tk.Position.Line, tk.Position.Column
	}
	if node == body {
		if m, ok := body.(*ast.MappingNode); ok && len(m.Values) > 0 {
			pos := m.Values[0].Key.GetToken().Position
			e.Line, e.Column = pos.Line, pos.Column
		}
	}
	return e
}

func checkDocumentName(name string) error {
	if len(name) > 63 || CheckName(name) != nil {
		return fmt.Errorf("%q: 1 to 63 letters and digits, with '-', '_' and '.' between: %w", name, ErrInvalid)
	}
	return nil
}

// check completes the policy with its defaults and refuses what makes no sense;
// field is the path of what is wrong.
func (p *Policy) check() (field string, err error) {
	if field, err := p.Select.check(); err != nil {
		return field, err
	}
	if t := p.Trim; t != nil {
		if field, err := t.check(); err != nil {
			return "trim." + field, err
		}
	}
	r := &p.RestorePoints
	if r.PerRegion == 0 {
		r.PerRegion = 1
	}
	for _, n := range []struct {
		field string
		value int
		least int
	}{
		{"restorePoints.perRegion", r.PerRegion, 1}, {"restorePoints.total", r.Total, 0},
		{"restorePoints.keep.hourly", r.Keep.Hourly, 0}, {"restorePoints.keep.daily", r.Keep.Daily, 0}, {"restorePoints.keep.weekly", r.Keep.Weekly, 0},
	} {
		if n.value < n.least || n.value > 10_000 {
			return n.field, fmt.Errorf("%d: between %d and 10000: %w", n.value, n.least, ErrInvalid)
		}
	}
	if r.SweepOrphans.Enabled && r.SweepOrphans.OlderThan < Duration(10*time.Minute) {
		return "restorePoints.sweepOrphans.olderThan", fmt.Errorf("%s: at least 10m, for an upload in progress looks like an orphan; 48h is usual: %w", r.SweepOrphans.OlderThan, ErrInvalid)
	}
	if d := p.Delete; d != nil {
		for i, what := range d.Requires {
			if !slices.Contains(deleteNeeds, what) {
				return fmt.Sprintf("delete.requires[%d]", i), fmt.Errorf("%q: one of %s: %w", what, strings.Join(deleteNeeds, ", "), ErrInvalid)
			}
		}
		if d.Approvals.Count < 0 || d.Approvals.Count > 10 {
			return "delete.approvals.count", fmt.Errorf("%d: between 0 and 10: %w", d.Approvals.Count, ErrInvalid)
		}
		if f := d.Final; f != nil {
			if err := CheckName(f.ArchiveTo); err != nil {
				return "delete.final.archiveTo", err
			}
			if f.Proof != "" && f.Proof != "verified" {
				return "delete.final.proof", fmt.Errorf("%q: verified: %w", f.Proof, ErrInvalid)
			}
		}
	}
	if s := p.Seed; s != nil {
		if s.Sources != "" && !slices.Contains([]string{"nearest", "cheapest", "freshest"}, s.Sources) {
			return "seed.sources", fmt.Errorf("%q: one of nearest, cheapest, freshest: %w", s.Sources, ErrInvalid)
		}
		if s.Concurrency < 0 || s.Concurrency > 256 {
			return "seed.concurrency", fmt.Errorf("%d: between 1 and 256: %w", s.Concurrency, ErrInvalid)
		}
		if s.Verify != "" && s.Verify != "full" && s.Verify != "sizes" {
			return "seed.verify", fmt.Errorf("%q: full or sizes: %w", s.Verify, ErrInvalid)
		}
	}
	for i := range p.Windows {
		w := &p.Windows[i]
		if field, err := checkActions("allow", w.Allow); err != nil {
			return fmt.Sprintf("windows[%d].%s", i, field), err
		}
		if field, err := checkActions("deny", w.Deny); err != nil {
			return fmt.Sprintf("windows[%d].%s", i, field), err
		}
		if field, err := w.check(); err != nil {
			return strings.TrimSuffix(fmt.Sprintf("windows[%d].%s", i, field), "."), err
		}
	}
	if l := p.Limits; l != nil {
		if l.PerHour.Slates < 0 {
			return "limits.perHour.slates", fmt.Errorf("%d: a number of slates: %w", l.PerHour.Slates, ErrInvalid)
		}
		if b := l.PerHour.BytesPercent; math.IsNaN(b) || b < 0 || b > 100 {
			return "limits.perHour.bytesPercent", fmt.Errorf("%v: between 0 and 100: %w", b, ErrInvalid)
		}
	}
	return "", nil
}

var deleteNeeds = []string{"no-writer", "no-reader", "no-clone", "backlog-zero", "owner-ack"}

func (t *Trim) check() (field string, err error) {
	r := &t.Require
	switch {
	case r.All && r.AtLeast != 0:
		return "require", fmt.Errorf("all and atLeast together: say one: %w", ErrInvalid)
	case !r.All && r.AtLeast == 0:
		return "require", fmt.Errorf("say which regions must have archived: {all: true}, or {atLeast: 2}: %w", ErrInvalid)
	case r.AtLeast < 0:
		return "require.atLeast", fmt.Errorf("%d: at least 1: %w", r.AtLeast, ErrInvalid)
	}
	for i, name := range r.Include {
		if err := CheckName(name); err != nil {
			return fmt.Sprintf("require.include[%d]", i), err
		}
	}
	if m := t.MaxLag; m != nil {
		if m.Positions == 0 && m.Age == 0 {
			return "maxLag", fmt.Errorf("say how far: positions, or age: %w", ErrInvalid)
		}
		if !slices.Contains([]Then{ThenAlert, ThenBlock, ThenRequestSnapshot}, m.Then) {
			return "maxLag.then", fmt.Errorf("%q: one of alert, block, request-snapshot: %w", m.Then, ErrInvalid)
		}
	}
	return "", nil
}

func (s *Select) check() (field string, err error) {
	if field, err := checkChoice(s.Labels, s.Kinds, s.Names); err != nil {
		return "select." + field, err
	}
	for i, g := range s.Regions {
		if g == "" || CheckName(strings.Map(unglob, g)) != nil {
			return fmt.Sprintf("select.regions[%d]", i), fmt.Errorf("%q: a region, or a pattern such as eu-*: %w", g, ErrInvalid)
		}
	}
	if e := s.Except; e != nil {
		if reflect.DeepEqual(*e, Except{}) {
			return "select.except", fmt.Errorf("it takes out nothing: name labels, kinds or names: %w", ErrInvalid)
		}
		if field, err := checkChoice(e.Labels, e.Kinds, e.Names); err != nil {
			return "select.except." + field, err
		}
	}
	return "", nil
}

func unglob(r rune) rune {
	if r == '*' || r == '?' {
		return 'x'
	}
	return r
}

func checkChoice(labels map[string]string, kinds []catalog.Kind, names []string) (field string, err error) {
	for k := range labels {
		if k == "" {
			return "labels", fmt.Errorf("a label without a name: %w", ErrInvalid)
		}
	}
	for i, k := range kinds {
		if !slices.Contains(catalog.Kinds, k) {
			return fmt.Sprintf("kinds[%d]", i), fmt.Errorf("%q: one of %v: %w", k, catalog.Kinds, ErrInvalid)
		}
	}
	for i, n := range names {
		if n == "" {
			return fmt.Sprintf("names[%d]", i), fmt.Errorf("an empty name selects nothing: a name, or a pattern such as orders*: %w", ErrInvalid)
		}
	}
	return "", nil
}

func checkActions(field string, list []Action) (string, error) {
	for i, a := range list {
		if !slices.Contains([]Action{ActionTrim, ActionPrune, ActionDelete, ActionSeed, ActionAll}, a) {
			return fmt.Sprintf("%s[%d]", field, i), fmt.Errorf("%q: one of trim, prune, delete, seed, all: %w", a, ErrInvalid)
		}
	}
	return "", nil
}

func (h *holdDocument) check() (field string, err error) {
	if field, err := h.Select.check(); err != nil {
		return field, err
	}
	if len(h.Select.Labels) == 0 && len(h.Select.Kinds) == 0 && len(h.Select.Names) == 0 {
		return "select", fmt.Errorf("a hold names what it holds: labels, kinds or names; all is names: [\"*\"]: %w", ErrInvalid)
	}
	if field, err := checkActions("scope", h.Scope); err != nil {
		return field, err
	}
	switch h.Until {
	case "", "released":
	default:
		t, err := time.Parse(time.RFC3339, h.Until)
		if err != nil {
			if t, err = time.Parse(time.DateOnly, h.Until); err != nil {
				return "until", fmt.Errorf("%q: released, a day such as 2027-01-31 or a moment: %w", h.Until, ErrInvalid)
			}
		}
		h.Hold.Until = &t
	}
	if h.Enforce == "checkpoint" && (h.Hold.Name == catalog.PurposeTrim || h.Hold.Name == catalog.PurposeRestorePoint) {
		return "metadata.name", fmt.Errorf("%q: agents hold for trimming and for restore points by these names; give a hold that is enforced another one: %w", h.Hold.Name, ErrInvalid)
	}
	if h.Enforce != "" && h.Enforce != "checkpoint" {
		return "enforce", fmt.Errorf("%q: checkpoint: %w", h.Enforce, ErrInvalid)
	}
	return "", nil
}
