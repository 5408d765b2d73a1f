package ledger

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// viewHeader is the first line of a saved view.
type viewHeader struct {
	header
	Seq   uint64    `json:"seq"`
	Event uint64    `json:"event"`
	At    time.Time `json:"at"`
}

// partRow is a line that tells of a part.
type partRow struct {
	Name  string `json:"name"`
	Bytes int    `json:"bytes"` // compressed
	Rows  int    `json:"rows"`
	Shape string `json:"shape,omitempty"` // how rows lie in bytes; see hub/pack
}

// viewRow is one line of it: what it is, and the row.
type viewRow struct {
	Is  string `json:"is"`
	Row any    `json:"row"`
}

type rawRow struct {
	Is  string          `json:"is"`
	Row json.RawMessage `json:"row"`
}

// maxView bounds what a saved view may unpack to, in bytes.
const maxView = 8 << 30

// maxHead bounds what a saved view's head may unpack to, or a whole view of
// quarry 0.1, and maxWindow how far back its compression may refer.
const (
	maxHead   = 1 << 30
	maxWindow = 64 << 20
)

func viewKey(n uint64) string { return numbered(viewFolder, n, "") }

// SaveView writes a view under the next number, and then deletes all but it
// and the one before. Killed at any moment it leaves a view that can be read,
// or the one before.
func (l *Ledger) SaveView(ctx context.Context, v *view.View) error {
	packed, err := packView(l.claim.Number, v)
	if err != nil {
		return fmt.Errorf("save the view: %w", err)
	}
	n := l.nextView
	if err := l.store.PutNew(ctx, viewKey(n), packed); err != nil {
		// Whatever lies there now is passed over by its checksum; the next try
		// takes the next number. Another hub is found by its claim.
		l.nextView++
		l.views = append(l.views, n)
		return fmt.Errorf("save the view as %s: %w", viewKey(n), err)
	}
	l.nextView++
	l.views = append(l.views, n)
	for len(l.views) > 2 {
		if err := l.remove(ctx, viewKey(l.views[0])); err != nil {
			l.log.Warn("an old saved view stays", "key", viewKey(l.views[0]), "error", err)
			return nil
		}
		l.views = l.views[1:]
	}
	return nil
}

// viewMagic begins a saved view. Its parts follow, each compressed by itself,
// so that they can be read side by side: placements and slates by columns, the
// smaller tables as packed rows. It ends with the compressed head, lines of
// JSON that say what the parts are, and how long the head is.
const viewMagic = "quarry view 3\n"

const (
	placementsPart = "placements"
	slatesPart     = "slates"
)

func packView(claim uint64, v *view.View) ([]byte, error) {
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true))
	if err != nil {
		return nil, err
	}
	frame := func(write func(io.Writer) error) error {
		z.Reset(&out)
		w := bufio.NewWriterSize(z, 1<<20)
		if err := write(w); err != nil {
			return err
		}
		if err := w.Flush(); err != nil {
			return err
		}
		return z.Close()
	}
	out.WriteString(viewMagic)
	var told []*partRow
	part := func(name, shape string, rows int, write func(io.Writer) error) error {
		at := out.Len()
		if err := frame(write); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		told = append(told, &partRow{name, out.Len() - at, rows, shape})
		return nil
	}
	if err := part(placementsPart, "", v.PlacementTable().Len(), v.WritePlacements); err != nil {
		return nil, err
	}
	if err := part(slatesPart, "", v.SlateTable().Len(), v.WriteSlates); err != nil {
		return nil, err
	}
	beside := state.Beside(v)
	for _, p := range parts(beside) {
		if err := part(p.name, p.shape, p.rows(), p.write); err != nil {
			return nil, err
		}
	}
	var b bytes.Buffer
	line(&b, viewHeader{header{format, claim}, v.Seq(), v.LastEvent(), v.At()})
	rows := lines(&b, "region", slices.Values(beside.Regions))
	rows += lines(&b, "cluster", slices.Values(beside.Clusters))
	rows += lines(&b, "part", slices.Values(told))
	seal(&b, rows)
	at := out.Len()
	if err := frame(func(w io.Writer) error { _, err := w.Write(b.Bytes()); return err }); err != nil {
		return nil, err
	}
	return binary.LittleEndian.AppendUint64(out.Bytes(), uint64(out.Len()-at)), nil
}

func lines[T any](b *bytes.Buffer, is string, rows iter.Seq[*T]) (n int) {
	for r := range rows {
		line(b, viewRow{is, r})
		n++
	}
	return n
}

// readView reads the newest saved view that is whole; nil when there is none.
func (l *Ledger) readView(ctx context.Context) (*state.SavedView, error) {
	all, err := l.numbers(ctx, viewFolder, "")
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", viewFolder, err)
	}
	l.views, l.nextView = all, 1
	if len(all) > 0 {
		l.nextView = all[len(all)-1] + 1
	}
	for i := len(all) - 1; i >= 0; i-- {
		key := viewKey(all[i])
		b, err := l.store.Get(ctx, key)
		if err == nil {
			var v *state.SavedView
			if v, err = unpackView(b); err == nil {
				return v, nil
			}
		}
		if !errors.Is(err, errDamaged) && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read %s: %w", key, err)
		}
		l.log.Warn("saved view passed over", "key", key, "error", err)
	}
	return nil, nil
}

