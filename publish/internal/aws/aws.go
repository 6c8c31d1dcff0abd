// Package aws has what the publishers to Amazon's services share: what their error codes mean,
// when a request is sent again, the text of a failure, and how a message is encoded. Package
// awsbatch sends it.
//
// The invariant: an error is permanent only where the service itself refused the content or
// does not know the destination; a code that nobody knows is retried. A request is sent again
// only where the service accepted nothing. No error's text quotes a message.
package aws

import (
	"fmt"

	"github.com/outflowhq/outflow"
)

// Service is what differs between the services.
type Service struct {
	// Name is the service's in texts, such as "SQS"; ID is the SDK's for it.
	Name, ID string
	// Destination is the service's word for one, such as "queue".
	Destination string
	// Actions are what the sender's policy must allow, such as "sqs:GetQueueUrl and
	// sqs:SendMessage".
	Actions string
	// CodePrefix stands before codes in the query protocol, such as "AWS.SimpleQueueService.".
	CodePrefix string
	// Codes are the service's error codes, without CodePrefix. See CodesWith.
	Codes map[string]Kind
	// Refine corrects the kind of an error by the service's text, which means more than its code.
	// It may be nil.
	Refine func(k Kind, said string) Kind
	// Parameters are those whose names may be repeated of a text that may quote the message.
	Parameters []string
	// TooLarge recognises the service's text about a message of so many bytes that is too
	// large for its destination, and returns a text and an advice of its own. It may be nil.
	TooLarge func(said string, size int) (detail, advice string, ok bool)
}

// Kind is what an error of a request says.
type Kind string

// The kinds of error.
const (
	// Throttled: nothing was accepted, and a little later it may be.
	Throttled Kind = "throttled"
	// Denied: a policy refuses. Somebody corrects it; the messages wait for it.
	Denied Kind = "denied"
	// UnknownCaller: the service does not know the credentials, or no longer: they are
	// rotated, and clocks are corrected.
	UnknownCaller Kind = "unknown caller"
	// KeyRefused: KMS refuses the destination's key. Somebody corrects it.
	KeyRefused Kind = "key refused"
	// WrongEndpoint: the address does not belong to this endpoint. That is configuration.
	WrongEndpoint Kind = "wrong endpoint"
	// Down: the service has trouble of its own.
	Down Kind = "down"
	// Missing: the destination does not exist under this address. The failure wraps
	// outflow.ErrNoDestination.
	Missing Kind = "missing"
	// Content: the content of a message is refused. For a request with several messages it
	// says nothing about any one of them.
	Content Kind = "content"
	// Unknown: a code that is in no table, or none.
	Unknown Kind = "unknown"

	// The kinds of error without an answer.

	// NoCredentials: the SDK found none, so nothing was sent.
	NoCredentials Kind = "no credentials"
	// Unreachable: there was no connection, so nothing was sent.
	Unreachable Kind = "unreachable"
	// Unanswered: the request was sent. The service may have accepted the messages, and nobody
	// sends them again within the same call.
	Unanswered Kind = "unanswered"
)

// Class is the class of a failure of this kind.
func (k Kind) Class() outflow.Class {
	switch k {
	case Missing, Content:
		return outflow.ClassPermanent
	case Unknown:
		return outflow.ClassRetryable
	}
	return outflow.ClassUnavailable
}

// mayQuote reports whether the service's text about such an error may quote the message.
func (k Kind) mayQuote() bool { return k == Content || k == Unknown }

// Advice is what an operator can do about an error of this kind.
func (s *Service) Advice(k Kind) string {
	switch k {
	case Throttled:
		return "it is retried; ask AWS for a higher quota if it stays"
	case Denied:
		return fmt.Sprintf("allow %s in the sender's policy and the %s's", s.Actions, s.Destination)
	case UnknownCaller:
		return "check the AWS credentials, the region and this host's clock"
	case KeyRefused:
		return fmt.Sprintf("allow kms:GenerateDataKey and kms:Decrypt on the %s's key, and see that the key is enabled",
			s.Destination)
	case WrongEndpoint:
		return "check the region, the account and the endpoint"
	case Down:
		return "it is retried; see AWS's health page if it stays"
	case Missing:
		return fmt.Sprintf("create the %s, or check name, region, account and the permission to see it; "+
			"then retry or redirect the message", s.Destination)
	case Content:
		return "correct the message and enqueue it again, or redirect it"
	case NoCredentials:
		return "nothing was sent; check the AWS credentials of this process"
	case Unreachable:
		return "nothing was sent; check the endpoint, the region and the network"
	case Unanswered:
		return s.Name + " may have accepted it; it is sent again with the same message ID"
	}
	return "it is retried; look the code up at AWS if it stays"
}
