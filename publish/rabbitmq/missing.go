package rabbitmq

import (
	"fmt"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
)

// noDestination is the text about a destination that does not exist.
type noDestination string

func (e noDestination) Error() string { return string(e) }

// Is has errors.Is find outflow.ErrNoDestination, whose words the text does not need.
func (noDestination) Is(target error) bool { return target == outflow.ErrNoDestination }

// unroutable is the failure of a message that its exchange routes to no queue. RabbitMQ has not
// stored it.
func unroutable(doing string, d outflow.Destination, vhost string) error {
	if d.Name == "" {
		return missing(fmt.Sprintf("%s: 312 NO_ROUTE: there is no queue %q (declare it: "+
			"rabbitmqadmin%s declare queue name=%s durable=true; then retry or redirect the message)",
			doing, d.RoutingKey, onVhost(vhost), word(d.RoutingKey)))
	}
	return missing(fmt.Sprintf("%s: 312 NO_ROUTE: exchange %q routes the routing key %q to no queue (bind one: "+
		"%s; then retry or redirect the message)", doing, d.Name, d.RoutingKey, bind(d, vhost)))
}

// noExchange is the failure of a message whose exchange does not exist.
func noExchange(doing string, d outflow.Destination, vhost string) error {
	return missing(fmt.Sprintf("%s: 404 NOT_FOUND: there is no exchange %q for the routing key %q (declare it: "+
		"rabbitmqadmin%s declare exchange name=%s type=topic durable=true; bind a queue: %s; "+
		"then retry or redirect the message)",
		doing, d.Name, d.RoutingKey, onVhost(vhost), word(d.Name), bind(d, vhost)))
}

func missing(message string) error { return answered(noDestination(message)) }

// bind is the command that binds a queue. rabbitmqctl has none; rabbitmqadmin comes with the
// management plugin. https://www.rabbitmq.com/docs/management-cli
func bind(d outflow.Destination, vhost string) string {
	return fmt.Sprintf("rabbitmqadmin%s declare binding source=%s destination=QUEUE routing_key=%s",
		onVhost(vhost), word(d.Name), word(d.RoutingKey))
}

func onVhost(vhost string) string {
	if vhost == "/" {
		return ""
	}
	return " --vhost=" + word(vhost)
}

// word is one word of a shell, not too long for an error: names have up to 255 bytes.
func word(name string) string { return text.ShellWord(text.Limit(name, 120)) }
