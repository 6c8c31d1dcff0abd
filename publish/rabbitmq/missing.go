package rabbitmq

import (
	"fmt"
	"strings"

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
		return missing(fmt.Sprintf("%s: 312 NO_ROUTE: there is no queue %q (declare it: %s; "+
			"then retry or redirect the message)", doing, d.RoutingKey, declareQueue(d, vhost)))
	}
	return missing(fmt.Sprintf("%s: 312 NO_ROUTE: exchange %q routes the routing key %q to no queue (bind one: "+
		"%s; then retry or redirect the message)", doing, d.Name, d.RoutingKey, bindQueue(d, vhost)))
}

// noExchange is the failure of a message whose exchange does not exist.
func noExchange(doing string, d outflow.Destination, vhost string) error {
	return missing(fmt.Sprintf("%s: 404 NOT_FOUND: there is no exchange %q for the routing key %q (declare it: %s; "+
		"bind a queue: %s; then retry or redirect the message)",
		doing, d.Name, d.RoutingKey, declareExchange(d, vhost), bindQueue(d, vhost)))
}

func missing(message string) error { return answered(noDestination(message)) }

// Commands are those that make a destination which does not exist, at this address: they declare its
// exchange, and a queue that they bind. They are rabbitmqadmin's, which comes with the management plugin;
// rabbitmqctl has none. It is "" for a text that is no destination of RabbitMQ.
// https://www.rabbitmq.com/docs/management-cli
func (a Address) Commands(destination string) string {
	d, err := destinationOf(destination)
	if err != nil {
		return ""
	}
	if d.Name == "" {
		return declareQueue(d, a.vhost())
	}
	queue := fmt.Sprintf("rabbitmqadmin%s declare queue name=QUEUE durable=true", onVhost(a.vhost()))
	return strings.Join([]string{declareExchange(d, a.vhost()), queue, bindQueue(d, a.vhost())}, " && ")
}

func declareExchange(d outflow.Destination, vhost string) string {
	return fmt.Sprintf("rabbitmqadmin%s declare exchange name=%s type=topic durable=true", onVhost(vhost), word(d.Name))
}

func declareQueue(d outflow.Destination, vhost string) string {
	return fmt.Sprintf("rabbitmqadmin%s declare queue name=%s durable=true", onVhost(vhost), word(d.RoutingKey))
}

func bindQueue(d outflow.Destination, vhost string) string {
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
