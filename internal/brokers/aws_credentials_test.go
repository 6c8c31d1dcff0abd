package brokers

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The refusal of one queue's policy must not affect other queues: credentials are looked for at
// intervals, and credentials that do not work never replace those in use.
func TestCredentialsAreLookedForNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		key := func(name string, err error) aws.CredentialsProvider {
			return aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
				return aws.Credentials{AccessKeyID: name}, err
			})
		}
		loads, next := 0, key("broken", errors.New("STS is away"))
		c := aws.Config{Credentials: key("first", nil)}
		followFiles(&c, func(context.Context) (aws.Config, error) {
			loads++
			return aws.Config{Credentials: next}, nil
		})
		own := c.Credentials.(*credentialChain)
		for range 600 { // a minute
			own.stale.Store(true)
			got, err := c.Credentials.Retrieve(t.Context())
			require.NoError(t, err)
			require.Equal(t, "first", got.AccessKeyID)
			time.Sleep(100 * time.Millisecond)
		}
		assert.Equal(t, int(time.Minute/resolveEvery), loads)
		next = key("second", nil)
		time.Sleep(resolveEvery)
		got, err := c.Credentials.Retrieve(t.Context())
		require.NoError(t, err)
		assert.Equal(t, "second", got.AccessKeyID)
	})
}
