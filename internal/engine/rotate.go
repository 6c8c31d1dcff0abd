package engine

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"net"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/outflowhq/outflow/internal/settings"
)

// content is what Temporal's variables and files say.
type content struct {
	options client.Options
	apiKey  string
}

// readContent reads the variables, and with read the file that they name, which may be missing.
func readContent(getenv func(string) string, read func(name string) ([]byte, error)) (content, error) {
	text, err := read(cmp.Or(getenv("TEMPORAL_CONFIG_FILE"), envconfig.DefaultConfigFilePath()))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return content{}, err
	}
	profile, err := envconfig.LoadClientConfigProfile(envconfig.LoadClientConfigProfileOptions{
		ConfigFileData: append(text, '\n'), // without data it reads the file itself
		EnvLookup:      lookup(getenv),
	})
	if err != nil {
		return content{}, err
	}
	options, err := profile.ToClientOptions(envconfig.ToClientOptionsRequest{})
	return content{options, profile.APIKey}, err
}

// rotate makes options follow the files that they were read from: API key and headers for
// each request, certificates for each connection.
func rotate(options *client.Options, r *Files) {
	if options.Credentials != nil {
		options.Credentials = client.NewAPIKeyDynamicCredentials(func(context.Context) (string, error) {
			return r.Get().apiKey, nil
		})
	}
	if options.HeadersProvider != nil {
		options.HeadersProvider = headers(func() headersProvider { return r.Get().options.HeadersProvider })
	}
	if options.ConnectionOptions.TLS != nil {
		dial := grpc.WithTransportCredentials(handshakes{credentials.NewTLS(options.ConnectionOptions.TLS), r})
		options.ConnectionOptions.DialOptions = append(options.ConnectionOptions.DialOptions, dial)
	}
}

// Files are the settings as their files have them at the time.
type Files = settings.Reloaded[content]

// headersProvider is an interface of the SDK, which has no name for it.
type headersProvider interface {
	GetHeaders(ctx context.Context) (map[string]string, error)
}

type headers func() headersProvider

func (h headers) GetHeaders(ctx context.Context) (map[string]string, error) {
	if now := h(); now != nil {
		return now.GetHeaders(ctx)
	}
	return nil, nil
}

// handshakes makes each TLS handshake with the certificates that are in the files at the time.
type handshakes struct {
	credentials.TransportCredentials
	files *Files
}

func (h handshakes) ClientHandshake(
	ctx context.Context, authority string, conn net.Conn,
) (net.Conn, credentials.AuthInfo, error) {
	now := h.files.Get().options.ConnectionOptions.TLS
	if now == nil { // never without the TLS that the settings asked for at the start
		return h.TransportCredentials.ClientHandshake(ctx, authority, conn)
	}
	return credentials.NewTLS(now).ClientHandshake(ctx, authority, conn)
}

func (h handshakes) Clone() credentials.TransportCredentials {
	return handshakes{h.TransportCredentials.Clone(), h.files}
}
