package outflow

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

var (
	errWorkflow      = errors.New("temporal wants task-queue/WorkflowType, each percent-encoded, and no fragment")
	errWorkflowNames = errors.New("temporal's task queue and workflow type want UTF-8 of one character or more each, " +
		"percent-encoded, without control characters")
	errExisting       = errors.New("parameter existing wants use")
	errExistingSignal = errors.New(
		"parameter existing wants no signal beside it: a signal goes to the run that is there")
)

// parseTemporal reads the part of a temporal destination behind the scheme.
// outbox.workflow_refusal has the same rules.
func parseTemporal(rest string) (Destination, error) {
	path, query, asked := strings.Cut(rest, "?")
	queue, workflowType, found := strings.Cut(path, "/")
	if !found || strings.Contains(workflowType, "/") || strings.Contains(rest, "#") {
		return Destination{}, errWorkflow
	}
	d := Destination{Scheme: SchemeTemporal}
	var queueOK, typeOK bool
	d.TaskQueue, queueOK = decodeName(queue)
	d.WorkflowType, typeOK = decodeName(workflowType)
	if !queueOK || !typeOK {
		return Destination{}, errWorkflowNames
	}
	if asked {
		if err := d.readParameters(query); err != nil {
			return Destination{}, err
		}
	}
	if len(d.temporal()) > maxDestination {
		return Destination{}, errTooLong
	}
	return d, nil
}

func (d *Destination) readParameters(query string) error {
	values := map[string]string{}
	for _, parameter := range strings.Split(query, "&") {
		key, value, _ := strings.Cut(parameter, "=")
		decoded, ok := decodeName(value)
		switch {
		case key != "namespace" && key != "signal" && key != "existing":
			return fmt.Errorf("unknown parameter%s; known are namespace, signal and existing", quoteWord(key))
		case value == "" || values[key] != "":
			return fmt.Errorf("parameter %s wants one value", key)
		case !ok || strings.Contains(value, "+"): // many programs write it for a space
			return fmt.Errorf("parameter %s wants UTF-8, percent-encoded, without control characters, "+
				"and %%2B for a plus sign", key)
		case key == "existing" && decoded != "use":
			return errExisting
		}
		values[key] = decoded
	}
	d.Namespace, d.Signal, d.UseExisting = values["namespace"], values["signal"], values["existing"] != ""
	if d.UseExisting && d.Signal != "" {
		return errExistingSignal
	}
	return nil
}

// decodeName undoes percent-encoding. Temporal's own limits are the server's settings.
func decodeName(encoded string) (decoded string, ok bool) {
	decoded, err := url.PathUnescape(encoded)
	return decoded, err == nil && decoded != "" && utf8.ValidString(decoded) &&
		!strings.ContainsFunc(decoded, unicode.IsControl)
}

// escapeName percent-encodes all characters but letters, digits and any of "-._~$:@".
func escapeName(name string) string { return escapeMore.Replace(url.PathEscape(name)) }

var escapeMore = strings.NewReplacer("&", "%26", "+", "%2B", "=", "%3D")

// temporal returns the canonical form of a temporal destination.
func (d Destination) temporal() string {
	var parameters []string
	if d.UseExisting {
		parameters = append(parameters, "existing=use")
	}
	if d.Namespace != "" {
		parameters = append(parameters, "namespace="+escapeName(d.Namespace))
	}
	if d.Signal != "" {
		parameters = append(parameters, "signal="+escapeName(d.Signal))
	}
	s := SchemeTemporal + "://" + escapeName(d.TaskQueue) + "/" + escapeName(d.WorkflowType)
	if len(parameters) > 0 {
		s += "?" + strings.Join(parameters, "&")
	}
	return s
}
