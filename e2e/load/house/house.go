// Package house runs a hub as `quarry hub` puts it together, and one thing
// more: TLS on the agents' door, with a certificate that is thrown away. It is
// for tests and measurements; what the program itself serves is in cmd.
//
// Begin with [Run] and [Certificate].
package house

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/quarry-db/quarry/hub"
	"github.com/quarry-db/quarry/hub/api"
	"github.com/quarry-db/quarry/hub/session"
	"github.com/quarry-db/quarry/hub/state"
	"github.com/quarry-db/quarry/hub/view"
	"github.com/quarry-db/quarry/pkg/bucket"
)

// Options of a hub. Store and Regions are needed.
type Options struct {
	Store               string // URL
	Regions             []string
	Listen, AgentListen string // a free loopback port when empty
	TLS                 *tls.Config
	Beat                time.Duration // 5 s when zero
	Log                 *slog.Logger
}

// Up is a hub that serves.
type Up struct {
	Web, Agents string // host:port
	View        func() *view.View
}

// Run serves until ctx ends, then saves the view and returns nil. ready is
// called once, when both doors are open.
func Run(ctx context.Context, o Options, ready func(Up)) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	beat := cmp.Or(o.Beat, 5*time.Second)
	store, err := bucket.Open(ctx, o.Store)
	if err != nil {
		return fmt.Errorf("the hub's store: %w", err)
	}
	defer store.Close()
	var lc net.ListenConfig
	people, err := lc.Listen(ctx, "tcp", cmp.Or(o.Listen, "127.0.0.1:0"))
	if err != nil {
		return fmt.Errorf("listen for people: %w", err)
	}
	defer people.Close()
	agents, err := lc.Listen(ctx, "tcp", cmp.Or(o.AgentListen, "127.0.0.1:0"))
	if err != nil {
		return fmt.Errorf("listen for agents: %w", err)
	}
	defer agents.Close()
	var server *session.Server
	h, err := hub.New(ctx, hub.Config{
		Regions: o.Regions, Store: store, Log: o.Log, SaveEvery: 5 * time.Second, Holder: "house", ID: "house",
		State: state.Config{Beat: beat, StaleAfter: 12 * beat},
		Post:  func(to state.SessionID, m state.Message) { server.Post(to, m) },
	})
	if err != nil {
		return err
	}
	server = session.New(session.Options{Inbox: h, Log: o.Log, Beat: beat, TLS: o.TLS})
	web, err := api.New(h, api.Options{Log: o.Log, Version: "house"})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.Run(ctx) })
	g.Go(func() error { return server.Run(ctx, agents) })
	g.Go(func() error { return web.Run(ctx, people) })
	ready(Up{Web: people.Addr().String(), Agents: agents.Addr().String(), View: h.View})
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// Certificate makes a key and a certificate for loopback addresses that is
// good for a day. Nobody should trust it but the one process it is handed to.
func Certificate() (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), Subject: pkix.Name{CommonName: "quarry throw-away"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make a certificate: %w", err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("make a certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), nil
}

// Server is the hub's side of a certificate, Client an agent's that trusts it
// and nothing else.
func Server(certPEM, keyPEM []byte) (*tls.Config, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS13}, nil
}

// Client trusts one certificate and nothing else.
func Client(certPEM []byte) (*tls.Config, error) {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(certPEM) {
		return nil, errors.New("not a certificate in PEM")
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13, ServerName: "127.0.0.1"}, nil
}
