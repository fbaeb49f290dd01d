package broker_test

import (
	"testing"

	"github.com/vcsync/vcsync/broker/brokertest"
)

func TestPoolSharesConnections(t *testing.T) {
	b := brokertest.Start(t)
	p := b.NewPool("settings")
	var back []func()
	for range 41 {
		js, done, err := p.Take()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := js.AccountInfo(t.Context()); err != nil {
			t.Fatal(err)
		}
		back = append(back, done)
	}
	if n := p.Connections(); n != 3 {
		t.Errorf("%d connections for 41 users, want 3", n)
	}
	for _, done := range back {
		done()
		done() // giving back twice is giving back once
	}
	if n := p.Connections(); n != 1 {
		t.Errorf("%d connections for nobody, want 1", n)
	}
	if _, done, err := p.Take(); err != nil {
		t.Error(err)
	} else {
		done()
	}
	p.Close()
	if n := p.Connections(); n != 0 {
		t.Errorf("%d connections after Close", n)
	}
}
