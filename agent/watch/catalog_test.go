package watch

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quarry-db/quarry/pkg/catalog"
	"github.com/quarry-db/quarry/pkg/slatedb"
)

// catalogSlate opens the region's catalog slate as its duty does.
func (r *region) catalogSlate() *slatedb.Writer {
	r.Helper()
	w, err := slatedb.Open(context.Background(), r.b, catalog.CatalogRoot, slatedb.Options{})
	if err != nil {
		r.Fatal(err)
	}
	return w
}

func row(name string) []byte { return []byte("\x51\x01slate/" + name + "/registration") }

func registrationOf(name, root string) []byte {
	reg := catalog.Registration{Version: 1, ID: ulid.Make().String(), Action: catalog.Register, Slate: name, Root: root, Kind: catalog.KindKeyValue, Owner: "team"}
	raw, _ := json.Marshal(reg)
	return raw
}

// Registrations in the catalog slate name slates as those in the inbox do, and
// a row that cannot be understood hides no other: it is a finding.
func TestRegistrationsAreReadFromTheCatalogSlate(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("0.17.0/fresh/db", "dbs/a")
		r.put("0.17.0/fresh/db", "dbs/b")
		c := r.catalogSlate()
		var b slatedb.Batch
		b.Put(row("orders"), registrationOf("orders", "/dbs/a/"))
		b.Put(row("mine"), registrationOf("mine", ".quarry/catalog"))
		b.Put(row("broken"), []byte(`{"version":7}`))
		b.Put([]byte("\x51\x01slate/orders/placement"), []byte("{}"))
		if _, err := c.Write(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		defer r.start()()
		wait(time.Minute)
		if got := r.hub.sight(t, "dbs/a").Slate; got != "orders" {
			t.Errorf("dbs/a is called %q", got)
		}
		if len(r.hub.regs) != 1 {
			t.Errorf("registrations: %v", r.hub.regs)
		}
		if len(r.hub.finds) != 2 {
			t.Errorf("findings: %v", r.hub.finds)
		}
		for _, f := range r.hub.finds {
			if f.Code != "registration-unreadable" || f.Cure == "" {
				t.Errorf("%+v", f)
			}
		}
		regs, bad, err := ReadRegistrations(t.Context(), r.b)
		if err != nil || len(regs) != 1 || regs[0].Slate != "orders" || regs[0].Root != "dbs/a" || len(bad) != 2 {
			t.Errorf("the command line reads %v and %v: %v", regs, bad, err)
		}
	})
}

// The region's duty puts a registration into the catalog slate; for hours it is
// in a WAL object only, and the manifest stays as it is. It was not seen until
// the next flush, for only the manifest was asked for.
func TestARegistrationThatIsOnlyInTheCatalogsWALIsSeen(t *testing.T) {
	story(t, func(t *testing.T, r *region) {
		r.put("0.17.0/fresh/db", "dbs/a")
		r.put("0.17.0/fresh/db", "dbs/b")
		c := r.catalogSlate()
		defer c.Abandon()
		if _, err := c.Put(t.Context(), row("orders"), registrationOf("orders", "dbs/a")); err != nil {
			t.Fatal(err)
		}
		defer r.start()()
		wait(time.Minute)
		if got := r.hub.sight(t, "dbs/a").Slate; got != "orders" {
			t.Fatalf("dbs/a is called %q", got)
		}
		manifests, err := slatedb.ManifestIDs(t.Context(), r.b, catalog.CatalogRoot)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Put(t.Context(), row("users"), registrationOf("users", "dbs/b")); err != nil {
			t.Fatal(err)
		}
		wait(3 * time.Minute)
		if now, _ := slatedb.ManifestIDs(t.Context(), r.b, catalog.CatalogRoot); len(now) != len(manifests) {
			t.Fatalf("the manifest moved: %v after %v", now, manifests)
		}
		if got := r.hub.sight(t, "dbs/b").Slate; got != "users" {
			t.Errorf("dbs/b is called %q", got)
		}
	})
}

// The process that writes the catalog is told what is declared in it and never
// reads it. Others read it rarely when it goes on moving and nothing is declared:
// its rows of placements move all the time.
func TestTheCatalogIsReadRarelyAndNotByItsWriter(t *testing.T) {
	for _, keeping := range []bool{true, false} {
		story(t, func(t *testing.T, r *region) {
			r.put("0.17.0/fresh/db", "dbs/a")
			c := r.catalogSlate()
			defer c.Abandon()
			r.o.Keeping = func() bool { return keeping }
			defer r.start()()
			wait(time.Minute)
			before := r.b.Requests()
			for range 60 {
				if _, err := c.Put(t.Context(), []byte("\x51\x01slate/dbs%2Fa/placement"), []byte("{}")); err != nil {
					t.Fatal(err)
				}
				wait(time.Minute)
			}
			// A HEAD asks whether the catalog's WAL went on, and nothing else.
			spent := r.b.Requests().Since(before)
			t.Logf("keeping %v: %+v in an hour", keeping, spent)
			if keeping && spent.Head > 0 || !keeping && (spent.Head == 0 || spent.Head > 12) {
				t.Errorf("keeping %v: %d looks at the catalog in an hour", keeping, spent.Head)
			}
			if _, err := c.Put(t.Context(), row("orders"), registrationOf("orders", "dbs/a")); err != nil {
				t.Fatal(err)
			}
			wait(12 * time.Minute)
			if got := r.hub.sight(t, "dbs/a").Slate; (got == "orders") == keeping {
				t.Errorf("keeping %v: dbs/a is called %q", keeping, got)
			}
		})
	}
}
