package webhook

import (
	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
)

var _ publish.Refuser = (*Publisher)(nil)

// Refusal is why nothing is sent to an address until an operator allows its host or adds a secret
// for it, or nil. Publish refuses addresses that no setting allows.
func (p *Publisher) Refusal(destination string) error {
	to, err := parseTarget(destination)
	if err != nil {
		return nil
	}
	if _, err = p.secretsFor(to); outflow.IsPermanent(err) {
		return nil
	}
	return err
}
