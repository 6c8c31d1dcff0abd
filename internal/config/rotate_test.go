package config_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/outflowhq/outflow/internal/config"
)

// TestTemporalAPIKeyRotates: the key is in a profile, which is written again.
func TestTemporalAPIKeyRotates(t *testing.T) {
	var right atomic.Value
	right.Store("old")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, r any, _ *grpc.UnaryServerInfo,
		next grpc.UnaryHandler) (any, error) {
		sent, _ := metadata.FromIncomingContext(ctx)
		if got := strings.Join(sent.Get("authorization"), ""); got != "Bearer "+right.Load().(string) {
			return nil, status.Error(codes.Unauthenticated, "invalid API key")
		}
		return next(ctx, r)
	}))
	workflowservice.RegisterWorkflowServiceServer(server, workflowservice.UnimplementedWorkflowServiceServer{})
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)

	file := filepath.Join(t.TempDir(), "temporal.toml")
	write := func(key string) {
		text := "[profile.default]\naddress = \"" + l.Addr().String() + "\"\napi_key = \"" + key +
			"\"\n[profile.default.tls]\ndisabled = true\n"
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	}
	write("old")
	options, err := config.Temporal(func(name string) string {
		return map[string]string{"TEMPORAL_CONFIG_FILE": file}[name]
	})
	require.NoError(t, err)
	c, err := client.DialContext(t.Context(), options)
	require.NoError(t, err)
	defer c.Close()
	taken := func() bool {
		_, err := c.WorkflowService().DescribeNamespace(t.Context(),
			&workflowservice.DescribeNamespaceRequest{Namespace: "default"})
		var passed *serviceerror.Unimplemented
		return errors.As(err, &passed)
	}
	require.True(t, taken())
	right.Store("new")
	require.False(t, taken())
	write("new")
	require.Eventually(t, taken, time.Minute, 50*time.Millisecond)
	for range 30 { // longer than an answer is kept, by a program that still writes
		began := time.Now()
		write("ne")
		kept := taken()
		require.True(t, kept || time.Since(began) > 900*time.Millisecond)
		time.Sleep(50 * time.Millisecond)
	}
	write("new")
	require.NoError(t, os.WriteFile(file, []byte("[profile.default\n"), 0o600))
	require.Never(t, func() bool { return !taken() }, 2*time.Second, 100*time.Millisecond,
		"what can't be read changes nothing")
}

func TestTemporalConfigFileIsBounded(t *testing.T) {
	file := filepath.Join(t.TempDir(), "temporal.toml")
	require.NoError(t, os.WriteFile(file, bytes.Repeat([]byte("# more\n"), 1<<18), 0o600))
	_, err := config.Temporal(func(name string) string { return map[string]string{"TEMPORAL_CONFIG_FILE": file}[name] })
	require.ErrorContains(t, err, "TEMPORAL_CONFIG_FILE: wants a file of at most 1048576 bytes")
}
