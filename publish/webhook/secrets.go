package webhook

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Secret signs requests to a host. Nothing prints it.
type Secret struct {
	// A function, since fmt looks into unexported fields, and through pointers.
	key func() []byte
}

const secretPrefix = "whsec_"

// The specification's bounds on a secret's bytes.
const minKey, maxKey = 24, 64

// ParseSecret reads a secret: "whsec_" and 24 to 64 random bytes in base64, as the
// specification has it. The error does not repeat it.
func ParseSecret(text string) (Secret, error) {
	encoded, found := strings.CutPrefix(text, secretPrefix)
	key, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if !found || err != nil || len(key) < minKey || len(key) > maxKey {
		return Secret{}, fmt.Errorf("wants %s and %d to %d random bytes in base64, with padding",
			secretPrefix, minKey, maxKey)
	}
	return Secret{key: func() []byte { return key }}, nil
}

// ParseSecrets reads one or more secrets with spaces between them.
func ParseSecrets(text string) ([]Secret, error) {
	var secrets []Secret
	for i, field := range strings.Fields(text) {
		s, err := ParseSecret(field)
		if err != nil {
			return nil, fmt.Errorf("secret %d: %w", i+1, err)
		}
		secrets = append(secrets, s)
	}
	if len(secrets) == 0 {
		return nil, errors.New("wants a secret")
	}
	return secrets, nil
}

func (Secret) String() string { return "(a secret)" }

// GoString is String.
func (s Secret) GoString() string { return s.String() }

// sign returns the signature of a request, in the form of HeaderSignature.
func (s Secret) sign(id, timestamp string, body []byte) string {
	h := hmac.New(sha256.New, s.key())
	fmt.Fprintf(h, "%s.%s.", id, timestamp)
	h.Write(body)
	return "v1," + base64.StdEncoding.EncodeToString(h.Sum(nil))
}

// Secrets are the secrets of hosts.
type Secrets struct {
	// Hosts has them by host or pattern, as ParseHosts takes them; see ReadSecrets.
	Hosts map[string][]Secret
	// Default is for every host that has no secret of its own. A receiver that knows it can sign
	// requests to all of them: give each receiver a secret of its own where others run it.
	Default []Secret
}

// For returns the secrets of a host: its own, else those of the narrowest pattern
// that matches, else Default.
func (s Secrets) For(host string) []Secret {
	for _, pattern := range patternsOf(host) {
		if own := s.Hosts[pattern]; len(own) > 0 {
			return own
		}
	}
	return s.Default
}

// ReadSecrets reads lines of the form "host secret [secret…]". Empty lines and
// lines that begin with # are left out. Errors name the line and repeat nothing of
// it. More than 1 MiB is refused.
func ReadSecrets(r io.Reader) (map[string][]Secret, error) {
	hosts := map[string][]Secret{}
	err := eachLine(r, func(line string) error {
		fields := strings.Fields(line)
		host, err := parsePattern(fields[0])
		if err != nil {
			return fmt.Errorf("wants host secret [secret…]: the first word %w", err)
		}
		if hosts[host] != nil {
			return errors.New("this host has a line already; put all its secrets on one")
		}
		hosts[host], err = ParseSecrets(strings.Join(fields[1:], " "))
		return err
	})
	if err != nil {
		return nil, err
	}
	return hosts, nil
}

// maxFile bounds a file of secrets or headers, in bytes.
const maxFile = 1 << 20

// eachLine calls do with each line that is neither empty nor a comment, without
// spaces around it. Errors name the line.
func eachLine(r io.Reader, do func(line string) error) error {
	limited := &io.LimitedReader{R: r, N: maxFile + 1}
	lines := bufio.NewScanner(limited)
	n := 0
	for lines.Scan() {
		n++
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if err := do(line); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("line %d: %w", n+1, err)
	}
	if limited.N <= 0 {
		return fmt.Errorf("wants at most %d bytes", maxFile)
	}
	return nil
}
