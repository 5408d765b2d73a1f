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

	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/hub/view"
)

// viewHeader is the first line of a saved view.
type viewHeader struct {
	header
	Seq   uint64    `json:"seq"`
	Event uint64    `json:"event"`
	At    time.Time `json:"at"`
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

// viewMagic begins a saved view, before it is compressed: its small tables as
// lines of JSON behind their length, then placements and slates by columns.
const viewMagic = "quarry view 2\n"

func packView(claim uint64, v *view.View) ([]byte, error) {
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true))
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	line(&b, viewHeader{header{format, claim}, v.Seq(), v.LastEvent(), v.At()})
	beside := state.Beside(v)
	rows := 0
	rows += lines(&b, "region", slices.Values(beside.Regions))
	rows += lines(&b, "cluster", slices.Values(beside.Clusters))
	rows += lines(&b, "restore-point", slices.Values(beside.RestorePoints))
	rows += lines(&b, "owner", slices.Values(beside.Owners))
	rows += lines(&b, "finding", slices.Values(beside.Findings))
	rows += lines(&b, "registration", slices.Values(beside.Registrations))
	rows += lines(&b, "lease", slices.Values(beside.Leases))
	rows += lines(&b, "held", slices.Values(beside.Held))
	seal(&b, rows)
	head := binary.LittleEndian.AppendUint64([]byte(viewMagic), uint64(b.Len()))
	for _, part := range [][]byte{head, b.Bytes()} {
		if _, err := z.Write(part); err != nil {
			return nil, err
		}
	}
	w := bufio.NewWriterSize(z, 1<<20)
	if err := v.WriteTables(w); err != nil {
		return nil, err
	}
	if err := w.Flush(); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
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

func unpackView(b []byte) (*state.SavedView, error) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxView))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	if err := z.Reset(bytes.NewReader(b)); err != nil {
		return nil, fmt.Errorf("unpack: %w: %w", err, errDamaged)
	}
	in := bufio.NewReaderSize(z, 1<<20)
	var plain []byte
	byColumns := false
	if magic, _ := in.Peek(len(viewMagic)); string(magic) == viewMagic {
		byColumns = true
		var head [len(viewMagic) + 8]byte
		if _, err := io.ReadFull(in, head[:]); err != nil {
			return nil, fmt.Errorf("unpack: %w: %w", err, errDamaged)
		}
		n := binary.LittleEndian.Uint64(head[len(viewMagic):])
		if n > maxView {
			return nil, fmt.Errorf("unpack: %d bytes of small tables: %w", n, errDamaged)
		}
		plain, err = io.ReadAll(io.LimitReader(in, int64(n)))
	} else {
		plain, err = io.ReadAll(io.LimitReader(in, maxView)) // of quarry 0.1
	}
	if err != nil {
		return nil, fmt.Errorf("unpack: %w: %w", err, errDamaged)
	}
	first, rows, err := unseal(plain)
	if err != nil {
		return nil, err
	}
	var h viewHeader
	if err := json.Unmarshal(first, &h); err != nil {
		return nil, fmt.Errorf("first line: %w: %w", err, errDamaged)
	}
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
	if byColumns {
		if v.Tables, err = view.ReadTables(in); err != nil {
			return nil, fmt.Errorf("%w: %w", err, errDamaged)
		}
		if n, err := io.Copy(io.Discard, in); err != nil || n > 0 {
			return nil, fmt.Errorf("%d bytes too much (%v): %w", n, err, errDamaged)
		}
	}
	return v, nil
}

func take[T any](into *[]*T, b []byte) error {
	row := new(T)
	if err := json.Unmarshal(b, row); err != nil {
		return err
	}
	*into = append(*into, row)
	return nil
}
