package outflow

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Texts that people write for a destination, each with the destination that they probably mean.
// outbox.destination_refusal has the same guesses.
var (
	bareLocal    = regexp.MustCompile(`^(?:localhost|127\.[0-9.]+)(?::[0-9]+)?(?:[/?]|$)`)
	bareHost     = regexp.MustCompile(`^[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)+(?::[0-9]+)?(?:[/?]|$)`)
	brokenScheme = regexp.MustCompile(`^(sqs|sns|rabbitmq|temporal|https|http)(?::/*|//+)(?:[^/]|$)`)
	plainWord    = regexp.MustCompile(`^[A-Za-z0-9_.+-]{1,40}$`)
	rabbitNames  = []string{"amqp", "amqps", "rabbit"}
	schemes      = []string{SchemeSQS, SchemeSNS, SchemeRabbitMQ, SchemeTemporal, SchemeHTTPS, SchemeHTTP}

	// subscriptionARN matches the ARN of an SNS subscription, which begins with the topic's.
	subscriptionARN = regexp.MustCompile(`^(arn:aws[a-z-]*:sns:[^:]*:[^:]*:[^:]+):[^:]+$`)
)

const wantsARN = "an ARN wants arn:aws:sqs:REGION:ACCOUNT:QUEUE or arn:aws:sns:REGION:ACCOUNT:TOPIC"

// noScheme says why a text without "://" is refused.
func noScheme(s string) error {
	switch broken := brokenScheme.FindStringSubmatch(s); {
	case subscriptionARN.MatchString(s):
		return errors.New(wantsARN + didYouMean(subscriptionARN.FindStringSubmatch(s)[1]))
	case strings.HasPrefix(s, "arn:"):
		return errors.New(wantsARN)
	case broken != nil:
		return fmt.Errorf(`a scheme ends in "://"%s`,
			didYouMean(broken[1]+"://"+strings.TrimLeft(s[len(broken[1]):], ":/")))
	case awsName.MatchString(s):
		return fmt.Errorf("no scheme%s", didYouMean(SchemeSQS+"://"+s))
	case bareLocal.MatchString(s):
		return fmt.Errorf("no scheme%s", didYouMean(SchemeHTTP+"://"+s))
	case bareHost.MatchString(s):
		return fmt.Errorf("no scheme%s", didYouMean(SchemeHTTPS+"://"+s))
	}
	return errors.New("no scheme")
}

func unknownScheme(scheme, rest string) error {
	lower := strings.ToLower(scheme)
	switch {
	case slices.Contains(schemes, lower):
		return fmt.Errorf("a scheme is in lower case%s", didYouMean(lower+"://"+rest))
	case slices.Contains(rabbitNames, lower):
		return fmt.Errorf("unknown scheme %q (did you mean rabbitmq://exchange/routing-key?)", scheme)
	}
	return fmt.Errorf("unknown scheme%s", quoteWord(scheme))
}

// didYouMean suggests a short printable text.
func didYouMean(s string) string {
	s = DisplayDestination(s)
	if len(s) > 100 || notPrintable.MatchString(s) {
		return ""
	}
	return " (did you mean " + s + "?)"
}

// quoteWord returns a plain word in quotes with a space before it, and "" for any other text.
func quoteWord(s string) string {
	if !plainWord.MatchString(s) {
		return ""
	}
	return ` "` + s + `"`
}
