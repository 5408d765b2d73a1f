package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/quarry-db/quarry/e2e/load"
	"github.com/quarry-db/quarry/pkg/catalog"
)

// kubeSystem is a real etcd and a real API server with a custom resource for
// placements. Its client is plain HTTP/2 with merge patches of the status,
// which costs less than client-go would.
type kubeSystem struct {
	etcd, api *server
	url       string
	client    *http.Client
	fleet     *load.Fleet
}

const (
	kubeToken   = "bench"
	kubePath    = "/apis/bench.quarry-db.dev/v1/placements"
	kubeWorkers = 16
)

func newKube(ctx context.Context, dir, bin string) (*kubeSystem, error) {
	lacks := &absent{"kube-apiserver", "build it with e2e/kube/build (about four minutes, once) and name its folder with -kube"}
	if bin == "" {
		return nil, lacks
	}
	for _, p := range []string{"etcd", "kube-apiserver"} {
		if _, err := os.Stat(filepath.Join(bin, p)); err != nil {
			return nil, lacks
		}
	}
	var ports [3]string
	for i := range ports {
		var err error
		if ports[i], err = freePort(); err != nil {
			return nil, err
		}
	}
	s := &kubeSystem{url: "https://127.0.0.1:" + ports[2]}
	// The API server makes its own certificate; both ends are ours and loopback.
	s.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: kubeWorkers}}
	client, peer := "http://127.0.0.1:"+ports[0], "http://127.0.0.1:"+ports[1]
	var err error
	s.etcd, err = launch(dir, "etcd", exec.Command(filepath.Join(bin, "etcd"), "--data-dir", filepath.Join(dir, "etcd"),
		"--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
		"--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer, "--unsafe-no-fsync", "--log-level", "error"), nil)
	if err != nil {
		return nil, err
	}
	if err := s.etcd.until(ctx, 30*time.Second, func() error { return healthy(s.client, client+"/health", "") }); err != nil {
		s.close()
		return nil, err
	}
	if err := s.startAPI(ctx, dir, bin, client, ports[2]); err != nil {
		s.close()
		return nil, err
	}
	if err := s.define(ctx); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

func (s *kubeSystem) startAPI(ctx context.Context, dir, bin, etcd, port string) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	sa := filepath.Join(dir, "sa.key")
	if err := os.WriteFile(sa, pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}), 0o600); err != nil {
		return err
	}
	tokens := filepath.Join(dir, "tokens.csv")
	if err := os.WriteFile(tokens, []byte(kubeToken+",admin,admin,system:masters\n"), 0o600); err != nil {
		return err
	}
	s.api, err = launch(dir, "kube-apiserver", exec.Command(filepath.Join(bin, "kube-apiserver"), "--etcd-servers="+etcd, "--bind-address=127.0.0.1",
		"--secure-port="+port, "--cert-dir="+filepath.Join(dir, "certs"), "--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+sa, "--service-account-signing-key-file="+sa, "--token-auth-file="+tokens,
		"--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24"), nil)
	if err != nil {
		return err
	}
	return s.api.until(ctx, 90*time.Second, func() error { return healthy(s.client, s.url+"/readyz", kubeToken) })
}

func healthy(c *http.Client, url, token string) error {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}

func (s *kubeSystem) do(ctx context.Context, method, path, kind string, body, into any) error {
	var b []byte
	var err error
	if body != nil {
		if b, err = json.Marshal(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+kubeToken)
	req.Header.Set("Content-Type", cmp.Or(kind, "application/json"))
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %.300s", method, path, resp.Status, answer)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}

// define makes the resource, and waits until it is served.
func (s *kubeSystem) define(ctx context.Context) error {
	text, number := map[string]any{"type": "string"}, map[string]any{"type": "integer", "format": "int64"}
	fields := map[string]any{"labels": map[string]any{"type": "object", "additionalProperties": text}}
	for _, f := range []string{"region", "slate", "kind", "state", "owner", "incarnation", "lineage", "position_domain"} {
		fields[f] = text
	}
	for _, f := range []string{"position", "bytes", "manifest_id", "writer_epoch", "wal_tail_id"} {
		fields[f] = number
	}
	crd := map[string]any{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": "placements.bench.quarry-db.dev"},
		"spec": map[string]any{
			"group": "bench.quarry-db.dev", "scope": "Cluster",
			"names": map[string]any{"plural": "placements", "singular": "placement", "kind": "Placement"},
			"versions": []any{map[string]any{
				"name": "v1", "served": true, "storage": true, "subresources": map[string]any{"status": map[string]any{}},
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "properties": map[string]any{
					"status": map[string]any{"type": "object", "properties": fields},
				}}},
			}},
		},
	}
	if err := s.do(ctx, http.MethodPost, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "", crd, nil); err != nil {
		return err
	}
	return s.api.until(ctx, 30*time.Second, func() error { return s.do(ctx, http.MethodGet, kubePath, "", nil, nil) })
}

