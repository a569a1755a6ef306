// Package policy says what becomes of a packet under the rules of a fabric. Decide and Model are the reference: written
// from ADR 10 in plain Go, they share nothing with what is compiled and enforced, and serve to explain, to lint and to
// test it.
package policy
