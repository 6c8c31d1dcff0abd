package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/bounded"
	"github.com/outflowhq/outflow/internal/program"
	"github.com/outflowhq/outflow/operator"
)

const sendUsage = `outflow send enqueues one message and prints its ID.

Usage:
  outflow send -destination sqs://orders -type order-placed -payload '{"order":7}'
  outflow send -destination sqs://orders -type order-placed -payload-file order.json
  … | outflow send -destination sqs://orders -type order-placed

Flags:
  -destination   where to: sqs://orders, a queue URL or an ARN, …; or routes: one message
                 for each route of the type, and the ID is the group's
  -type          the message type
  -payload       the payload; without it and -payload-file it is read from standard input
  -payload-file  a file with the payload
  -content-type  its media type (default application/json)
  -header        name=value; may be repeated
  -ordering-key  messages of one key and destination are delivered one after the other
  -due-in        deliver it that much later, such as 10m or 2d
  -expires-in    end it expired when it is not delivered by then
  -callback      where its callback goes: an https URL (http://localhost in development),
                 sqs://replies, …; or none, where a rule would give it one (default: as
                 the rules say)
  -callback-payload  the callback carries the payload too
  -id            its ID, a UUID (default: a new one)
  -who, -why     for the audit (default of -who: OUTFLOW_WHO, else you at this host)
  -json          {"id": …} instead of the bare ID

Needs only the database, with an operator's role (outflow grants -operator): the audit
notes who sent it. Exit codes: 0 enqueued, 1 failure, 2 a mistake on the command line or
in the message, 3 a message with this ID exists.
`

func send(ctx context.Context, cl commandLine, args []string) error {
	flags := flag.NewFlagSet("send", flag.ContinueOnError)
	var m outflow.Message
	flags.StringVar(&m.Destination, "destination", "", "")
	flags.StringVar(&m.Type, "type", "", "")
	payload := flags.String("payload", "", "")
	file := flags.String("payload-file", "", "")
	flags.StringVar(&m.ContentType, "content-type", "", "")
	flags.Func("header", "", func(s string) error {
		name, value, found := strings.Cut(s, "=")
		if !found || name == "" {
			return errors.New("wants name=value")
		}
		if m.Headers == nil {
			m.Headers = map[string]string{}
		}
		m.Headers[name] = value
		return nil
	})
	flags.StringVar(&m.OrderingKey, "ordering-key", "", "")
	flags.StringVar(&m.Callback, "callback", "", "")
	flags.BoolVar(&m.CallbackPayload, "callback-payload", false, "")
	dueIn, expiresIn := durationFlag(flags, "due-in", 0), durationFlag(flags, "expires-in", time.Microsecond)
	flags.Func("id", "", func(s string) (err error) {
		if m.ID, err = uuid.Parse(s); err != nil || m.ID == uuid.Nil {
			return errors.New("wants a UUID that is not all zeros, such as 0198f3a2-5b1c-7000-8000-000000000001")
		}
		return nil
	})
	by := cl.actorFlags(flags)
	asJSON := flags.Bool("json", false, "")
	if err := cl.parseFlagsOnly(flags, sendUsage, args); err != nil {
		return err
	}
	m.DueIn, m.ExpiresIn = *dueIn, *expiresIn
	given := given(flags)
	switch {
	case m.Destination == "":
		return usageError("send: wants -destination")
	case m.Type == "":
		return usageError("send: wants -type")
	case given["payload"] && given["payload-file"]:
		return usageError("send: wants -payload or -payload-file, not both")
	case given["payload-file"] && *file == "":
		return usageError("send: -payload-file wants a file's name")
	case given["payload"] && *payload == "": // a script's empty variable; standard input may have another message
		return usageError("send: -payload wants a payload; an empty one comes from a file, or standard input")
	case given["payload"]:
		m.Payload = []byte(*payload)
	default:
		var err error
		if m.Payload, err = readPayload(*file, cl.stdin); err != nil {
			return err
		}
	}
	o, closeAll, err := cl.operator(ctx)
	if err != nil {
		return err
	}
	defer closeAll()
	return sendMessage(ctx, o, m, *by, *asJSON, cl.stdout, cl.stderr)
}

// maxPayload is the limit of enqueue; a destination may have a lower one.
const maxPayload = 16 << 20

func readPayload(file string, stdin io.Reader) ([]byte, error) {
	if file != "" {
		payload, err := bounded.ReadFile(file, maxPayload)
		if err != nil {
			return nil, usageError("send: -payload-file: %w", err)
		}
		return payload, nil
	}
	payload, err := bounded.ReadAll(stdin, maxPayload)
	var tooLarge *bounded.TooLargeError
	if errors.As(err, &tooLarge) {
		return nil, usageError("send: the payload on standard input: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the payload: %w", err)
	}
	return payload, nil
}

func sendMessage(
	ctx context.Context, o *operator.Operator, m outflow.Message, by operator.Actor, asJSON bool, out, errs io.Writer,
) error {
	id, err := o.Send(ctx, m, by)
	var invalid *outflow.InvalidMessageError
	var taken *outflow.DuplicateIDError
	switch {
	case errors.As(err, &invalid):
		return usageError("send: %s: %s", invalid.Field, invalid.Wants)
	case errors.As(err, &taken):
		return program.ExitError{Code: exitRefused, Err: fmt.Errorf("a message with the ID %s exists", m.ID)}
	case err != nil:
		return err
	}
	if asJSON {
		err = writeLine(out, map[string]uuid.UUID{"id": id})
	} else {
		_, err = fmt.Fprintln(out, id)
	}
	if m.Destination == outflow.ByRoute {
		sayHowMany(ctx, o, id, errs)
	}
	return err
}

// sayHowMany says how many messages an enqueue by route has made. They are committed, so an error
// here is no failure of the command: a script would send them again.
func sayHowMany(ctx context.Context, o *operator.Operator, group uuid.UUID, errs io.Writer) {
	messages, err := o.Messages(ctx, group)
	if err != nil && !errors.Is(err, outflow.ErrNotFound) {
		fmt.Fprintf(errs, "the messages are committed; counting them: %v\n", err)
		return
	}
	fmt.Fprintf(errs, "messages by route: %d\n", len(messages))
}
