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
	"github.com/outflowhq/outflow/control"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/program"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/workflows"
)

const showUsage = `outflow show shows one message: its row, its run, and what operators did to it.

Usage:
  outflow show ID [-payload] [-ui URL] [-json]

Flags:
  -payload  the payload too: text as it is, other bytes in base64; on a terminal, what
            would move its cursor or change its text is written as \u001b
  -ui       the address of Temporal's Web UI for the link (default OUTFLOW_TEMPORAL_UI,
            else http://localhost:8080)
  -json     one document for programs

The row needs the database alone; where Temporal can't be asked, the run's part says so.
Exit codes: 0 shown, 1 failure, 2 a mistake on the command line, 3 there is no such message.
`

// defaultUI is where docker-compose.yml has Temporal's Web UI.
const defaultUI = "http://localhost:8080"

func show(ctx context.Context, t tools, args []string) error {
	flags := flag.NewFlagSet("show", flag.ContinueOnError)
	payload := flags.Bool("payload", false, "")
	ui := flags.String("ui", cmp.Or(t.getenv("OUTFLOW_TEMPORAL_UI"), defaultUI), "")
	asJSON := flags.Bool("json", false, "")
	words, err := t.parse(flags, showUsage, args)
	if err != nil {
		return err
	}
	id, err := readID("show", words)
	if err != nil {
		return err
	}
	store, done, err := t.operator(ctx)
	if err != nil {
		return err
	}
	defer done()
	namespace := ""
	if options, err := config.Temporal(t.getenv); err == nil { // else Describe says what is wrong
		namespace = targetOf(options).Namespace
	}
	runs := t.runs(ctx)
	defer runs.close()
	v := view{id: id, payload: *payload, json: *asJSON, onScreen: t.onScreen, workflowID: workflows.DeliverID(t.outbox(), id), ui: *ui, namespace: namespace}
	return v.show(ctx, store, runs, t.stdout)
}

type showStore interface {
	Show(ctx context.Context, id uuid.UUID) (outboxdb.Standing, error)
	Audit(ctx context.Context, id uuid.UUID) ([]outboxdb.AuditEntry, error)
	Payload(ctx context.Context, id uuid.UUID) ([]byte, error)
}

type describer interface {
	Describe(ctx context.Context, workflowID string) (control.Run, error)
}

// view is what to show, and where its links lead.
type view struct {
	id                        uuid.UUID
	payload, json             bool
	onScreen                  bool // what is written goes to a terminal
	workflowID, ui, namespace string
}

// shown is everything about one message.
type shown struct {
	Message outboxdb.Standing     `json:"message"`
	Run     *control.Run          `json:"run,omitempty"`
	NoRun   string                `json:"noRun,omitempty"`
	URL     string                `json:"url"`
	Audit   []outboxdb.AuditEntry `json:"audit,omitempty"`
	// Payload is text, PayloadBase64 anything else.
	Payload       string `json:"payload,omitempty"`
	PayloadBase64 []byte `json:"payloadBase64,omitempty"`
}

func (v view) show(ctx context.Context, store showStore, runs describer, out io.Writer) error {
	message, err := store.Show(ctx, v.id)
	if errors.Is(err, outflow.ErrNotFound) {
		return program.ExitError{Code: exitRefused, Err: fmt.Errorf("message %s: not found", v.id)}
	}
	if err != nil {
		return err
	}
	s := shown{Message: message}
	if s.Audit, err = store.Audit(ctx, v.id); err != nil {
		return err
	}
	if v.payload {
		payload, err := store.Payload(ctx, v.id)
		if err != nil {
			return err
		}
		if utf8.Valid(payload) {
			s.Payload = string(payload)
		} else {
			s.PayloadBase64 = payload
		}
	}
	switch run, err := runs.Describe(ctx, v.workflowID); {
	case errors.Is(err, control.ErrNoRun) && message.State.Final():
		s.NoRun = "none: the message ended without one, or it is past Temporal's retention"
	case errors.Is(err, control.ErrNoRun):
		s.NoRun = "none: not started yet, or past Temporal's retention"
	case err != nil:
		s.NoRun = err.Error()
	default:
		s.Run = &run
	}
	s.URL = v.link(s.Run)
	if v.json {
		return writeDocument(out, s)
	}
	return s.write(out, v.onScreen)
}

