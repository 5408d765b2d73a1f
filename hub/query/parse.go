package query

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Limits of a filter, so that nobody can make the hub think for long.
const (
	MaxFilter = 8 << 10 // bytes
	maxDepth  = 32      // of parentheses and NOTs
)

// node is a parsed filter: one of the types below.
type node interface{ node() }

type (
	allOf  []node
	anyOf  []node
	not    struct{ of node }
	anyHas struct { // a quoted text on its own
		text string
	}
	restriction struct {
		parts   []string // of the dotted name
		cols    []int    // where each part begins, in bytes
		op      string   // "" when the name stands alone
		arg     string
		quoted  bool
		argAt   int  // in bytes
		present bool // written has:NAME
	}
)

func (allOf) node()        {}
func (anyOf) node()        {}
func (not) node()          {}
func (anyHas) node()       {}
func (*restriction) node() {}

// parser reads the grammar of AIP-160, where OR binds tighter than AND and
// juxtaposition is AND.
type parser struct {
	src   string
	pos   int
	depth int
}

// syntax is a refusal at a byte offset; the caller makes it an [*Error].
type syntax struct {
	at        int
	msg, hint string
}

func (e *syntax) Error() string { return e.msg }

func fail(at int, hint, format string, args ...any) error {
	return &syntax{at: at, msg: fmt.Sprintf(format, args...), hint: hint}
}

func parse(src string) (node, error) {
	if len(src) > MaxFilter {
		return nil, fail(0, "", "%d bytes, at most %d", len(src), MaxFilter)
	}
	if !utf8.ValidString(src) {
		return nil, fail(0, "", "not UTF-8")
	}
	p := &parser{src: src}
	p.space()
	if p.end() {
		return nil, nil
	}
	n, err := p.expression()
	if err != nil {
		return nil, err
	}
	if !p.end() {
		return nil, fail(p.pos, "", "%q is too much here", p.src[p.pos:p.pos+1])
	}
	return n, nil
}

func (p *parser) end() bool { return p.pos >= len(p.src) }

func (p *parser) space() bool {
	from := p.pos
	for !p.end() && strings.IndexByte(" \t\r\n", p.src[p.pos]) >= 0 {
		p.pos++
	}
	return p.pos > from
}

// keyword takes one of AND, OR, NOT when it stands there as a word.
func (p *parser) keyword(w string) bool {
	rest := p.src[p.pos:]
	if !strings.HasPrefix(rest, w) {
		return false
	}
	if rest = rest[len(w):]; rest != "" && strings.IndexByte(" \t\r\n()\"'", rest[0]) < 0 {
		return false
	}
	p.pos += len(w)
	p.space()
	return true
}

func (p *parser) enter() error {
	if p.depth++; p.depth > maxDepth {
		return fail(p.pos, "", "nested deeper than %d", maxDepth)
	}
	return nil
}

// expression: sequences joined by AND. A sequence of factors without a word
// between them is AND too, so both are read alike.
func (p *parser) expression() (node, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	var all allOf
	for {
		n, err := p.factor()
		if err != nil {
			return nil, err
		}
		all = append(all, n)
		if p.end() || p.src[p.pos] == ')' {
			break
		}
		p.keyword("AND")
	}
	if len(all) == 1 {
		return all[0], nil
	}
	return all, nil
}

func (p *parser) factor() (node, error) {
	var any anyOf
	for {
		n, err := p.term()
		if err != nil {
			return nil, err
		}
		any = append(any, n)
		p.space()
		if !p.keyword("OR") {
			break
		}
	}
	if len(any) == 1 {
		return any[0], nil
	}
	return any, nil
}

func (p *parser) term() (node, error) {
	if p.end() {
		return nil, fail(p.pos, `for example state = "live"`, "a condition is missing")
	}
	if p.keyword("NOT") || p.minus() {
		if err := p.enter(); err != nil {
			return nil, err
		}
		defer func() { p.depth-- }()
		n, err := p.term()
		return not{n}, err
	}
	if p.src[p.pos] == '(' {
		return p.group(p.expression)
	}
	return p.restriction()
}

func (p *parser) minus() bool {
	if p.src[p.pos] != '-' {
		return false
	}
	p.pos++
	return true
}

// group reads ( inner ).
func (p *parser) group(inner func() (node, error)) (node, error) {
	open := p.pos
	p.pos++
	p.space()
	n, err := inner()
	if err != nil {
		return nil, err
	}
	if p.end() || p.src[p.pos] != ')' {
		return nil, fail(open, "close it with )", "this parenthesis is not closed")
	}
	p.pos++
	p.space()
	return n, nil
}

func (p *parser) restriction() (node, error) {
	if c := p.src[p.pos]; c == '"' || c == '\'' {
		at := p.pos
		s, err := p.quoted()
		if err != nil {
			return nil, err
		}
		p.space()
		if op, _ := p.comparator(); op != "" {
			return nil, fail(at, "write the field without quotes", "a field's name cannot be quoted")
		}
		return anyHas{s}, nil
	}
	r := &restriction{}
	if err := p.member(r); err != nil {
		return nil, err
	}
	p.space()
	var err error
	if r.op, err = p.comparator(); err != nil {
		return nil, err
	}
	if r.op == "" {
		return r, nil
	}
	p.space()
	if r.op == ":" && len(r.parts) == 1 && r.parts[0] == "has" {
		r = &restriction{op: ":", arg: "*", present: true}
		if err := p.member(r); err != nil {
			return nil, err
		}
		p.space()
		return r, nil
	}
	if !p.end() && p.src[p.pos] == '(' {
		return p.group(func() (node, error) { return p.args(r) })
	}
	return p.arg(r)
}

