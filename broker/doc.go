// Package broker is vcsync's only store: NATS JetStream, embedded in the process or
// external, with the streams, buckets, leases and records that live in it.
//
// It promises that what it has acknowledged is on disk (G1), that its streams and
// buckets are what vcsync needs or the start is refused and nothing is rewritten,
// that a stream which went backwards is noticed at the start (G7), that a publish
// which does not replace what its author believes is refused, and that at most one
// holder of a lease may act at a time (G3). The package knows nothing of
// VisualCron.
package broker
