package config

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/outflowhq/outflow/internal/bounded"
	"github.com/outflowhq/outflow/internal/settings"
)

// Traces says where spans go, by OpenTelemetry's own variables.
// https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
// https://opentelemetry.io/docs/specs/otel/protocol/exporter/
type Traces struct {
	// Endpoint takes OTLP over HTTP; it is nil where no exporter is asked for, and
	// then nothing else is read.
	Endpoint *url.URL
	Headers  map[string]string
	Timeout  time.Duration // of one request
	Gzip     bool
	TLS      *tls.Config // nil for the system's
	// Sampler is one of the names that OTEL_TRACES_SAMPLER takes, with Ratio where
	// it has one.
	Sampler string
	Ratio   float64
	// ServiceName is "" for the program's own name.
	ServiceName string
	Resource    map[string]string

	QueueSize, BatchSize int
	Delay, ExportTimeout time.Duration
}

// The variables that decide whether spans are exported.
const (
	settingSDKDisabled    = "OTEL_SDK_DISABLED"
	settingTracesExporter = "OTEL_TRACES_EXPORTER"
	settingOTLP           = "OTEL_EXPORTER_OTLP_"
	settingOTLPTraces     = "OTEL_EXPORTER_OTLP_TRACES_"
)

// readTraces reads OpenTelemetry's variables. Those that say how to export are
// read only where something is exported: others may have set them for others.
func readTraces(getenv func(string) string) (Traces, error) {
	on, err := exporterWanted(getenv, settingTracesExporter, settingOTLPTraces, "otlp", "none")
	if err != nil || !on {
		return Traces{}, err
	}
	r := reader{getenv: getenv}
	t := Traces{
		Endpoint:    r.endpoint(),
		Timeout:     r.otlpTimeout(),
		Sampler:     "parentbased_always_on",
		Ratio:       1,
		ServiceName: getenv("OTEL_SERVICE_NAME"),

		QueueSize:     r.count("OTEL_BSP_MAX_QUEUE_SIZE", 2048),
		BatchSize:     r.count("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512),
		Delay:         r.milliseconds("OTEL_BSP_SCHEDULE_DELAY", 5*time.Second),
		ExportTimeout: r.milliseconds("OTEL_BSP_EXPORT_TIMEOUT", 30*time.Second),
	}
	if t.BatchSize > t.QueueSize {
		if getenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE") != "" {
			r.note("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "wants at most OTEL_BSP_MAX_QUEUE_SIZE", strconv.Itoa(t.BatchSize))
		}
		t.BatchSize = t.QueueSize
	}
	r.protocol()
	r.secure(&t)
	r.sampler(&t)
	name, value := r.either("COMPRESSION")
	switch value {
	case "", "none":
	case "gzip":
		t.Gzip = true
	default:
		r.note(name, "wants gzip or none", value)
	}
	name, value = r.either("HEADERS")
	if t.Headers, err = pairs(value); err != nil {
		r.errs = append(r.errs, fmt.Errorf("%s: %w", name, err)) // its values are secrets
	}
	if t.Resource, err = pairs(getenv("OTEL_RESOURCE_ATTRIBUTES")); err != nil {
		r.note("OTEL_RESOURCE_ATTRIBUTES", err.Error(), getenv("OTEL_RESOURCE_ATTRIBUTES"))
	}
	t.ServiceName = cmp.Or(t.ServiceName, t.Resource["service.name"])
	if len(r.errs) > 0 {
		return Traces{}, errors.Join(r.errs...)
	}
	return t, nil
}

// reader collects what is wrong with variables.
type reader struct {
	getenv func(string) string
	errs   []error
}

func (r *reader) note(name, wants, value string) {
	r.errs = append(r.errs, fmt.Errorf("%s: %s (got %s)", name, wants, settings.Quote(value)))
}

// either returns the variable for traces alone, or else that for all signals.
func (r *reader) either(what string) (name, value string) {
	if value = r.getenv(settingOTLPTraces + what); value != "" {
		return settingOTLPTraces + what, value
	}
	return settingOTLP + what, r.getenv(settingOTLP + what)
}

// endpoint: the variable for traces is used as it is, the other one is what
// /v1/traces is added to.
func (r *reader) endpoint() *url.URL {
	name, value := r.either("ENDPOINT")
	u, err := url.Parse(cmp.Or(value, "http://localhost:4318"))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil ||
		u.RawQuery != "" || u.Fragment != "" {
		// Not its value: it may have a password.
		r.errs = append(r.errs, fmt.Errorf("%s: wants an address that takes OTLP over HTTP, "+
			"such as http://localhost:4318, without password or query", name))
		return nil
	}
	if name == settingOTLP+"ENDPOINT" {
		u.Path = path.Join("/", u.Path, "v1/traces")
	} else {
		u.Path = cmp.Or(u.Path, "/")
	}
	return u
}

// protocol: of OTLP's three, one is built in.
func (r *reader) protocol() {
	if name, value := r.either("PROTOCOL"); value != "" && value != "http/protobuf" {
		r.note(name, "wants http/protobuf, the one that is built in; a collector takes it on port 4318 "+
			"(OTEL_TRACES_EXPORTER=none exports nothing)", value)
	}
}

func (r *reader) otlpTimeout() time.Duration {
	name, _ := r.either("TIMEOUT")
	return r.milliseconds(name, 10*time.Second)
}

func (r *reader) milliseconds(name string, otherwise time.Duration) time.Duration {
	const most = int(time.Hour / time.Millisecond)
	return time.Duration(r.number(name, "wants milliseconds, from 1 to "+strconv.Itoa(most),
		int(otherwise/time.Millisecond), most)) * time.Millisecond
}

func (r *reader) count(name string, otherwise int) int {
	const most = 1 << 20
	return r.number(name, "wants a whole number from 1 to "+strconv.Itoa(most), otherwise, most)
}

func (r *reader) number(name, wants string, otherwise, most int) int {
	value := r.getenv(name)
	if value == "" {
		return otherwise
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 1 || n > most {
		r.note(name, wants, value)
		return otherwise
	}
	return n
}

func (r *reader) sampler(t *Traces) {
	const name, argument = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
	t.Sampler = cmp.Or(r.getenv(name), t.Sampler)
	switch t.Sampler {
	case "always_on", "always_off", "parentbased_always_on", "parentbased_always_off":
	case "traceidratio", "parentbased_traceidratio":
		if value := r.getenv(argument); value != "" {
			ratio, err := strconv.ParseFloat(value, 64)
			if err != nil || math.IsNaN(ratio) || ratio < 0 || ratio > 1 {
				r.note(argument, "wants a number from 0 to 1", value)
			}
			t.Ratio = ratio
		}
	default:
		r.note(name, "wants always_on, always_off, traceidratio, or one of these with parentbased_ before it",
			t.Sampler)
	}
}

// secure reads the certificates of an https endpoint.
func (r *reader) secure(t *Traces) {
	if t.Endpoint == nil || t.Endpoint.Scheme != "https" {
		return
	}
	own := &tls.Config{MinVersion: tls.VersionTLS12}
	if name, file := r.either("CERTIFICATE"); file != "" {
		text, err := bounded.ReadFile(file, mostCertificates)
		own.RootCAs = x509.NewCertPool()
		if err != nil {
			r.errs = append(r.errs, fmt.Errorf("%s: wants a file that can be read: %w", name,
				settings.WithoutPath(err)))
		} else if !own.RootCAs.AppendCertsFromPEM(text) {
			r.errs = append(r.errs, fmt.Errorf("%s: wants a file with certificates in PEM", name))
		}
		t.TLS = own
	}
	name, certificate := r.either("CLIENT_CERTIFICATE")
	keyName, key := r.either("CLIENT_KEY")
	if certificate == "" && key == "" {
		return
	}
	pair, err := readPair(certificate, key)
	if err != nil {
		r.errs = append(r.errs, fmt.Errorf("%s and %s: want files with a certificate and its key in PEM", name,
			keyName))
	}
	own.Certificates = []tls.Certificate{pair}
	t.TLS = own
}

// mostCertificates bounds a file of certificates or keys, in bytes.
const mostCertificates = 4 << 20

func readPair(certificate, key string) (tls.Certificate, error) {
	certificates, err := bounded.ReadFile(certificate, mostCertificates)
	if err != nil {
		return tls.Certificate{}, err
	}
	keys, err := bounded.ReadFile(key, mostCertificates)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(certificates, keys)
}

var pairName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$") // a token of HTTP

var errPairs = errors.New("wants name=value, separated by commas, with the values percent-encoded")

// pairs reads name=value,name=value. The error does not repeat a value.
func pairs(text string) (map[string]string, error) {
	if text == "" {
		return nil, nil
	}
	all := map[string]string{}
	for pair := range strings.SplitSeq(text, ",") {
		if strings.TrimSpace(pair) == "" {
			continue // a comma at the end
		}
		name, value, found := strings.Cut(pair, "=")
		name = strings.TrimSpace(name)
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !found || err != nil || !pairName.MatchString(name) || strings.ContainsAny(value, "\r\n\x00") {
			return nil, errPairs
		}
		all[name] = value
	}
	return all, nil
}
