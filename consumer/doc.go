// Package consumer makes target servers equal to what their sync settings take.
//
// It promises that one writer at a time works on a target, and one request at a
// time on an object; that an object never goes back to an older version (G3); that
// a message is acknowledged only when its effect is confirmed and recorded, or its
// parking is; that one object or target in trouble delays no other (G5); and that
// nothing is deleted that vcsync did not bring or find equal (G4). An event only
// says which object to look at: what to do follows from the newest state, the
// settings and the target.
package consumer
