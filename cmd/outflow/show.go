package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/program"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/operator"
)

const showUsage = `outflow show shows one message: its row, its run, and what operators did to it.

Usage:
  outflow show ID [-payload] [-ui URL] [-json]

A message that was enqueued by route is shown with its siblings: the other messages of the
group. The ID of the group shows all of them, as outflow list does. Of a message that a
stream has in hand or ended, the run is the stream's.

Flags:
  -payload  the payload too: text as it is, other bytes in base64; on a terminal, what
            would move its cursor or change its text is written as \u001b
  -ui       the address of Temporal's Web UI for the link (default OUTFLOW_TEMPORAL_UI,
            else http://localhost:8080)
  -json     one document for programs

The row needs only the database; where Temporal can't be asked, the run's part says so.
Exit codes: 0 shown, 1 failure, 2 a mistake on the command line, 3 there is no such message.
`

// defaultUI is where docker-compose.yml has Temporal's Web UI.
const defaultUI = "http://localhost:8080"

func show(ctx context.Context, cl commandLine, args []string) error {
	flags := flag.NewFlagSet("show", flag.ContinueOnError)
	payload := flags.Bool("payload", false, "")
	ui := flags.String("ui", cmp.Or(cl.getenv("OUTFLOW_TEMPORAL_UI"), defaultUI), "")
	asJSON := flags.Bool("json", false, "")
	words, err := cl.parse(flags, showUsage, args)
	if err != nil {
		return err
	}
	id, err := readID("show", words)
	if err != nil {
		return err
	}
	o, closeAll, err := cl.operator(ctx)
	if err != nil {
		return err
	}
	defer closeAll()
	details, err := o.Show(ctx, id, *payload)
	if errors.Is(err, outflow.ErrNotFound) {
		return showGroup(ctx, o, id, given(flags), *asJSON, cl.stdout)
	}
	if err != nil {
		return err
	}
	namespace := ""
	if options, err := config.Temporal(cl.getenv); err == nil { // otherwise details.NoRun says what is wrong
		namespace = targetOf(options).Namespace
	}
	s := shownOf(details, *ui, namespace)
	if *asJSON {
		return writeDocument(cl.stdout, s)
	}
	return s.write(cl.stdout, cl.onScreen)
}

// showGroup shows the messages of a group, where its ID is no message's.
func showGroup(
	ctx context.Context, o *operator.Operator, id uuid.UUID, given map[string]bool, asJSON bool, out io.Writer,
) error {
	messages, err := o.Messages(ctx, id)
	switch {
	case errors.Is(err, outflow.ErrNotFound):
		return program.ExitError{Code: exitRefused, Err: fmt.Errorf("message %s: not found", id)}
	case err != nil:
		return err
	case given["payload"], given["ui"]:
		return usageError("show: %s is a group: -payload and -ui want the ID of one of its messages", id)
	case asJSON:
		return writeDocument(out, map[string]any{"group": id, "messages": messages})
	}
	return writeTable(out, messages)
}

// shown is everything about one message, as a document.
type shown struct {
	Message  operator.MessageStatus `json:"message"`
	Siblings []operator.Sibling     `json:"siblings,omitempty"`
	Head     *operator.Sibling      `json:"head,omitempty"`
	// Stream is the workflow ID of the stream that has the message in hand or ended it. The run is then
	// the stream's.
	Stream string                `json:"stream,omitempty"`
	Run    *operator.Run         `json:"run,omitempty"`
	NoRun  string                `json:"noRun,omitempty"`
	URL    string                `json:"url"`
	Audit  []operator.AuditEntry `json:"audit,omitempty"`
	// Payload is text, PayloadBase64 anything else.
	Payload       string `json:"payload,omitempty"`
	PayloadBase64 []byte `json:"payloadBase64,omitempty"`
}

func shownOf(d operator.Details, ui, namespace string) shown {
	s := shown{
		Message: d.Message, Siblings: d.Siblings, Head: d.Head, Run: d.Run, NoRun: d.NoRun,
		URL: link(d, ui, namespace), Audit: d.Audit,
	}
	if d.Stream != "" {
		s.Stream = d.WorkflowID
	}
	if utf8.Valid(d.Payload) {
		s.Payload = string(d.Payload)
	} else {
		s.PayloadBase64 = d.Payload
	}
	return s
}

// link leads to the run in the Web UI, or to the list of the message's runs.
func link(d operator.Details, ui, namespace string) string {
	list := strings.TrimSuffix(ui, "/") + "/namespaces/" + url.PathEscape(namespace) + "/workflows"
	if d.Run == nil {
		return list + "?query=" + url.QueryEscape(fmt.Sprintf("WorkflowId=%q", d.WorkflowID))
	}
	return list + "/" + url.PathEscape(d.WorkflowID) + "/" + d.Run.RunID + "/history"
}

// writeField writes one line of a message: a name and its value.
type writeField func(name, format string, args ...any)

