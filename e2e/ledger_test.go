//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// freeze asks the hub for a freeze and reports whether it was acknowledged.
func (h *hub) freeze(scope string) error {
	body, _ := json.Marshal(map[string]string{"scope": scope, "why": "a test"})
	req, err := http.NewRequest(http.MethodPost, "http://"+h.web+"/v1/freezes:freeze", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Quarry-By", "ann")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	said, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return errors.New(string(said))
	}
	return nil
}

// The hub is killed with SIGKILL at any moment while people decide, again and
// again: what was acknowledged is in force afterwards, with at most the one act
// whose answer was on its way, and the audit is whole.
func TestAHubThatIsKilledWhilePeopleDecideForgetsNothing(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	h := startHub(t, "eu,us")
	acked, extra, n := map[string]bool{}, 0, 0
	for round := range 8 {
		kill := time.Duration(random.Int64N(int64(400 * time.Millisecond)))
		died := make(chan struct{})
		running := h.proc
		time.AfterFunc(kill, func() { running.kill(); close(died) })
		before := len(acked)
		var flight string
		for ; ; n++ {
			scope := fmt.Sprintf("slate/s%05d", n)
			if h.freeze(scope) != nil {
				flight = scope
				n++
				break
			}
			acked[scope] = true
		}
		<-died
		h.restart(t)
		rows, err := get[struct {
			Scope string `json:"scope"`
		}](h, t, "freezes")
		if err != nil {
			t.Fatal(err)
		}
		there := map[string]bool{}
		for _, r := range rows.Items {
			there[r.Scope] = true
			if !acked[r.Scope] && r.Scope != flight {
				t.Errorf("round %d: %s is frozen, and nobody asked for it when the hub died", round, r.Scope)
			}
		}
		for scope := range acked {
			if !there[scope] {
				t.Errorf("round %d: the freeze of %s was acknowledged and is forgotten", round, scope)
			}
		}
		if there[flight] && !acked[flight] {
			extra++
			acked[flight] = true
		}
		o := h.cli(t, "audit", "--verify")
		if o.code != 0 || !strings.Contains(o.stdout, fmt.Sprintf("%d entries, whole", len(acked)+1)) {
			t.Errorf("round %d: the audit, exit %d: %s%s; want %d entries", round, o.code, o.stdout, o.stderr, len(acked)+1)
		}
		t.Logf("round %d: killed after %v, %d acknowledged, %d in flight were durable so far", round, kill, len(acked)-before, extra)
	}
	if len(acked) < 20 {
		t.Errorf("only %d acts were acknowledged: the kills came too soon to say anything", len(acked))
	}
}

// Two hubs are started on one store. The second has the ledger; the first says
// so wherever it is asked, refuses to decide, and goes on showing what is.
func TestOfTwoHubsOnOneStoreTheFirstStopsDeciding(t *testing.T) {
	first := startHub(t, "eu,us")
	if err := first.freeze("slate/one"); err != nil {
		t.Fatal(err)
	}
	second := &hub{web: freePort(t), agents: freePort(t), store: first.store, regions: first.regions}
	second.restart(t)
	if err := second.freeze("slate/two"); err != nil {
		t.Errorf("the second decides: %v", err)
	}
	eventually(t, 30*time.Second, "the first says that it does not decide", func() error {
		res, err := http.Get("http://" + first.web + "/readyz")
		if err != nil {
			return err
		}
		defer res.Body.Close()
		said, _ := io.ReadAll(res.Body)
		if res.StatusCode != 200 || !strings.Contains(string(said), "not deciding") {
			return fmt.Errorf("%d %s", res.StatusCode, said)
		}
		return nil
	})
	if err := first.freeze("slate/three"); err == nil || !strings.Contains(err.Error(), "not-deciding") {
		t.Errorf("the first was asked to freeze: %v", err)
	}
	o := first.cli(t, "get", "regions")
	if o.code != 0 || !strings.Contains(o.stderr, "not deciding") || !strings.Contains(o.stderr, "pid") || !strings.Contains(o.stdout, "eu") {
		t.Errorf("quarry get regions: exit %d\n%s%s", o.code, o.stdout, o.stderr)
	}
	if o := second.cli(t, "get", "regions"); strings.Contains(o.stderr, "not deciding") {
		t.Errorf("the second: %s", o.stderr)
	}
	if code := first.stop(); code != 0 {
		t.Errorf("the first ends with %d", code)
	}
	if err := second.freeze("slate/four"); err != nil {
		t.Errorf("the second after the end of the first: %v", err)
	}
}

// Somebody who can write the hub's store edits a byte of the ledger: it is
// noticed, by name of the object, and nothing is shown as if it were whole.
func TestAnEditedLedgerIsNoticed(t *testing.T) {
	h := startHub(t, "eu,us")
	for i := range 3 {
		if err := h.freeze(fmt.Sprintf("slate/s%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	copyOf := filepath.Join(t.TempDir(), "audit.json")
	if err := os.WriteFile(copyOf, []byte(must(t, nil, "audit", "-o", "json", "--hub", "http://"+h.web)), 0o600); err != nil {
		t.Fatal(err)
	}
	if o := quarry(t, nil, "audit", "--verify", "--file", copyOf); o.code != 0 || !strings.Contains(o.stdout, "4 entries, whole") {
		t.Errorf("the copy: exit %d %s%s", o.code, o.stdout, o.stderr)
	}
	h.kill()
	store := "file://" + h.store
	if o := quarry(t, nil, "audit", "--verify", "--store", store); o.code != 0 || !strings.Contains(o.stdout, "4 entries, whole") {
		t.Errorf("the store: exit %d %s%s", o.code, o.stdout, o.stderr)
	}
	edited := ""
	wals, err := filepath.Glob(filepath.Join(h.store, "ledger", "wal", "*.sst"))
	if err != nil || len(wals) == 0 {
		t.Fatalf("%v %v", wals, err)
	}
	for _, name := range wals {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if i := bytes.Index(raw, []byte("ann")); i >= 0 {
			raw[i] = 'A'
			edited = name
			if err := os.WriteFile(name, raw, 0o600); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	if edited == "" {
		t.Fatal("no object of the ledger names who froze")
	}
	o := quarry(t, nil, "audit", "--verify", "--store", store)
	if o.code == 0 || !strings.Contains(o.stderr, filepath.Base(edited)) {
		t.Errorf("exit %d: %s%s; want %s to be named", o.code, o.stdout, o.stderr, filepath.Base(edited))
	}
}
