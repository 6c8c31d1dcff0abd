package awssns

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/internal/aws"
	"github.com/outflowhq/outflow/publish/internal/awsbatch"
)

// accounts are the look-ups of the credentials' account, which topics share, by the region in
// which they ask.
type accounts struct {
	mu       sync.Mutex
	byRegion map[string]*awsbatch.Lookup
}

// accountFor returns the look-up for topics of a region. It asks in the client's own region, if
// both are of one partition: credentials belong to a partition.
func (c *caller) accountFor(region string, timeout time.Duration) *awsbatch.Lookup {
	if own := c.region(); own != "" && partitionOf(own) == partitionOf(region) {
		region = own
	}
	c.account.mu.Lock()
	defer c.account.mu.Unlock()
	l := c.account.byRegion[region]
	if l == nil {
		l = &awsbatch.Lookup{
			Errors: identityService, Doing: doingAccount, Timeout: timeout,
			Ask: func(ctx context.Context, r *aws.Retryer) (string, error) { return c.askAccount(ctx, region, r) },
		}
		if c.account.byRegion == nil {
			c.account.byRegion = map[string]*awsbatch.Lookup{}
		}
		c.account.byRegion[region] = l
	}
	return l
}

const doingAccount = "looking up the account of the AWS credentials"

// identityService is STS, as far as a look-up needs it.
var identityService = &aws.Service{
	Name: "STS", ID: sts.ServiceID, Destination: "account", Actions: "sts:GetCallerIdentity",
	Codes: aws.CodesWith(nil),
}

// askAccount returns the account that the client's credentials name, else what STS says of them.
func (c *caller) askAccount(ctx context.Context, region string, r *aws.Retryer) (string, error) {
	account, err := c.credentialsAccount(ctx)
	if err != nil || account != "" {
		return account, err
	}
	if c.identity == nil {
		return "", outflow.Unavailable(errors.New(doingAccount + ": they name none, and nobody can be asked " +
			"(give the publisher WithIdentity): nothing was sent"))
	}
	out, err := c.identity.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{}, func(o *sts.Options) {
		o.Retryer = r
		o.Region = region
	})
	if err != nil {
		return "", err
	}
	return checked(sdk.ToString(out.Account), "STS's answer")
}

func (c *caller) credentialsAccount(ctx context.Context) (string, error) {
	client, ok := c.api.(interface{ Options() sns.Options })
	if !ok || client.Options().Credentials == nil {
		return "", nil
	}
	credentials, err := client.Options().Credentials.Retrieve(ctx)
	if err != nil {
		return "", fmt.Errorf("get identity: %w", err) // as the SDK says it
	}
	if credentials.AccountID == "" {
		return "", nil
	}
	return checked(credentials.AccountID, "AWS_ACCOUNT_ID, or the source of the credentials,")
}

var accountForm = regexp.MustCompile(`^[0-9]{12}$`)

func checked(account, from string) (string, error) {
	if !accountForm.MatchString(account) {
		return "", outflow.Unavailable(fmt.Errorf("%s: %s names an account without the form of 12 digits: "+
			"nothing was sent", doingAccount, from))
	}
	return account, nil
}
