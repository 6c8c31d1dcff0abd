package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestUsageErrorsExitWithTwo(t *testing.T) {
	for _, args := range [][]string{
		{}, {"sideways"}, {"up", "--no-such-flag"}, {"up", "extra"}, {"run"}, {"run", "--ephemeral"},
		{"up", "--ephemeral", "--data", "x"}, {"up", "--temporal-address", "nowhere"}, {"up", "--ui-port", "70000"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			i := launch(t, t.TempDir(), nil, args...)
			if code := i.wait(t); code != 2 || i.err.Len() == 0 {
				t.Errorf("exit code %d, want 2 and a reason: %s", code, i.err)
			}
		})
	}
	i := launch(t, t.TempDir(), nil, "help")
	if code := i.wait(t); code != 0 || !strings.Contains(i.out.String(), "devstack run") {
		t.Errorf("help: exit code %d: %s", code, i.out)
	}
}

func TestRunGivesItsEnvironmentAndExitCode(t *testing.T) {
	dir := rootOnly(t)
	ambient := []string{"DATABASE_URL=ambient", "PGHOST=ambient", "AWS_PROFILE=ambient", "TEMPORAL_API_KEY=ambient",
		"KEPT=yes"}
	i := launch(t, dir, ambient, "run", "--", "sh", "-c", "env; (sleep 600 & echo $! > left); exit 7")
	if code := i.wait(t); code != 7 {
		t.Fatalf("exit code %d, want the command's, 7: %s", code, i.err)
	}
	out := "\n" + i.out.String()
	for _, want := range []string{"DATABASE_URL=postgres://", "DEVSTACK_DATABASE_URL=postgres://",
		"TEMPORAL_ADDRESS=127.0.0.1:",
		"TEMPORAL_NAMESPACE=default", "AWS_ENDPOINT_URL_SQS=http://127.0.0.1:", "AWS_ENDPOINT_URL_SNS=http://127.0.0.1:",
		"AWS_REGION=us-east-1", "AWS_ACCESS_KEY_ID=devstack", "OUTFLOW_TEMPORAL_UI=http://127.0.0.1:", "KEPT=yes"} {
		if !strings.Contains(out, "\n"+want) {
			t.Errorf("the command's environment lacks %s", want)
		}
	}
	if strings.Contains(out, "=ambient") {
		t.Errorf("an ambient setting reached the command:\n%s", out)
	}
	if strings.Contains(i.out.String(), "Web UI") || !strings.Contains(i.err.String(), "Web UI") {
		t.Error("the table belongs on stderr")
	}
	pid, err := os.ReadFile(filepath.Join(dir, "left"))
	if err != nil {
		t.Fatal(err)
	}
	stat := filepath.Join("/proc", strings.TrimSpace(string(pid)), "cmdline")
	eventually(t, "the end of what the command left running", func() bool {
		b, err := os.ReadFile(stat) // of a dead process that nobody reaped it is empty
		return err != nil || len(b) == 0
	})
}

func TestRunPassesSignalsOn(t *testing.T) {
	dir := rootOnly(t)
	i := launch(t, dir, nil, "run", "--", "sh", "-c",
		`trap 'echo caught; exit 3' TERM; touch ready; while :; do sleep 0.05; done`)
	eventually(t, "the command's start", func() bool {
		_, err := os.Stat(filepath.Join(dir, "ready"))
		return err == nil
	})
	if code := i.end(t, syscall.SIGTERM); code != 3 || strings.Count(i.out.String(), "caught") != 1 {
		t.Errorf("exit code %d, output %q: %s", code, i.out, i.err)
	}
}
