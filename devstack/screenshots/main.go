// Command screenshots takes the pictures of the documentation: Outflow's own
// programs deliver, fail and retry on a fresh stack, and a headless Chromium
// shows them in Temporal's Web UI. The dashboard's panels are charts of its
// queries, which a real Prometheus answers.
//
// The invariant: a picture is written only after the page was seen to say what
// the picture is for.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

const (
	runTimeout = 8 * time.Minute
	// maxTotal keeps the repository small.
	maxTotal = 1_200_000

	onlyWeb, onlyMetrics = "web", "metrics" // of -only
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	var usage usageError
	switch {
	case errors.As(err, &usage):
		fmt.Fprintln(os.Stderr, "screenshots:", err)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "screenshots:", err)
		os.Exit(1)
	}
}

type usageError struct{ error }

func run(ctx context.Context, args []string, stdout io.Writer) (err error) {
	flags := flag.NewFlagSet("screenshots", flag.ContinueOnError)
	out := flags.String("out", "../docs/img", "the pictures' folder")
	root := flags.String("root", "..", "Outflow's root module, whose programs are built")
	only := flags.String("only", "", onlyWeb+" or "+onlyMetrics+": some of the pictures")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return usageError{err}
	}
	if *only != "" && *only != onlyWeb && *only != onlyMetrics {
		return usageError{fmt.Errorf("-only wants %s or %s (got %q)", onlyWeb, onlyMetrics, *only)}
	}
	if flags.NArg() > 0 {
		return usageError{fmt.Errorf("unexpected argument %q", flags.Arg(0))}
	}
	chromium, err := findChromium()
	if err != nil {
		return err
	}
	folder, err := filepath.Abs(*out)
	if err != nil {
		return fmt.Errorf("resolving %s: %w", *out, err)
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return fmt.Errorf("making the pictures' folder: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, runTimeout, fmt.Errorf("not done within %s", runTimeout))
	defer cancel()

	scene, err := newScene(ctx, *root)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, scene.close()) }()
	browser, err := startBrowser(chromium)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, browser.close()) }()
	script, err := settings()
	if err != nil {
		return err
	}
	page, err := browser.newPage(ctx, script)
	if err != nil {
		return err
	}
	if *only != onlyMetrics {
		err := takePictures(ctx, scene, page, folder)
		if err == nil {
			err = checkViews(ctx, scene, page)
		}
		if err == nil { // after the list, which it would fill
			err = takeStream(ctx, scene, page, folder)
		}
		if err != nil {
			return err
		}
	}
	if *only != onlyWeb { // last: its load fills the Web UI's list
		if err := takeDashboard(ctx, scene, page, *root, folder); err != nil {
			return err
		}
	}
	return report(stdout, scene, folder, *only)
}

// report lists the pictures with their sizes, and the links that were tried.
func report(out io.Writer, s *scene, folder, only string) error {
	total := int64(0)
	var files []string
	if only != onlyWeb {
		files = append(files, dashboardFile)
	}
	if only != onlyMetrics {
		for _, shot := range s.pictures() {
			files = append(files, shot.file)
		}
		files = append(files, streamFile)
	}
	for _, file := range files {
		info, err := os.Stat(filepath.Join(folder, file))
		if err != nil {
			return fmt.Errorf("looking at the pictures: %w", err)
		}
		total += info.Size()
		fmt.Fprintf(out, "%s  %d KB\n", filepath.Join(folder, file), info.Size()/1000)
	}
	if total > maxTotal {
		return fmt.Errorf("the pictures have %d bytes together and want at most %d", total, maxTotal)
	}
	if only == onlyMetrics {
		return nil
	}
	for _, v := range views {
		fmt.Fprintf(out, "%s: %s\n", v.name, v.path())
	}
	return nil
}
