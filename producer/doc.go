// Package producer watches one source server after another and publishes what
// changed there.
//
// It promises that an object's change is published once and in order: a publish
// names the event it replaces and is refused otherwise (G1, G3). That a deletion
// is published only for an object seen before and missing in two complete
// listings, the second begun right after the first, and only in plausible numbers
// (G4). And that what is no change publishes nothing (G8). The stream is its only
// memory.
package producer
