// Package schemas is the language that every other part of vcsync speaks: object
// types, event kinds, ids and their subject tokens, events with their headers,
// servers and sync settings with their rules.
//
// It promises three things. Every word is a type whose Parse is the exact inverse
// of its String. Nothing that came from a VisualCron server enters a subject or a
// key raw: ids become tokens of a fixed alphabet. And what is written to the
// stream is pinned by golden files, so a consumer that is already deployed keeps
// understanding it. The package does no I/O.
package schemas
