package broker

import (
	"slices"

	"github.com/vcsync/vcsync/schemas"
)

// Rights are the subjects that a key may publish to and listen to; nothing else.
type Rights struct {
	Publish, Subscribe []string
}

// PokePrefix begins the subject on which control asks the producer of a source to
// poll it now.
const PokePrefix = "vcsync.poke."

// RightsOf is the table of who may do what at the broker. Sources are those that a
// producer's key is limited to; empty means all. Public is the key's public part.
//
// What a subject does not show, a right on it cannot tell apart: see
// docs/adr/0014-roles-and-rights.md for what these rights do not stop.
func RightsOf(role Role, public string, sources []schemas.Slug) Rights {
	r := Rights{Subscribe: []string{InboxPrefix(public) + ".>"}}
	switch role {
	case Control:
		r.pub("$JS.API.>", "$JS.FC.>", "$JS.ACK.>", "vcsync.audit.>", PokePrefix+"*", kvSubject(BucketConfig, ">"), kvSubject(BucketSecret, ">"),
			kvSubject(BucketParked, ">"), kvSubject(BucketLease, ">"), kvSubject(BucketStatus, "control.*"),
			kvSubject(BucketPlan, planPrefix+">")) // the plan of a person's verdict
	case Producer:
		each, all := tokens(sources)
		r.readsCommon()
		r.pub("$O." + BucketBodies + ".>")
		r.pub(kvSubject(BucketLease, "producer.*"), kvSubject(BucketStatus, "producer.*"))
		// The stream's name stands before the consumer's: these read nothing without a
		// consumer that one was allowed to create, or whose name one knows.
		r.pub("$JS.API.CONSUMER.MSG.NEXT."+StreamEvents+".*", "$JS.API.CONSUMER.MSG.NEXT."+StreamState+".*",
			"$JS.API.CONSUMER.INFO."+StreamEvents+".*", "$JS.API.CONSUMER.INFO."+StreamState+".*")
		// What vcsync itself wrote to a source, which is a target too perhaps, is no
		// change of it.
		r.pub("$JS.API.CONSUMER.DELETE.KV_"+BucketLedger+".*", "$JS.FC.KV_"+BucketLedger+".>")
		for _, s := range each {
			r.pub("$JS.API.CONSUMER.CREATE.KV_" + BucketLedger + ".*." + kvSubject(BucketLedger, s+".*"))
			ev, st := "vcsync.ev."+s+".>", "vcsync.st."+s+".>"
			r.pub(ev, kvSubject(BucketLease, "source."+s), kvSubject(BucketConfig, "epoch."+s), kvSubject(BucketConfig, identityPrefix+s), kvSubject(BucketConfig, versionPrefix+s), kvSubject(BucketConfig, listedPrefix+s),
				kvSubject(BucketConfig, airlockPrefix+s+".*"), kvSubject(BucketConfig, accountPrefix+s),
				passwordRight(s),
				"$JS.API.DIRECT.GET."+StreamEvents+"."+ev, "$JS.API.DIRECT.GET."+StreamState+"."+st,
				"$JS.API.CONSUMER.CREATE."+StreamEvents+".*."+ev, "$JS.API.CONSUMER.CREATE."+StreamState+".*."+st)
			r.sub(PokePrefix + s)
		}
		if all { // the leader's answer, which is never behind, cannot be limited to a source
			r.pub("$JS.API.STREAM.MSG.GET."+StreamEvents, "$JS.API.STREAM.MSG.GET."+StreamState,
				"$JS.API.CONSUMER.CREATE."+StreamEvents+".*", "$JS.API.CONSUMER.CREATE."+StreamState+".*")
		}
	case Consumer:
		r.readsCommon()
		r.reads(BucketLedger, BucketParked, BucketPlan)
		r.pub(kvSubject(BucketLedger, ">"), kvSubject(BucketParked, ">"), kvSubject(BucketPlan, ">"), kvSubject(BucketLease, "target.*"), kvSubject(BucketLease, "consumer.*"),
			kvSubject(BucketConfig, identityPrefix+"*"), kvSubject(BucketConfig, versionPrefix+"*"), kvSubject(BucketStatus, "consumer.*"),
			passwordRight("*"),
			// What was at a target before a write, with bodies of any size.
			donePrefix+">", "$O."+BucketBodies+".>",
			"$JS.API.STREAM.MSG.GET."+StreamDone, "$JS.API.CONSUMER.CREATE."+StreamDone+".>", "$JS.API.CONSUMER.MSG.NEXT."+StreamDone+".*", "$JS.API.CONSUMER.INFO."+StreamDone+".*",
			// The second form is that of nats-server with feature js_ack_fc_v2.
			"$JS.ACK."+StreamState+".>", "$JS.ACK.*.*."+StreamState+".>",
			"$JS.API.STREAM.MSG.GET."+StreamState, "$JS.API.STREAM.MSG.GET."+StreamEvents,
			// It counts what was captured.
			"$JS.API.CONSUMER.CREATE."+StreamEvents+".>", "$JS.API.CONSUMER.MSG.NEXT."+StreamEvents+".*", "$JS.API.CONSUMER.INFO."+StreamEvents+".*",
			"$JS.API.CONSUMER.CREATE."+StreamState+".>", "$JS.API.CONSUMER.MSG.NEXT."+StreamState+".*", "$JS.API.CONSUMER.INFO."+StreamState+".*",
			"$JS.API.CONSUMER.LIST."+StreamState, "$JS.API.CONSUMER.NAMES."+StreamState)
	}
	slices.Sort(r.Publish)
	return r
}

func (r *Rights) pub(subjects ...string) { r.Publish = append(r.Publish, subjects...) }
func (r *Rights) sub(subjects ...string) { r.Subscribe = append(r.Subscribe, subjects...) }

// readsCommon lets a producer or consumer see how far the streams are, and read
// settings, servers, leases, what processes say of themselves, and large bodies.
func (r *Rights) readsCommon() {
	r.pub("$JS.API.STREAM.LIST")
	for _, name := range layoutNames() {
		r.pub("$JS.API.STREAM.INFO." + name)
	}
	r.reads(BucketConfig, BucketLease, BucketStatus)
	r.pub("$JS.API.STREAM.MSG.GET."+streamBodies, "$JS.API.CONSUMER.CREATE."+streamBodies+".*."+bodyChunks+"*",
		"$JS.API.CONSUMER.DELETE."+streamBodies+".*", "$JS.FC."+streamBodies+".>")
}

// reads lets a key read and watch buckets. A bucket has no durable consumers, so
// whoever watches it may remove the one of a watch. There is no right to direct gets:
// their answer, with all its headers, goes wherever the request says.
func (r *Rights) reads(buckets ...string) {
	for _, b := range buckets {
		s := "KV_" + b
		r.pub("$JS.API.STREAM.MSG.GET."+s,
			"$JS.API.CONSUMER.CREATE."+s+".>", "$JS.API.CONSUMER.DELETE."+s+".*", "$JS.FC."+s+".>")
	}
}

// passwordRight is the right to read the password of a server, and no more of
// VCS_SEC.
func passwordRight(server string) string {
	return "$JS.API.DIRECT.GET.KV_" + BucketSecret + "." + kvSubject(BucketSecret, passwordPrefix+server)
}

func kvSubject(bucket, key string) string { return "$KV." + bucket + "." + key }

// tokens returns the sources as they stand in subjects, "*" where there is no limit.
func tokens(sources []schemas.Slug) (out []string, all bool) {
	if len(sources) == 0 {
		return []string{"*"}, true
	}
	for _, s := range sources {
		out = append(out, string(s))
	}
	return out, false
}
