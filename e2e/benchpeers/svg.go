package main

import (
	"bytes"
	"fmt"
	"math"
)

// chart draws a few lines over logarithmic axes, written by hand so that the
// picture is small, has no script, and is readable on light and dark pages.
type chart struct {
	file, title, unit string
	lines             []*line
}

type line struct {
	name   string
	points [][2]float64
}

func (c *chart) point(name string, x, y float64) {
	for _, l := range c.lines {
		if l.name == name {
			l.points = append(l.points, [2]float64{x, y})
			return
		}
	}
	c.lines = append(c.lines, &line{name, [][2]float64{{x, y}}})
}

// Colours that differ for colour-blind eyes, too; the marks differ as well.
var colours = map[string]string{"Quarry": "#c2410c", "PostgreSQL": "#1d4ed8", "Redis": "#7c3aed", "CRD": "#57534e"}

const (
	width, height            = 420, 300
	left, right, top, bottom = 58, 92, 40, 42
)

func (c *chart) svg() []byte {
	x0, x1, y0, y1 := math.Inf(1), math.Inf(-1), math.Inf(1), math.Inf(-1)
	for _, l := range c.lines {
		for _, p := range l.points {
			x0, x1 = min(x0, math.Log10(p[0])), max(x1, math.Log10(p[0]))
			y0, y1 = min(y0, math.Log10(p[1])), max(y1, math.Log10(p[1]))
		}
	}
	// Whole decades, and at least one of them.
	x0, x1, y0, y1 = math.Floor(x0), math.Ceil(x1), math.Floor(y0), math.Ceil(y1)
	x1, y1 = max(x1, x0+1), max(y1, y0+1)
	px := func(v float64) float64 { return left + (math.Log10(v)-x0)/(x1-x0)*(width-left-right) }
	py := func(v float64) float64 { return height - bottom - (math.Log10(v)-y0)/(y1-y0)*(height-top-bottom) }

	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s" font-family="system-ui, sans-serif" font-size="11">`+"\n", width, height, width, height, escape(c.title))
	fmt.Fprintf(&b, `<rect width="%d" height="%d" rx="6" fill="#fcfcfb"/>`+"\n", width, height)
	fmt.Fprintf(&b, `<text x="%d" y="22" font-size="13" font-weight="600" fill="#1c1917">%s</text>`+"\n", 12, escape(c.title))
	for e := y0; e <= y1; e++ {
		y := py(math.Pow(10, e))
		fmt.Fprintf(&b, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#e7e5e4"/><text x="%d" y="%.1f" text-anchor="end" fill="#57534e">%s %s</text>`+"\n",
			left, y, width-right, y, left-6, y+4, short(math.Pow(10, e)), escape(c.unit))
	}
	for e := x0; e <= x1; e++ {
		x := px(math.Pow(10, e))
		fmt.Fprintf(&b, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="#e7e5e4"/><text x="%.1f" y="%d" text-anchor="middle" fill="#57534e">%s</text>`+"\n",
			x, top, x, height-bottom, x, height-bottom+16, thousands(int(math.Pow(10, e))))
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle" fill="#57534e">placements</text>`+"\n", (left+width-right)/2, height-8)
	for i, l := range c.lines {
		colour := colours[l.name]
		b.WriteString(`<polyline fill="none" stroke="` + colour + `" stroke-width="2" points="`)
		for _, p := range l.points {
			fmt.Fprintf(&b, "%.1f,%.1f ", px(p[0]), py(p[1]))
		}
		b.WriteString(`"/>` + "\n")
		for _, p := range l.points {
			mark(&b, i, px(p[0]), py(p[1]), colour, fmt.Sprintf("%s, %s placements: %s %s", l.name, thousands(int(p[0])), short(p[1]), c.unit))
		}
		last := l.points[len(l.points)-1]
		fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" fill="%s">%s</text>`+"\n", px(last[0])+8, c.labelAt(i, py), colour, escape(l.name))
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// labelAt keeps the names of lines that end close together apart.
func (c *chart) labelAt(i int, py func(float64) float64) float64 {
	end := func(l *line) float64 { return py(l.points[len(l.points)-1][1]) + 4 }
	y := end(c.lines[i])
	for k := range i {
		if d := y - end(c.lines[k]); math.Abs(d) < 12 {
			y += math.Copysign(12-math.Abs(d), d)
		}
	}
	return y
}

func mark(b *bytes.Buffer, i int, x, y float64, colour, says string) {
	const r = 3.5
	open := fmt.Sprintf(` fill="%s"><title>%s</title>`, colour, escape(says))
	switch i % 3 {
	case 0:
		fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="%.1f"%s</circle>`+"\n", x, y, r, open)
	case 1:
		fmt.Fprintf(b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f"%s</rect>`+"\n", x-r, y-r, 2*r, 2*r, open)
	default:
		fmt.Fprintf(b, `<path d="M%.1f %.1fl%.1f %.1fh%.1fz"%s</path>`+"\n", x, y-r-1, r+1, 2*r, -2*(r+1), open)
	}
}

func escape(s string) string {
	var b bytes.Buffer
	for _, r := range s {
		switch r {
		case '<':
			b.WriteString("&lt;")
		case '&':
			b.WriteString("&amp;")
		case '"':
			b.WriteString("&quot;")
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
