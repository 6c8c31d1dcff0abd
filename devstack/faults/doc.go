// Package faults is a stack whose parts break one by one, and what a test needs
// around it: Outflow's programs as processes, a steady load, and a tally of what
// arrived.
//
// The invariant: only what a fault names is broken. Temporal and the application
// have a Postgres cluster each, Temporal's server is a process of its own, and
// every program reaches Postgres, Temporal and SQS through a link that can be
// cut, slowed, reset or made deaf. The load and the tally use no link, so that
// what they say is true while everything else fails. Nothing outside of the
// loopback address is ever contacted.
package faults
