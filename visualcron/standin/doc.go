// Package standin is a stand-in for a VisualCron server, for demos, tests and
// benchmarks. It is not VisualCron and says so wherever it names its version.
//
// It promises five things. It speaks the bridge contract (visualcron/bridge,
// openapi.yaml) for all object types, storing and returning fields that it does
// not know. An object lies on disk, synced, before the answer to its writer goes
// out, and a kill at any moment leaves the old or the new object, never half of
// one. What a VisualCron server does by itself it does too: every Task carries
// its empty slots, statistics move without anybody's edit, and the server dates
// what it stores. It misbehaves as it is told to and not otherwise: each way is a
// Mode, switched at run time, from within or at /standin/v1/misbehaviour, which no
// mode touches; what its capabilities tell stays true in every mode. And it runs in
// virtual time: it takes its time from package time alone, and no goroutine of it is
// left after Close.
//
// What no handler of HTTP can do is no mode: a port that refuses connections, and a
// TLS certificate that changes. Neither is what belongs to VisualCron's own Web API
// and not to the contract: text output, tokens in the query, paths in any case, the
// list of methods.
//
// Shapes and names follow docs/visualcron.md; what is assumed there is assumed
// here.
package standin
