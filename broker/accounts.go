package broker

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

const (
	// storeAccount is the NATS account that owns the streams. Only control signs in to
	// it. Each other key has an account of its own, so that the subject to which it has
	// an answer sent is one of its own account, and never one of a stream.
	storeAccount = "VCSYNC"
	// gatePrefix begins the subjects on which the gate hears who wants a consumer; the
	// public part of the asking key follows, then the subject as it was asked.
	gatePrefix = "vcsync.gate."

	// accountInfo is imported, although no role asks for it: where it is, nats-server adds
	// no import of its own for the whole API, which would answer first, that the account
	// has no JetStream.
	accountInfo = "$JS.API.INFO"

	createConsumer = "$JS.API.CONSUMER.CREATE."
	nextMessages   = "$JS.API.CONSUMER.MSG.NEXT."
)

// user is one key that the broker lets in.
type user struct {
	name, public string
	role         Role
	rights       Rights
}

// account is the NATS account that the user signs in to.
func (u user) account() string {
	if u.role == Control {
		return storeAccount
	}
	return storeAccount + "-" + u.name
}

// usersConf is a NATS configuration, whole in itself and good for an include.
func usersConf(users []user) []byte {
	services, streams := map[string][]string{}, map[string][]string{}
	for _, u := range users {
		if u.role == Control {
			continue
		}
		for _, s := range imported(u) {
			s = exported(u.public, s)
			services[s] = append(services[s], u.account())
		}
		for _, s := range u.rights.Subscribe {
			streams[s] = append(streams[s], u.account())
		}
	}
	var b strings.Builder
	b.WriteString(`# Who may sign in to the broker, and what each may do.
# Written by vcsync broker init, which writes it anew when it runs again: edits are lost.
# vcsync broker reads it at its start and on SIGHUP; in a NATS configuration: include "users.conf"
accounts {
`)
	// The account of the store stands there whether or not a control key does.
	fmt.Fprintf(&b, "  %q: {\n    jetstream: enabled\n", storeAccount)
	usersOf(&b, users, storeAccount)
	b.WriteString("    exports = [\n")
	for _, s := range sortedKeys(services) {
		answers := ""
		if strings.HasPrefix(s, nextMessages) {
			answers = ", response_type: stream" // as many as were asked for
		}
		fmt.Fprintf(&b, "      { service: %q%s, accounts: %s }\n", s, answers, quoted(services[s]))
	}
	for _, s := range sortedKeys(streams) {
		fmt.Fprintf(&b, "      { stream: %q, accounts: %s }\n", s, quoted(streams[s]))
	}
	b.WriteString("    ]\n  }\n")
	for _, u := range users {
		if u.role == Control {
			continue
		}
		fmt.Fprintf(&b, "  %q: {\n", u.account())
		usersOf(&b, users, u.account())
		b.WriteString("    imports = [\n")
		for _, s := range imported(u) {
			fmt.Fprintf(&b, "      { service: { account: %q, subject: %q }, to: %q }\n", storeAccount, exported(u.public, s), s)
		}
		for _, s := range u.rights.Subscribe {
			fmt.Fprintf(&b, "      { stream: { account: %q, subject: %q } }\n", storeAccount, s)
		}
		b.WriteString("    ]\n  }\n")
	}
	b.WriteString("}\n")
	return []byte(b.String())
}

// imported are the services that the user's account has of that of the store.
func imported(u user) []string { return append([]string{accountInfo}, u.rights.Publish...) }

// exported is the subject in the store's account of a right to publish. Whoever wants
// a consumer asks the gate.
func exported(public, subject string) string {
	if strings.HasPrefix(subject, createConsumer) {
		return gatePrefix + public + "." + subject
	}
	return subject
}

func usersOf(b *strings.Builder, users []user, account string) {
	b.WriteString("    users = [\n")
	for _, u := range users {
		if u.account() != account {
			continue
		}
		fmt.Fprintf(b, "      # %s\n      { nkey: %s, permissions: {\n", u.name, u.public)
		for _, x := range []struct {
			verb     string
			subjects []string
		}{{"publish", u.rights.Publish}, {"subscribe", u.rights.Subscribe}} {
			fmt.Fprintf(b, "        %s: { allow: [\n", x.verb)
			for _, s := range x.subjects {
				fmt.Fprintf(b, "          %q\n", s)
			}
			b.WriteString("        ] }\n")
		}
		b.WriteString("      } }\n")
	}
	b.WriteString("    ]\n")
}

func quoted(names []string) string {
	var out []string
	for _, n := range names {
		out = append(out, strconv.Quote(n))
	}
	return "[" + strings.Join(out, ", ") + "]"
}

func sortedKeys(m map[string][]string) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
