package webhook

import "context"

// Check reports whether requests may be sent to a destination: whether its host is allowed and has
// a secret. It sends no request. The error says which setting is missing.
func (p *Publisher) Check(_ context.Context, destination string) error {
	to, err := parseTarget(destination)
	if err != nil {
		return err
	}
	_, err = p.secretsFor(to)
	return err
}