func (s shown) write(out io.Writer, onScreen bool) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	field := func(name, format string, args ...any) {
		fmt.Fprintf(table, "%s\t%s\n", name, short(fmt.Sprintf(format, args...), 500))
	}
	s.writeMessage(field)
	s.writeTimes(field)
	s.writeGroup(field)
	s.writeCallback(field)
	s.writeRun(field)
	field("web", "%s", s.URL)
	for _, a := range s.Audit {
		entry := text.Stamp(a.At) + " " + a.Act + " by " + a.Who + " (login " + a.Login + ")"
		if a.Why != "" {
			entry += ": " + a.Why
		}
		if len(a.Detail) > 0 && string(a.Detail) != "{}" {
			entry += " " + string(a.Detail)
		}
		field("audit", "%s", entry)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	switch {
	case s.Payload != "" && onScreen:
		fmt.Fprintf(out, "\n%s\n", text.Visible(s.Payload))
	case s.Payload != "":
		fmt.Fprintf(raw(out), "\n%s\n", s.Payload)
	case s.PayloadBase64 != nil:
		encoded, _ := json.Marshal(s.PayloadBase64) // bytes
		fmt.Fprintf(out, "\nbase64 %s\n", encoded)
	}
	return nil
}

func (s shown) writeMessage(field writeField) {
	m := s.Message
	field("message", "%s", m.ID)
	field("state", "%s", m.Phase)
	field("destination", "%s", m.Destination)
	field("type", "%s", m.Type)
	field("payload", "%d bytes, %s", m.PayloadBytes, m.ContentType)
	for _, name := range slices.Sorted(maps.Keys(m.Headers)) {
		field("header "+name, "%s", m.Headers[name])
	}
	if m.OrderingKey != nil {
		field("ordering key", "%s", *m.OrderingKey)
	}
	field("generation", "%d", m.Generation)
	field("attempts", "%d (claims: %d)", m.Attempts, m.Claims)
}

func (s shown) writeTimes(field writeField) {
	m := s.Message
	field("enqueued", "%s", text.Stamp(m.EnqueuedAt))
	field("due", "%s", text.Stamp(m.DueAt))
	switch {
	case m.FinishedAt != nil:
		field("ended", "%s", text.Stamp(*m.FinishedAt))
	case m.Follower && s.Head == nil:
		field("waits for", "a starter: the message before it of its ordering key has ended")
	case m.Follower:
		field("waits for", "message %s before it of its ordering key (%s)", s.Head.ID, s.Head.Phase)
	case m.Phase == "waiting":
		field("waits until", "%s", text.Stamp(m.AvailableAt))
	case m.InPage: // its lease is its page
	case m.Phase == "leased" || m.Phase == "retrying":
		field("leased until", "%s", text.Stamp(m.AvailableAt))
	}
	if m.Head && m.FinishedAt != nil {
		field("blocks", "the messages behind it of its ordering key: \"outflow skip\" lets them go on")
	}
	if m.DismissedAt != nil {
		field("dismissed", "%s", text.Stamp(*m.DismissedAt))
	}
	if m.ExpiresAt != nil {
		field("expires", "%s", text.Stamp(*m.ExpiresAt))
	}
	if m.CancelRequested {
		field("cancel", "requested")
	}
	if m.BrokerMessageID != nil {
		field("broker's ID", "%s", *m.BrokerMessageID)
	}
	if m.Missing != nil {
		field("waits for", "%s", *m.Missing)
	}
	if m.LastError != nil {
		field("last error", "%s", *m.LastError)
	}
}

func (s shown) writeGroup(field writeField) {
	if s.Message.GroupID == nil {
		return
	}
	field("group", "%s", *s.Message.GroupID)
	for _, other := range s.Siblings {
		field("sibling", "%s %s %s", other.ID, other.Phase, outflow.DisplayDestination(other.Destination))
	}
}

func (s shown) writeCallback(field writeField) {
	m := s.Message
	if m.Callback == nil {
		return
	}
	with := ""
	if m.CallbackPayload {
		with = " (with the payload)"
	}
	field("callback", "%s%s %s", *m.Callback, with, orEmpty(m.CallbackState))
	if m.CallbackAttempts > 0 {
		field("its attempts", "%d", m.CallbackAttempts)
	}
	if m.CallbackError != nil {
		field("its error", "%s", *m.CallbackError)
	}
}

func (s shown) writeRun(field writeField) {
	switch {
	case s.Stream == "":
	case s.Message.InPage:
		field("stream", "%s has it in a page", s.Stream)
	default:
		field("stream", "%s had it: it has no run of its own", s.Stream)
	}
	r := s.Run
	if r == nil {
		field("run", "%s", s.NoRun)
		return
	}
	closed := ""
	if r.ClosedAt != nil {
		closed = ", closed " + text.Stamp(*r.ClosedAt)
	}
	field("run", "%s %s, started %s%s", r.Status, r.RunID, text.Stamp(r.StartedAt), closed)
	for _, a := range r.Activities {
		next := ""
		if a.NextAttemptAt != nil {
			next = ", next " + text.Stamp(*a.NextAttemptAt)
		}
		field("activity", "%s: %s, attempt %d%s", a.ID, a.State, a.Attempt, next)
		if a.LastFailure != "" {
			field("its failure", "%s", a.LastFailure)
		}
	}
}
