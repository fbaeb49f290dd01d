package e2e

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/vcsync/vcsync/producer"
	"github.com/vcsync/vcsync/schemas"
	"github.com/vcsync/vcsync/visualcron"
	"github.com/vcsync/vcsync/visualcron/bridge"
)

// A source that one producer cannot reach and another can is captured by that one, as
// a target would be written to.
func TestASourceOutOfReachIsHandedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWorld(t)
		defer w.Close()
		source, target := w.AddHost("production"), w.AddHost("test")
		if _, _, err := source.Server.Put(schemas.Job, []byte(oneJob)); err != nil {
			t.Fatal(err)
		}
		w.Setting(AllJobs("to-test", "production", "test", schemas.Keep))
		blind := producer.New(producer.Config{Broker: w.Broker, Poll: w.Poll, Instance: "blind", Log: w.Log, Open: func(s schemas.Server, pw string) (visualcron.Connector, error) {
			return bridge.New(visualcron.Config{Server: s.ID, Address: s.Address, User: s.User, Password: pw}, bridge.WithTransport(noWay{}))
		}})
		b := start(blind.Run)
		defer func() { stop(b, nil) }()
		time.Sleep(5 * time.Second)
		w.StartProducer()
		w.StartConsumer()
		time.Sleep(time.Hour)
		if d := Diverged(source, target, schemas.Keep); d != nil {
			t.Errorf("an hour later, with a producer that could: %v; %+v; %+v", d, blind.Status(), w.Prod.Status())
		}
	})
}
