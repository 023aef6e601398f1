"""Tables for people, one line of JSON for programs, and what is worth knowing about the machine."""

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time

from .muster import ROOT


def say(text):
    """Progress, on stderr: stdout is for results."""
    print(text, file=sys.stderr, flush=True)


def median(values):
    return statistics.median(values)


def percentile(values, q):
    """The nearest-rank percentile; `q` between 0 and 1."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(q * len(ordered) + 0.5) - 1))]


def ms(secs):
    return round(secs * 1000, 3)


def ratio(ours, theirs):
    return round(ours / theirs, 2)


def table(title, header, rows):
    """A Markdown table, aligned to be read as it is."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    line = lambda row: "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |"
    print(f"\n{title}\n\n{line(cells[0])}")
    print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    for row in cells[1:]:
        print(line(row))
    sys.stdout.flush()


class Run:
    """One run of one benchmark: what it was given, what it met, what it measured."""

    def __init__(self, name, parameters):
        self.name, self.parameters = name, vars(parameters)
        self.began = datetime.datetime.now(datetime.timezone.utc)
        self.load_before = os.getloadavg()

    def finish(self, scope, results):
        record = {
            "benchmark": self.name,
            "date": self.began.isoformat(timespec="seconds"),
            "commit": commit(),
            "machine": machine(),
            "fdatasync_p50_ms": fdatasync_p50_ms(scope.dir),
            "nice": os.environ.get("BENCH_NICE"),
            "load_average": {"before": self.load_before[0], "after": os.getloadavg()[0]},
            "parameters": self.parameters,
            "results": results,
        }
        print("\n" + json.dumps(record))


def commit():
    """The commit that was measured; MUSTER_COMMIT where the binaries come from elsewhere."""
    if given := os.environ.get("MUSTER_COMMIT"):
        return given
    git = lambda *words: subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    changed = git("status", "--porcelain", "--untracked-files=no", "--", "node", "runtime", "Cargo.toml")
    return git("rev-parse", "--short", "HEAD") + ("+changes" if changed else "")


def machine():
    model = "unknown"
    with open("/proc/cpuinfo") as info:
        for line in info:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {"cpus": os.cpu_count(), "model": model, "memory_gb": round(memory_gb), "kernel": platform.release()}


def fdatasync_p50_ms(directory, rounds=200):
    """What one durable 4 KiB append costs here: the floor under every committed write."""
    times = []
    path = directory / "sync-probe"
    with open(path, "wb", buffering=0) as probe:
        for _ in range(rounds):
            probe.write(b"x" * 4096)
            began = time.perf_counter()
            os.fdatasync(probe.fileno())
            times.append(time.perf_counter() - began)
    path.unlink()
    return ms(median(times))
