// Package notify tells people what begins and what ends: deletions that are held,
// objects that are parked, a source that is degraded, drift, a target that is down, and
// safe mode.
//
// It promises five things. One message tells of a beginning and one of its end, however
// many objects are concerned; what passes within the grace is not told. What is not known
// is not told as an end. No message holds the name or content of an object, or words of a
// server. A URL of the file, which may hold a secret, is in no log, error or metric (G6):
// a line is named by its number and its kind of service, and what a library says of a
// failure is not passed on. And whatever a receiver does, nothing else waits for it: the
// queue of each line is bounded, each try has a time, and what cannot be sent is counted.
package notify
