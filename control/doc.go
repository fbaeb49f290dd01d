// Package control is the HTTP API of vcsync and its status page: servers, sync
// settings, events, what is parked, and how everything does.
//
// It promises five things. An act that changes something passes one function,
// which writes who did what to the audit stream before the effect; where that
// fails, nothing happens (G12). A setting or server is changed only by a caller who
// names the revision that it saw, so nobody overwrites what they have not read
// (G13). A password goes in and never comes out (G6): no answer has a place for
// one. A page of another origin, a foreign Host header and a body that is no JSON
// are refused before anything reads them, and no GET changes anything. And the
// listening address is a loopback one, because there is no TLS and there are no
// accounts yet.
//
// Only a server's hints need a token, and only their body may be anything, because
// nobody reads it. A hint makes a listing earlier and nothing else.
//
// The API is described in openapi.yaml, which is made from the Go types.
package control
