package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/jackc/pgx/v5"
)

// meter is what Postgres has counted up to a moment.
type meter struct {
	// statements are those sent to the application's database, without bench's looks.
	statements int64
	// wal is the position of the log's end in bytes: everything that the server writes, Temporal's rows
	// too. temporal is what statements in other databases than the application's wrote to it.
	wal, temporal int64
}

// lookAlias marks bench's own statements, which the meter leaves out.
const lookAlias = " AS bench_look"

func readMeter(ctx context.Context, conn *pgx.Conn) (m meter, err error) {
	err = conn.QueryRow(ctx, `
SELECT coalesce(sum(s.calls) FILTER (WHERE d.datname = current_database()
                                           AND s.query NOT LIKE '%bench_look%'), 0)::bigint,
       (pg_current_wal_insert_lsn() - '0/0')::bigint,
       coalesce(sum(s.wal_bytes) FILTER (WHERE d.datname <> current_database()), 0)::bigint`+lookAlias+`
  FROM pg_stat_statements AS s JOIN pg_database AS d ON d.oid = s.dbid`).Scan(&m.statements, &m.wal, &m.temporal)
	if err != nil {
		return m, fmt.Errorf("reading what Postgres has counted: %w", errors.Join(err, context.Cause(ctx)))
	}
	return m, nil
}

// metered is what a run cost for each message beside CPU.
type metered struct {
	statements, wal, temporal float64
	memory                    int64 // bytes: the peak of the dispatchers' processes together
}

// meteredSince is the cost for each message. Statements are counted from a meter that was read right
// before the backlog's commit, the log from one that was read before the producer's inserts.
func meteredSince(inserting, committing, done meter, messages int) metered {
	each := func(n int64) float64 { return float64(n) / float64(messages) }
	return metered{
		statements: each(done.statements - committing.statements),
		wal:        each(done.wal - inserting.wal), temporal: each(done.temporal - inserting.temporal),
	}
}

// meterDone reads what a run has cost.
func meterDone(
	ctx context.Context, conn *pgx.Conn, inserting, committing meter, dispatchers []*child, messages int,
) (metered, error) {
	done, err := readMeter(ctx, conn)
	if err != nil {
		return metered{}, err
	}
	found := meteredSince(inserting, committing, done, messages)
	found.memory, err = peakMemory(dispatchers)
	return found, err
}

// peakMemory is the most memory that the processes had, each at its own moment (VmHWM in proc(5)).
func peakMemory(children []*child) (sum int64, err error) {
	for _, c := range children {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Pid()))
		if err != nil {
			return 0, fmt.Errorf("reading the memory of %s: %w", c.name, err)
		}
		peak, err := parsePeak(string(text))
		if err != nil {
			return 0, fmt.Errorf("reading the memory of %s: %w", c.name, err)
		}
		sum += peak
	}
	return sum, nil
}

// parsePeak reads the line "VmHWM: 1234 kB" of /proc/PID/status.
func parsePeak(text string) (int64, error) {
	for line := range strings.Lines(text) {
		value, ok := strings.CutPrefix(line, "VmHWM:")
		if !ok {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading %q: %w", strings.TrimSpace(line), err)
		}
		return kib << 10, nil
	}
	return 0, errors.New("no VmHWM")
}

// reportCosts prints what each message costs beside time, and what a second of CPU delivers.
func reportCosts(out io.Writer, s settings, results map[string][]result) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "\n\t each message\t\t\t peak memory\t messages for a CPU second\t\t\n")
	fmt.Fprint(t, "median\tSQL statements\tlog bytes\tTemporal's of these\tof dispatchers\tof Postgres\tof all\t\n")
	for _, variant := range s.only {
		column := func(value func(result) float64) float64 {
			var all []float64
			for _, r := range results[variant] {
				all = append(all, value(r))
			}
			return median(all)
		}
		fmt.Fprintf(t, "%s\t%.2f\t%.0f\t%.0f\t%.0f MiB\t%s\t%s\t\n", variant,
			column(func(r result) float64 { return r.statements }), column(func(r result) float64 { return r.wal }),
			column(func(r result) float64 { return r.temporal }), column(func(r result) float64 { return mebibytes(r.memory) }),
			perSecond(column(func(r result) float64 { return perThousand(r.cpu.postgres, r.messages) })),
			perSecond(column(func(r result) float64 { return perThousand(r.cpu.sum(), r.messages) })))
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("printing the table: %w", err)
	}
	fmt.Fprintln(out)
	return nil
}

// perSecond is how many messages a second of CPU delivers where a thousand take so many seconds.
func perSecond(seconds float64) string {
	if seconds <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f", 1000/seconds)
}

func mebibytes(bytes int64) float64 { return float64(bytes) / (1 << 20) }
