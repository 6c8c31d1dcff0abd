package aws

import (
	"maps"
	"net/http"
	"strings"
)

// common are the error codes of every service. A code has up to two spellings here: the
// shape's name (JSON protocol) and the older one (query protocol).
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html
var common = map[string]Kind{
	// "The request was denied due to request throttling."
	"Throttling": Throttled, "ThrottlingException": Throttled,
	"Throttled": Throttled, "ThrottledException": Throttled,
	"TooManyRequestsException": Throttled, "RequestLimitExceeded": Throttled, "SlowDown": Throttled,

	"AccessDenied": Denied, "AccessDeniedException": Denied, "NotAuthorized": Denied, "UnauthorizedOperation": Denied,

	"InvalidClientTokenId": UnknownCaller, "UnrecognizedClientException": UnknownCaller,
	"InvalidAccessKeyId": UnknownCaller, "OptInRequired": UnknownCaller,
	"ExpiredToken": UnknownCaller, "ExpiredTokenException": UnknownCaller, "RequestExpired": UnknownCaller,
	"SignatureDoesNotMatch": UnknownCaller, "InvalidSignatureException": UnknownCaller,
	"RequestTimeTooSkewed": UnknownCaller,
	"IncompleteSignature":  UnknownCaller, "IncompleteSignatureException": UnknownCaller,
	"MissingAuthenticationToken": UnknownCaller, "MissingAuthenticationTokenException": UnknownCaller,

	"ServiceUnavailable": Down, "ServiceUnavailableException": Down,

	"InvalidParameterValue": Content, "InvalidParameterValueException": Content,
	"InvalidParameterCombination": Content, "MissingParameter": Content,
	"ValidationError": Content, "ValidationException": Content, "SerializationException": Content,
}

// CodesWith returns the codes that every service has, and a service's own, which count first.
func CodesWith(own map[string]Kind) map[string]Kind {
	all := maps.Clone(common)
	maps.Copy(all, own)
	return all
}

// KindOf returns the kind of an error code and an HTTP status, 0 for an entry of a batch. A
// code that nobody knows is never permanent.
func (s *Service) KindOf(code string, status int) Kind {
	if k, ok := s.Codes[s.plainCode(code)]; ok {
		return k
	}
	switch {
	case status == http.StatusTooManyRequests:
		return Throttled
	case status == http.StatusRequestEntityTooLarge: // a proxy's limit
		return Content
	case status >= 500:
		return Down
	}
	return Unknown
}

// plainCode strips what surrounds a code: a namespace, and the service's prefix.
func (s *Service) plainCode(code string) string {
	return strings.TrimPrefix(code[strings.LastIndexByte(code, '#')+1:], s.CodePrefix)
}
