package broker

import "github.com/nats-io/nats.go/jetstream"

// AuditStore is the store as an administrator of it has it.
func (b *Broker) AuditStore() jetstream.JetStream { return b.js }

// ForgetAuditTail makes the next record look for the end of the chain, as after a start.
func (b *Broker) ForgetAuditTail() { b.audit.known = false }

// MisrememberAuditTail is the memory of a process after another has written.
func (b *Broker) MisrememberAuditTail() { b.audit.seq, b.audit.hash = b.audit.seq-1, NoAudit }

// HashOfAudit is the hash of a stored text.
func HashOfAudit(text string) string { return hashOf(text) }