func (s *kubeSystem) name() string { return "CRD" }
func (s *kubeSystem) what() string {
	return fmt.Sprintf("kube-apiserver 1.36.3 and etcd 3.6.8 without fsync, merge patches of the status, %d at a time, TLS", kubeWorkers)
}
func (s *kubeSystem) pids() []int { return []int{s.etcd.pid(), s.api.pid()} }
func (s *kubeSystem) forget()     {}

type kubeObject struct {
	APIVersion string   `json:"apiVersion,omitempty"`
	Kind       string   `json:"kind,omitempty"`
	Metadata   kubeMeta `json:"metadata,omitzero"`
	Status     *item    `json:"status,omitempty"`
}

type kubeMeta struct {
	Name   string            `json:"name,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
}

func kubeName(region string, i int) string { return fmt.Sprintf("%s-%07d", region, i) }

func itemOf(r *load.Row) *item {
	return &item{r.Region, r.Slate, string(r.Kind), string(r.State), r.Owner, r.Labels, r.Incarnation, r.Lineage, r.Domain,
		r.Position, r.Bytes, r.ManifestID, r.WriterEpoch, r.WALTail}
}

func (s *kubeSystem) create(ctx context.Context, name string, r *load.Row) error {
	o := kubeObject{APIVersion: "bench.quarry-db.dev/v1", Kind: "Placement", Metadata: kubeMeta{name, map[string]string{"region": r.Region, "kind": string(r.Kind)}}}
	return s.do(ctx, http.MethodPost, kubePath, "", o, nil)
}

func (s *kubeSystem) patch(ctx context.Context, name string, r *load.Row) error {
	return s.do(ctx, http.MethodPatch, kubePath+"/"+name+"/status", "application/merge-patch+json", kubeObject{Status: itemOf(r)}, nil)
}

// each does n things, kubeWorkers at a time; what goes to one worker is done
// in order.
func each(n int, worker func(i int) int, do func(i int) error) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	for w := range kubeWorkers {
		wg.Go(func() {
			for i := range n {
				if worker(i) != w {
					continue
				}
				if err := do(i); err != nil {
					mu.Lock()
					first = cmp.Or(first, err)
					mu.Unlock()
					return
				}
			}
		})
	}
	wg.Wait()
	return first
}

func (s *kubeSystem) load(ctx context.Context, f *load.Fleet) error {
	s.fleet = f
	for r, region := range f.Regions() {
		err := each(f.Count(r), func(i int) int { return i % kubeWorkers }, func(i int) error {
			row := f.Row(r, i)
			if err := s.create(ctx, kubeName(region, i), &row); err != nil {
				return err
			}
			return s.patch(ctx, kubeName(region, i), &row)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *kubeSystem) apply(ctx context.Context, steps []step, _ bool) error {
	return each(len(steps), func(i int) int { return steps[i].change.Slate % kubeWorkers }, func(i int) error {
		st := &steps[i]
		name := kubeName(st.row.Region, st.change.Slate)
		if st.change.Mix == load.Made && st.change.Fact.Sighting.Predecessor == "" {
			if err := s.create(ctx, name, &st.row); err != nil {
				return err
			}
		}
		return s.patch(ctx, name, &st.row)
	})
}

// ask lists everything, for the API server neither filters nor sorts by these
// fields, and does the rest here.
func (s *kubeSystem) ask(ctx context.Context, q *query) (answer, error) {
	var list struct{ Items []kubeObject }
	if err := s.do(ctx, http.MethodGet, kubePath, "", nil, &list); err != nil {
		return nil, err
	}
	return scan(func(yield func(load.Row) bool) {
		for _, o := range list.Items {
			it := o.Status
			if !yield(load.Row{Region: it.Region, Slate: it.Slate, Kind: catalog.Kind(it.Kind), State: catalog.PlacementState(it.State), Owner: it.Owner, Labels: it.Labels,
				Incarnation: it.Incarnation, Lineage: it.Lineage, Domain: it.PositionDomain, Position: it.Position, Bytes: it.Bytes}) {
				return
			}
		}
	}, q), nil
}

func (s *kubeSystem) memory(context.Context) (int64, string, error) {
	return residentKB(s.pids()) << 10, "resident memory of both", nil
}

// close ends the API server first: without its etcd it may hang for ever.
func (s *kubeSystem) close() {
	s.client.CloseIdleConnections()
	if s.api != nil {
		s.api.stop(syscall.SIGTERM)
	}
	s.etcd.stop(syscall.SIGTERM)
}
