// Package operator is what people do to messages beside the deliveries: retry, cancel, redirect,
// reschedule, resend and dismiss them, list and show them, set callback rules, give rights, and
// look for what keeps messages from being delivered.
//
// The invariants:
//   - Each act is one statement for many messages. It locks the rows in the order of their IDs,
//     changes those that the act may touch, and notes them in outbox.audit. The change and its
//     audit entry stand or fall together.
//   - No act ends a message that a lease or an open run may hold. Cancel asks the run, and answers
//     what the row says afterwards.
//   - Every act that can works without Temporal. An answer says where Temporal was needed and away.
//
// Each file has one act: its statement, what it decides, and its answers.
//
//	o := operator.New(pool, operator.NewRuns(temporalClient), "outbox")
//	answers, err := o.Retry(ctx, ids, operator.Actor{Who: "ada@host", Why: "the queue is back"})
//	for _, a := range answers {
//		fmt.Println(a.ID, a.Verdict, a.Text)
//	}
package operator