// unpack reads a compressed part from its beginning to its end.
func unpack(b []byte, read func(*bufio.Reader) error) error {
	z, err := zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxView), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return fmt.Errorf("unpack: %w: %w", err, errDamaged)
	}
	defer z.Close()
	in := bufio.NewReaderSize(z, 256<<10)
	if err := read(in); err != nil {
		return fmt.Errorf("unpack: %w: %w", err, errDamaged)
	}
	switch n, err := io.Copy(io.Discard, in); {
	case err != nil:
		return fmt.Errorf("unpack: %w: %w", err, errDamaged)
	case n > 0:
		return fmt.Errorf("unpack: %d bytes too much: %w", n, errDamaged)
	}
	return nil
}

func unpackView(b []byte) (*state.SavedView, error) {
	head, byParts := b, false
	var body []byte
	if rest, ok := bytes.CutPrefix(b, []byte(viewMagic)); ok {
		byParts = true
		n := uint64(0)
		if at := len(rest) - 8; at >= 0 {
			n = binary.LittleEndian.Uint64(rest[at:])
			rest = rest[:at]
		}
		if n == 0 || n > uint64(len(rest)) {
			return nil, fmt.Errorf("not written to its end: %w", errDamaged)
		}
		at := len(rest) - int(n)
		body, head = rest[:at], rest[at:]
	}
	var plain []byte
	if err := unpack(head, func(in *bufio.Reader) (err error) {
		plain, err = io.ReadAll(io.LimitReader(in, maxHead+1))
		if err == nil && len(plain) > maxHead {
			err = fmt.Errorf("more than %d bytes", maxHead)
		}
		return err
	}); err != nil {
		return nil, err
	}
	first, rows, err := unseal(plain)
	if err != nil {
		return nil, err
	}
	var h viewHeader
	if err := json.Unmarshal(first, &h); err != nil {
		return nil, fmt.Errorf("first line: %w: %w", err, errDamaged)
	}
	var told []*partRow
	v := &state.SavedView{Seq: h.Seq, Event: h.Event, At: h.At}
	for i, b := range rows {
		var r rawRow
		if err := json.Unmarshal(b, &r); err != nil {
			return nil, fmt.Errorf("row %d: %w: %w", i+1, err, errDamaged)
		}
		switch r.Is {
		case "region":
			err = take(&v.Regions, r.Row)
		case "cluster":
			err = take(&v.Clusters, r.Row)
		case "placement":
			err = take(&v.Placements, r.Row)
		case "restore-point":
			err = take(&v.RestorePoints, r.Row)
		case "owner":
			err = take(&v.Owners, r.Row)
		case "finding":
			err = take(&v.Findings, r.Row)
		case "part":
			err = take(&told, r.Row)
		case "registration":
			err = take(&v.Registrations, r.Row)
		case "lease":
			err = take(&v.Leases, r.Row)
		case "held":
			err = take(&v.Held, r.Row)
		default:
			err = fmt.Errorf("a row of %q", r.Is)
		}
		if err != nil {
			return nil, fmt.Errorf("row %d: %w: %w", i+1, err, errDamaged)
		}
	}
	if !byParts {
		return v, nil // of quarry 0.1
	}
	if err := readParts(v, told, body); err != nil {
		return nil, err
	}
	return v, nil
}

// readParts reads the parts side by side.
func readParts(v *state.SavedView, told []*partRow, body []byte) error {
	known, found := parts(v), map[string]*partRow{}
	at := map[string][]byte{}
	for _, p := range told {
		if p.Bytes < 0 || p.Bytes > len(body) || found[p.Name] != nil {
			return fmt.Errorf("%s: not written to its end: %w", p.Name, errDamaged)
		}
		found[p.Name], at[p.Name], body = p, body[:p.Bytes], body[p.Bytes:]
	}
	for _, young := range []string{permitsPart, pinsPart} {
		if found[young] == nil { // saved before there were any
			known = slices.DeleteFunc(known, func(p part) bool { return p.name == young })
		}
	}
	for _, k := range known {
		if p := found[k.name]; p == nil || p.Shape != k.shape {
			return fmt.Errorf("%s are of another version of quarry: %w", k.name, errDamaged)
		}
	}
	if len(body) > 0 || len(told) != len(known)+2 {
		return fmt.Errorf("%d bytes and %d parts: %w", len(body), len(told), errDamaged)
	}
	var reading errgroup.Group
	reading.Go(func() error {
		return unpack(at[placementsPart], func(placements *bufio.Reader) error {
			return unpack(at[slatesPart], func(slates *bufio.Reader) (err error) {
				v.Tables, err = view.ReadTables(placements, slates)
				return err
			})
		})
	})
	for _, k := range known {
		reading.Go(func() error {
			err := unpack(at[k.name], k.read)
			if rows := k.rows(); err == nil && rows != found[k.name].Rows {
				err = fmt.Errorf("%d rows, %d promised: %w", rows, found[k.name].Rows, errDamaged)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", k.name, err)
			}
			return nil
		})
	}
	if err := reading.Wait(); err != nil {
		return err
	}
	if found[pinsPart] == nil {
		// What agents told of them then is not here: it is not counted either, so
		// that it is told again.
		v.Held = slices.DeleteFunc(v.Held, func(h *view.Held) bool { return h.Kind == catalog.FactHold })
	}
	return nil
}

func take[T any](into *[]*T, b []byte) error {
	row := new(T)
	if err := json.Unmarshal(b, row); err != nil {
		return err
	}
	*into = append(*into, row)
	return nil
}
