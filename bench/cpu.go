package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of CPU times in /proc: USER_HZ, which is 100 on every Linux that Go runs on
// (proc(5)).
const clockTick = 10 * time.Millisecond

// process is what /proc/PID/stat says of one process.
type process struct {
	pid, parent int
	own         time.Duration // of the process, user and system
	reaped      time.Duration // of its children that ended
}

// parseStat reads a line of /proc/PID/stat. The name in brackets may hold spaces and brackets
// itself.
func parseStat(line string) (process, error) {
	open, end := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return process{}, fmt.Errorf("reading a process's state: no name in %q", line)
	}
	// From the third field on: state is 0, ppid 1, utime 11, stime 12, cutime 13, cstime 14.
	fields := strings.Fields(line[end+1:])
	if len(fields) < 15 {
		return process{}, fmt.Errorf("reading a process's state: too few fields in %q", line)
	}
	number := func(text string) int {
		n, _ := strconv.Atoi(text) // the kernel writes numbers
		return n
	}
	ticks := func(first int) time.Duration {
		return time.Duration(number(fields[first])+number(fields[first+1])) * clockTick
	}
	return process{
		pid: number(strings.TrimSpace(line[:open])), parent: number(fields[1]),
		own: ticks(11), reaped: ticks(13),
	}, nil
}

// processes are all that run now.
func processes() (map[int]process, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	found := make(map[int]process, len(paths))
	for _, path := range paths {
		line, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended since
		}
		p, err := parseStat(string(line))
		if err != nil {
			return nil, err
		}
		found[p.pid] = p
	}
	return found, nil
}

// cpu is what each part has used, in total or between two moments, and what the machine had to
// give.
type cpu struct {
	postgres, temporal, queue, dispatcher time.Duration
	// busy is the use of everything that runs on the machine, all what all its CPUs had, idle or
	// not.
	busy, all time.Duration
}

func (c cpu) sum() time.Duration { return c.postgres + c.temporal + c.queue + c.dispatcher }

// others is the share of the machine that went to what is no part of the measurement. Bench itself
// is in it.
func (c cpu) others() float64 {
	if c.all <= 0 {
		return 0
	}
	return max((c.busy-c.sum()).Seconds()/c.all.Seconds(), 0)
}

func (c cpu) minus(earlier cpu) cpu {
	return cpu{
		c.postgres - earlier.postgres, c.temporal - earlier.temporal, c.queue - earlier.queue, c.dispatcher - earlier.dispatcher,
		c.busy - earlier.busy, c.all - earlier.all,
	}
}

// parseMachine reads the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq,
// steal, in ticks of all CPUs together. Idle and iowait are time that nobody used.
func parseMachine(text string) (busy, all time.Duration, err error) {
	line, _, _ := strings.Cut(text, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, 0, fmt.Errorf("reading the machine's CPU times: %q", line)
	}
	for i, field := range fields[1:9] {
		n, err := strconv.Atoi(field)
		if err != nil {
			return 0, 0, fmt.Errorf("reading the machine's CPU times: %w", err)
		}
		all += time.Duration(n) * clockTick
		if i != 3 && i != 4 {
			busy += time.Duration(n) * clockTick
		}
	}
	return busy, all, nil
}

// usage sums by part: Postgres is everything below the stack's process, which itself is Temporal.
func usage(all map[int]process, stack, queue int, dispatchers []int) cpu {
	c := cpu{temporal: all[stack].own, queue: all[queue].own}
	for _, pid := range dispatchers {
		c.dispatcher += all[pid].own
	}
	for _, p := range all {
		if below(all, p.parent, stack) {
			c.postgres += p.own + p.reaped
		}
	}
	return c
}

// below reports whether pid is root or a descendant of it.
func below(all map[int]process, pid, root int) bool {
	for pid != 0 {
		if pid == root {
			return true
		}
		pid = all[pid].parent
	}
	return false
}
