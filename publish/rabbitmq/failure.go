package rabbitmq

import (
	"errors"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
)

// code is what a code of AMQP says about the one message, or the connection, that it refuses.
type code struct {
	name   string
	class  outflow.Class
	advice string
}

const (
	seeLog     = "RabbitMQ's log has the reason"
	seeURL     = "check AMQP_URL"
	seeVhost   = "check the virtual host of AMQP_URL, and the limits of it and of the user"
	grantWrite = "grant the user of AMQP_URL the permission to write to the exchange: rabbitmqctl set_permissions"
	correct    = "correct the message and enqueue it again, or redirect it; " + seeLog
	again      = "RabbitMQ may have accepted it; it is sent again with the same message ID"
	notSent    = "nothing was sent"
)

// codes has every code of the protocol. Those below 500 close a channel, all others a connection.
// https://www.rabbitmq.com/amqp-0-9-1-reference#constants
var codes = map[int]code{
	// "The client may retry at a later time."
	311: {"CONTENT_TOO_LARGE", outflow.ClassRetryable, "it is retried; " + seeLog},
	// No consumer was ready: only of messages that ask for one at once, which these do not.
	313: {"NO_CONSUMERS", outflow.ClassRetryable, "it is retried"},
	// Somebody grants the permission, and the messages wait for that.
	403: {"ACCESS_REFUSED", outflow.ClassUnavailable, grantWrite},
	405: {"RESOURCE_LOCKED", outflow.ClassUnavailable, seeLog},
	406: {"PRECONDITION_FAILED", outflow.ClassPermanent, correct},
	// The broker stops, or an operator closed the connection.
	320: {"CONNECTION_FORCED", outflow.ClassUnavailable, "it is retried when RabbitMQ is back"},
	402: {"INVALID_PATH", outflow.ClassUnavailable, seeVhost},
	501: {"FRAME_ERROR", outflow.ClassUnavailable, seeLog},
	502: {"SYNTAX_ERROR", outflow.ClassUnavailable, seeLog},
	503: {"COMMAND_INVALID", outflow.ClassUnavailable, seeLog},
	504: {"CHANNEL_ERROR", outflow.ClassUnavailable, seeLog},
	505: {"UNEXPECTED_FRAME", outflow.ClassUnavailable, seeLog},
	506: {"RESOURCE_ERROR", outflow.ClassUnavailable, "RabbitMQ is out of something; " + seeLog},
	530: {"NOT_ALLOWED", outflow.ClassUnavailable, seeVhost},
	540: {"NOT_IMPLEMENTED", outflow.ClassUnavailable, seeLog},
	541: {"INTERNAL_ERROR", outflow.ClassUnavailable, "it is retried; " + seeLog},
}

// refused is the failure of one message that RabbitMQ refused by itself.
func refused(doing string, e *amqp.Error) error {
	c, known := codes[e.Code]
	if !known {
		c = code{"unknown code", outflow.ClassRetryable, "it is retried; " + seeLog}
	}
	said := said(e)
	if c.class == outflow.ClassPermanent {
		said = strconv.Itoa(e.Code) + " " + c.name // its words may quote the message
	}
	return &outflow.Failure{Class: c.class, Answered: c.class != outflow.ClassUnavailable,
		Err: fmt.Errorf("%s: %s (%s)", doing, said, c.advice)}
}

// said is how RabbitMQ, or the network, closed something: code and words.
func said(e *amqp.Error) string {
	if e == nil {
		return "the connection was closed here"
	}
	words := strings.TrimSuffix(text.Limit(e.Reason, 300), ".")
	if !e.Server { // the client library has codes for errors of the network
		return words
	}
	return strconv.Itoa(e.Code) + " " + words
}

