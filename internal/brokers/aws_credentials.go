package brokers

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
)

// resolveEvery bounds how often credentials are looked for again.
const resolveEvery = 15 * time.Second

// credentialChain is AWS's default chain of credentials. It looks for credentials again
// after a refusal, and where it found none: the SDK reads files once, and keeps
// credentials without an expiry for the life of the process.
type credentialChain struct {
	load    func(context.Context) (aws.CredentialsProvider, error)
	current atomic.Pointer[aws.CredentialsProvider]
	stale   atomic.Bool

	resolving sync.Mutex
	resolved  time.Time
}

var _ aws.CredentialsProvider = (*credentialChain)(nil)

// followFiles gives c credentials that follow their files, where c has credentials.
func followFiles(c *aws.Config, again func(context.Context) (aws.Config, error)) {
	if c.Credentials == nil {
		return
	}
	credentials := &credentialChain{load: func(ctx context.Context) (aws.CredentialsProvider, error) {
		fresh, err := again(ctx)
		if err != nil || fresh.Credentials == nil {
			return nil, err
		}
		return fresh.Credentials, nil
	}}
	first := c.Credentials
	credentials.current.Store(&first)
	c.Credentials = credentials
	c.APIOptions = append(c.APIOptions, credentials.watch)
}

// Retrieve returns the credentials in use. Their own cache renews what expires.
func (c *credentialChain) Retrieve(ctx context.Context) (aws.Credentials, error) {
	c.resolve(ctx)
	credentials, err := (*c.current.Load()).Retrieve(ctx)
	if err != nil {
		c.stale.Store(true)
	}
	return credentials, err
}

// resolve looks for credentials again, where that is due. New ones must work before they
// replace those in use. Other requests go on meanwhile.
func (c *credentialChain) resolve(ctx context.Context) {
	if !c.stale.Load() || !c.resolving.TryLock() {
		return
	}
	defer c.resolving.Unlock()
	if time.Since(c.resolved) < resolveEvery {
		return
	}
	c.resolved = time.Now()
	fresh, err := c.load(ctx)
	if err != nil || fresh == nil {
		return // still stale: the next request tries again
	}
	if _, err := fresh.Retrieve(ctx); err == nil {
		c.stale.Store(false)
		c.current.Store(&fresh)
	}
}

// watch adds checkAnswer to the client's middleware, for every answer of AWS.
func (c *credentialChain) watch(stack *middleware.Stack) error {
	return stack.Deserialize.Add(middleware.DeserializeMiddlewareFunc("OutflowRefusedCredentials", c.checkAnswer),
		middleware.Before)
}

func (c *credentialChain) checkAnswer(
	ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler,
) (out middleware.DeserializeOutput, metadata middleware.Metadata, err error) {
	out, metadata, err = next.HandleDeserialize(ctx, in)
	if refusesCaller(err) {
		c.stale.Store(true)
	}
	return out, metadata, err
}

// refusedCallers are the codes by which AWS refuses credentials. AccessDenied is among
// them because a file may change to another role.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html
var refusedCallers = map[string]bool{
	"AccessDenied": true, "AccessDeniedException": true, "NotAuthorized": true, "AuthFailure": true,
	"ExpiredToken": true, "ExpiredTokenException": true, "TokenRefreshRequired": true, "InvalidToken": true,
	"InvalidClientTokenId": true, "UnrecognizedClientException": true, "InvalidAccessKeyId": true,
	"InvalidSecurity":       true,
	"SignatureDoesNotMatch": true, "InvalidSignatureException": true, "IncompleteSignature": true,
	"IncompleteSignatureException": true, "MissingAuthenticationToken": true,
	"MissingAuthenticationTokenException": true,
}

func refusesCaller(err error) bool {
	var api smithy.APIError
	if !errors.As(err, &api) {
		return false
	}
	code := api.ErrorCode()
	code = code[strings.LastIndexByte(code, '#')+1:] // without the service's namespace
	return refusedCallers[code]
}
