package broker_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/vcsync/vcsync/broker"
)

// TestAnEarlierBrokerIsRefused: beside the streams of the default account, empty ones
// would be opened in the account of today; and a users.conf of the default account
// lets answers go anywhere.
func TestAnEarlierBrokerIsRefused(t *testing.T) {
	store, keys := t.TempDir(), t.TempDir()
	serve := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		return broker.Serve(ctx, broker.ServeConfig{Dir: store, Keys: filepath.Join(keys, "broker"), Listen: "127.0.0.1:0",
			Log: slog.New(slog.DiscardHandler), Ready: func(string) error { cancel(); return nil }})
	}
	refused := func(says string) {
		t.Helper()
		if err := serve(); !errors.Is(err, broker.ErrBroker) || !strings.Contains(err.Error(), says) {
			t.Errorf("%v, want %q", err, says)
		}
	}
	if _, err := broker.Init(keys, broker.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	// As an earlier init wrote it; one of today mends it.
	users := filepath.Join(keys, "broker", "users.conf")
	if err := os.WriteFile(users, []byte("authorization { users = [ { nkey: UB3E6EHSGUAB6PHJ7BA4CUSBVIKWFGA6UUARAUQVPR5YFEVARX3HVB7F } ] }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	refused("run vcsync broker init again")
	if _, err := broker.Init(keys, broker.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := serve(); err != nil {
		t.Fatal(err)
	}
	s, err := server.NewServer(&server.Options{JetStream: true, StoreDir: filepath.Join(store, "broker"), DontListen: true, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		t.Fatal(err)
	}
	js, _ := jetstream.New(nc)
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: broker.StreamEvents, Subjects: []string{"vcsync.ev.>"}}); err != nil {
		t.Fatal(err)
	}
	nc.Close()
	s.Shutdown()
	s.WaitForShutdown()
	refused("earlier version")
}
