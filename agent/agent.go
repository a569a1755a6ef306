// Package agent keeps one host as the fabric says: it turns the newest snapshot into the state its datapath must hold, puts
// that in force, reads it back from the kernel every second, and reports how far it is. It holds no authority: whatever it
// cannot decide from etcd, it leaves as it is.
package agent