// lost is the failure of a message whose answer was lost: what was sent on a channel that closed
// without a confirm may be stored.
func lost(doing string, e *amqp.Error) error {
	advice := again
	if e != nil && e.Server && e.Code == amqp.AccessRefused {
		advice += "; " + grantWrite
	}
	return outflow.Unavailable(fmt.Errorf("%s: no answer: %s (%s)", doing, said(e), advice))
}

// unanswered is the failure of a message that was not confirmed in time.
func unanswered(doing string, after time.Duration, cutShort bool) error {
	return &outflow.Failure{Class: outflow.ClassUnavailable, CutShort: cutShort,
		Err: fmt.Errorf("%s: no answer within %s (%s)", doing, after, again)}
}

// heldUp is the failure of a message that was sent to a broker which then stopped to take messages.
func heldUp(doing, reason string) error {
	return outflow.Unavailable(fmt.Errorf("%s: no answer: RabbitMQ takes no messages: %s (%s)",
		doing, reason, again))
}

// blocked is the failure of a message that was not sent, because a broker takes none.
func blocked(doing, reason string) error {
	return outflow.Unavailable(fmt.Errorf("%s: RabbitMQ takes no messages: %s "+
		"(%s; free the broker's memory or disk space, or raise its limit)", doing, reason, notSent))
}

// nacked is the failure of a message that RabbitMQ could not store.
func nacked(doing string) error {
	return outflow.Unavailable(fmt.Errorf("%s: basic.nack: RabbitMQ did not store it in every queue "+
		"(it is retried; a queue is full and rejects what it is sent, or has no majority)", doing))
}

func notAttempted(doing string, why error) error {
	return outflow.Retryable(fmt.Errorf("%s: %w: %w", doing, outflow.ErrNotAttempted, why))
}

// sizeLimit is how RabbitMQ says that a message exceeds max_message_size.
var sizeLimit = regexp.MustCompile(`message size \d+ is larger than (?:configured )?max size (\d{1,10})`)

// limitIn is the limit that a refusal names, or false.
func limitIn(e *amqp.Error) (limit int, ok bool) {
	if e == nil || e.Code != amqp.PreconditionFailed {
		return 0, false
	}
	found := sizeLimit.FindStringSubmatch(e.Reason)
	if found == nil {
		return 0, false
	}
	limit, err := strconv.Atoi(found[1])
	return limit, err == nil
}

func tooLarge(doing string, size, limit int) error {
	return answered(fmt.Errorf("%s: 406 PRECONDITION_FAILED: the payload has %d bytes, and RabbitMQ takes %d "+
		"(raise max_message_size in rabbitmq.conf and retry the message; "+
		"or enqueue a reference to the content instead)", doing, size, limit))
}

// answered is the permanent failure of a message that RabbitMQ itself refused.
func answered(err error) error {
	return &outflow.Failure{Class: outflow.ClassPermanent, Answered: true, Err: err}
}

// connecting is the failure of a connection that was not made.
func connecting(to Address, err error) error {
	doing := "connecting to " + to.String()
	var e *amqp.Error
	var op *net.OpError
	what, advice := err.Error(), seeURL+" and the network"
	switch {
	case errors.As(err, &e) && e.Code == amqp.AccessRefused:
		what, advice = said(e), "check user name and password in AMQP_URL"
	case errors.As(err, &e) && e.Server:
		what = said(e)
		if c, known := codes[e.Code]; known {
			advice = c.advice
		}
	case errors.As(err, &e):
		what = said(e)
	case errors.As(err, &op):
		what = (&net.OpError{Op: op.Op, Net: op.Net, Addr: op.Addr, Err: op.Err}).Error() // without this side's port
	}
	if errors.Is(err, errCertificates) || strings.Contains(what, "tls: ") || strings.Contains(what, "x509: ") {
		advice = "check the certificates: cacertfile, certfile and keyfile in AMQP_URL, and the broker's own"
	}
	return outflow.Unavailable(fmt.Errorf("%s: %s (%s; %s)", doing, text.Limit(what, 300), notSent, advice))
}