// args reads several arguments of one comparison: state = (live OR stale).
func (p *parser) args(r *restriction) (node, error) {
	first, err := p.arg(r)
	if err != nil {
		return nil, err
	}
	word := ""
	nodes := []node{first}
	for !p.end() && p.src[p.pos] != ')' {
		at := p.pos
		var this string
		switch {
		case p.keyword("OR"):
			this = "OR"
		case p.keyword("AND"):
			this = "AND"
		default:
			return nil, fail(at, "for example (live OR stale)", "AND or OR is missing")
		}
		if word != "" && word != this {
			return nil, fail(at, "write two conditions", "AND and OR in one list")
		}
		word = this
		n, err := p.arg(r)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}
	switch {
	case len(nodes) == 1:
		return first, nil
	case word == "OR":
		return anyOf(nodes), nil
	}
	return allOf(nodes), nil
}

// arg completes a copy of r with the argument that stands here.
func (p *parser) arg(r *restriction) (node, error) {
	done := *r
	done.argAt = p.pos
	if p.end() || strings.IndexByte("()<>=!,", p.src[p.pos]) >= 0 {
		return nil, fail(p.pos, "", "%s %s what?", strings.Join(r.parts, "."), r.op)
	}
	if c := p.src[p.pos]; c == '"' || c == '\'' {
		s, err := p.quoted()
		if err != nil {
			return nil, err
		}
		done.arg, done.quoted = s, true
		if !p.end() && strings.IndexByte(" \t\r\n)", p.src[p.pos]) < 0 {
			return nil, fail(p.pos, "put a space before it", "%q right after a quoted text", p.src[p.pos:p.pos+1])
		}
		p.space()
		return &done, nil
	}
	done.arg = p.word(" \t\r\n()\"',<>=!")
	if !p.end() && strings.IndexByte(" \t\r\n)", p.src[p.pos]) < 0 {
		return nil, fail(p.pos, "quote the value", "%q in a value without quotes", p.src[p.pos:p.pos+1])
	}
	p.space()
	return &done, nil
}

func (p *parser) word(stop string) string {
	from := p.pos
	if i := strings.IndexAny(p.src[from:], stop); i >= 0 {
		p.pos = from + i
	} else {
		p.pos = len(p.src)
	}
	return p.src[from:p.pos]
}

// member reads a dotted name; parts after the first may be quoted.
func (p *parser) member(r *restriction) error {
	for {
		at := p.pos
		var part string
		if !p.end() && len(r.parts) > 0 && (p.src[p.pos] == '"' || p.src[p.pos] == '\'') {
			s, err := p.quoted()
			if err != nil {
				return err
			}
			part = unescape(s)
		} else {
			part = p.word(" \t\r\n()\"'<>=!:,.")
		}
		if part == "" {
			what := "the end"
			if at < len(p.src) {
				c, _ := utf8.DecodeRuneInString(p.src[at:])
				what = fmt.Sprintf("%q", c)
			}
			return fail(at, "", "a field's name is missing before %s", what)
		}
		r.parts, r.cols = append(r.parts, part), append(r.cols, at)
		if p.end() || p.src[p.pos] != '.' {
			return nil
		}
		p.pos++
	}
}

func (p *parser) comparator() (string, error) {
	rest := p.src[p.pos:]
	for _, op := range []string{"<=", ">=", "!=", "<", ">", "=", ":"} {
		if strings.HasPrefix(rest, op) {
			p.pos += len(op)
			if strings.HasPrefix(rest, "==") {
				return "", fail(p.pos, "write one =", "== is not a comparison")
			}
			return op, nil
		}
	}
	if strings.HasPrefix(rest, "!") || strings.HasPrefix(rest, "~") {
		return "", fail(p.pos, "comparisons are = != < <= > >= and : for has", "%q is not a comparison", rest[:1])
	}
	return "", nil
}

// quoted reads a text in single or double quotes; a backslash takes the next
// character as it is, and stays before a star so that it can be told from a
// wildcard.
func (p *parser) quoted() (string, error) {
	open, q := p.pos, p.src[p.pos]
	var b strings.Builder
	for i := open + 1; i < len(p.src); i++ {
		switch c := p.src[i]; {
		case c == q:
			p.pos = i + 1
			return b.String(), nil
		case c == '\\' && i+1 < len(p.src):
			i++
			switch p.src[i] {
			case 'n':
				b.WriteByte('\n')
			case 't':
				b.WriteByte('\t')
			case '*', '\\':
				b.WriteByte('\\')
				b.WriteByte(p.src[i])
			default:
				b.WriteByte(p.src[i])
			}
		default:
			b.WriteByte(c)
		}
	}
	return "", fail(open, "", "this quote is not closed")
}