// link leads to the run in the Web UI, or to the list of the message's runs.
func (v view) link(run *control.Run) string {
	list := strings.TrimSuffix(v.ui, "/") + "/namespaces/" + url.PathEscape(v.namespace) + "/workflows"
	if run == nil {
		return list + "?query=" + url.QueryEscape(fmt.Sprintf("WorkflowId=%q", v.workflowID))
	}
	return list + "/" + url.PathEscape(v.workflowID) + "/" + run.RunID + "/history"
}

func (s shown) write(out io.Writer, onScreen bool) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(table, "%s\t%s\n", name, short(fmt.Sprintf(format, args...), 500))
	}
	m := s.Message
	line("message", "%s", m.ID)
	line("state", "%s", m.Phase)
	line("destination", "%s", m.Destination)
	line("type", "%s", m.Type)
	line("payload", "%d bytes, %s", m.PayloadBytes, m.ContentType)
	for _, name := range slices.Sorted(maps.Keys(m.Headers)) {
		line("header "+name, "%s", m.Headers[name])
	}
	if m.OrderingKey != nil {
		line("ordering key", "%s", *m.OrderingKey)
	}
	line("generation", "%d", m.Generation)
	line("attempts", "%d (claims: %d)", m.Attempts, m.Claims)
	line("enqueued", "%s", stamp(m.EnqueuedAt))
	line("due", "%s", stamp(m.DueAt))
	switch {
	case m.FinishedAt != nil:
		line("ended", "%s", stamp(*m.FinishedAt))
	case m.Phase == "waiting":
		line("waits until", "%s", stamp(m.AvailableAt))
	case m.Phase == "leased" || m.Phase == "retrying":
		line("leased until", "%s", stamp(m.AvailableAt))
	}
	if m.DismissedAt != nil {
		line("dismissed", "%s", stamp(*m.DismissedAt))
	}
	if m.ExpiresAt != nil {
		line("expires", "%s", stamp(*m.ExpiresAt))
	}
	if m.CancelRequested {
		line("cancel", "requested")
	}
	if m.BrokerMessageID != nil {
		line("broker's ID", "%s", *m.BrokerMessageID)
	}
	if m.LastError != nil {
		line("last error", "%s", *m.LastError)
	}
	if m.Callback != nil {
		with := ""
		if m.CallbackPayload {
			with = " (with the payload)"
		}
		line("callback", "%s%s %s", *m.Callback, with, orEmpty(m.CallbackState))
		if m.CallbackAttempts > 0 {
			line("its attempts", "%d", m.CallbackAttempts)
		}
		if m.CallbackError != nil {
			line("its error", "%s", *m.CallbackError)
		}
	}
	s.writeRun(line)
	line("web", "%s", s.URL)
	for _, a := range s.Audit {
		line("audit", "%s", a.At.UTC().Format("2006-01-02T15:04:05Z")+" "+a.Act+" by "+a.Who+" (login "+a.Login+")"+why(a.Why)+detail(a.Detail))
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

func (s shown) writeRun(line func(name, format string, args ...any)) {
	r := s.Run
	if r == nil {
		line("run", "%s", s.NoRun)
		return
	}
	closed := ""
	if r.ClosedAt != nil {
		closed = ", closed " + stamp(*r.ClosedAt)
	}
	line("run", "%s %s, started %s%s", r.Status, r.RunID, stamp(r.StartedAt), closed)
	for _, a := range r.Activities {
		next := ""
		if a.NextAttemptAt != nil {
			next = ", next " + stamp(*a.NextAttemptAt)
		}
		line("activity", "%s: %s, attempt %d%s", a.ID, a.State, a.Attempt, next)
		if a.LastFailure != "" {
			line("its failure", "%s", a.LastFailure)
		}
	}
}

func why(s string) string {
	if s == "" {
		return ""
	}
	return ": " + s
}

func detail(raw json.RawMessage) string {
	if len(raw) == 0 || string(raw) == "{}" {
		return ""
	}
	return " " + string(raw)
}
