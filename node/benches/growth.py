#!/usr/bin/env python3
"""What a large state costs: restarts, rebuilding from a peer's snapshot, and writes meanwhile.

For each number of ledger rows three nodes start from directories that `fill` wrote. Then, with that state:

* a follower is killed and started again: from exec to ready;
* a follower is killed, the others write until their logs no longer have what it misses, and it is started
  again: from exec until it has all that the leader has, by the leader's snapshot. Once while the others have
  nothing else to do, and once while both of them build snapshots, which shares two processors among three nodes.

With the largest state, the latency of writes by a few clients on the leader, in alternating rounds: quiet (no
snapshot is due); while all nodes build snapshots one after the other; while a follower that was paused gets
one; and while one is started, which reads its old state first, and gets one. In the end, while the leader adds
up all the hours to days.
"""

import argparse
import json
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from support import report
from support.memory import forget_peak, peak, resident
from support.muster import Muster, bench_binary
from support.scope import Scope, wait_for
from support.web import Failure

ACCOUNTS = 16
# Of one processor.
IDLE = 0.05
# `fill` writes rows of January 2026: they are to stay as they are.
KEEP = "\n[ledger]\nhours_for_days = 100000"
ROLL_UP = "[raft]\nsnapshot_after_entries = 100000000"
QUIET = ROLL_UP + KEEP
# A build begins as soon as the one before has ended; a follower that misses a few hundred entries
# gets the snapshot.
BUSY = "[raft]\nsnapshot_after_entries = 200\nkeep_entries = 50" + KEEP


def load(program, muster, node, clients, seconds):
    command = [program, "--system", "muster", "--connections", clients, "--seconds", seconds]
    command += ["--targets", muster.http[node], "--key-file", muster.dir / "root.key"]
    done = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
    measured = json.loads(done.stdout)
    if measured["errors"]:
        report.say(f"{measured['errors']} writes failed, such as: {measured['error']}")
    return measured


def applied(muster, node):
    try:
        nodes = muster.api(muster.leader(), 3.0).json("GET", "/v1/cluster")["nodes"]
    except (*Failure, RuntimeError):
        return None
    return {one["id"]: one["applied"] or 0 for one in nodes}[node]


def restart_all(muster, extra):
    muster.stop()
    muster.extra = extra
    for n in muster.ids:
        muster.start_node(n)
    for n in muster.ids:
        muster.wait_ready(n)


def fill(program, muster, functions, rows):
    command = [program, "--dir", muster.dir, "--functions", functions, "--rows", rows]
    for n in muster.ids:
        command += ["--member", f"{muster.http[n]},{muster.peer[n]}"]
    done = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
    os.chmod(muster.dir / "root.key", 0o600)
    return json.loads(done.stdout)


def follower(muster):
    leader = muster.leader()
    return leader, next(n for n in muster.ids if n != leader)


def restarts(muster, trials):
    times = []
    for _ in range(trials):
        _, victim = follower(muster)
        muster.kill_node(victim)
        began = time.perf_counter()
        muster.start_node(victim)
        muster.wait_ready(victim, every=0.002)
        times.append(time.perf_counter() - began)
        wait_for("it has caught up", lambda: muster.caught_up(victim))
    return times, resident(muster.process[victim].pid)


def metric(muster, node, name):
    _, _, text = muster.api(node, 3.0).call("GET", "/metrics")
    lines = (line.split() for line in text.decode().splitlines())
    return next(int(line[1]) for line in lines if line[0] == name)


def processor_s(pid):
    """What a process has had of the processors, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def idle(muster, nodes):
    """Waits until these nodes have nothing to do: the last snapshot that was due is built."""
    pids = [muster.process[node].pid for node in nodes]

    def nothing_to_do():
        before = [processor_s(pid) for pid in pids]
        time.sleep(2.0)
        return all(processor_s(pid) - was < 2.0 * IDLE for pid, was in zip(pids, before))

    wait_for("the other nodes are idle", nothing_to_do, 120, 0.0)


def left_behind(muster, load_program, pause=False):
    """Kills or pauses a follower, and writes until the others' logs have no more what it misses."""
    leader, victim = follower(muster)
    before = applied(muster, leader)
    if pause:
        muster.process[victim].send_signal(signal.SIGSTOP)
    else:
        muster.kill_node(victim)
    while (applied(muster, leader) or 0) < before + 1_500 or metric(muster, leader, "muster_raft_purged_index") <= before:
        load(load_program, muster, leader, 4, 1)
    return leader, victim


def rebuilds(muster, trials, load_program, beside_builds):
    times = []
    for _ in range(trials):
        leader, victim = left_behind(muster, load_program)
        if not beside_builds:
            idle(muster, [node for node in muster.ids if node != victim])
        wanted = applied(muster, leader)
        began = time.perf_counter()
        muster.start_node(victim)
        wait_for("it has the snapshot", lambda: (applied(muster, victim) or 0) >= wanted, 120, 0.01)
        times.append(time.perf_counter() - began)
        muster.wait_ready(victim)
    return times


def installs(muster, load_program, clients, seconds, pause):
    """Writes while a follower gets the snapshot; it is started, or goes on, a second after they begin."""
    leader, victim = left_behind(muster, load_program, pause)
    pid = muster.process[leader].pid
    before = resident(pid)[0]
    forget_peak(pid)
    # The node is not started by a thread of its own: it would end with it (see `scope.prepare_child`).
    with ThreadPoolExecutor(1) as pool:
        writes = pool.submit(load, load_program, muster, leader, clients, seconds)
        time.sleep(1.0)
        if pause:
            muster.process[victim].send_signal(signal.SIGCONT)
        else:
            muster.start_node(victim)
        measured = writes.result()
    muster.wait_ready(victim)
    wait_for("it has caught up", lambda: muster.caught_up(victim), 120)
    measured["leader_mib"] = {"before": before, "peak": peak(pid)}
    return measured


def middle(rounds, name):
    return {
        field: report.median([each[field] for each in rounds[name]]) for field in ("per_second", "p50_us", "p99_us")
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="10000,100000,1000000")
    parser.add_argument("--functions", type=int, default=10_000)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=8)
    arguments = parser.parse_args()
    fill_program, load_program = bench_binary("fill"), bench_binary("load")
    run = report.Run("growth", arguments)
    sizes = [int(rows) for rows in arguments.rows.split(",")]
    results, table = {"sizes": {}}, []
    with Scope() as scope:
        for rows in sizes:
            muster = Muster(scope, name=f"rows{rows}", extra=QUIET)
            filled = fill(fill_program, muster, min(arguments.functions, rows), rows)
            report.say(f"filled: {filled}")
            muster.start()
            for number in range(ACCOUNTS):
                muster.api(1).json("POST", "/v1/accounts", {"name": f"bench-{number}"})
            restarted, memory = restarts(muster, arguments.trials)
            restart_all(muster, BUSY)
            rebuilt = rebuilds(muster, arguments.trials, load_program, False)
            beside = rebuilds(muster, arguments.trials, load_program, True)
            report.say(f"{rows} rows: restarts {restarted}, rebuilds {rebuilt}, beside builds {beside}")
            results["sizes"][rows] = {
                "filled": filled,
                "restart_ms": [report.ms(each) for each in restarted],
                "rebuild_ms": [report.ms(each) for each in rebuilt],
                "rebuild_beside_builds_ms": [report.ms(each) for each in beside],
                "restarted_mib": memory,
            }
            table.append(
                [
                    f"{rows:,}",
                    f"{filled['snapshot_bytes'] / 2**20:.1f} MiB",
                    f"{report.ms(report.median(restarted)):.0f} ms",
                    f"{report.ms(report.median(rebuilt)):.0f} ms",
                    f"{report.ms(report.median(beside)):.0f} ms",
                    f"{memory[0]} MiB",
                ]
            )
            if rows != sizes[-1]:
                muster.stop()
                continue
            rounds = {"quiet": [], "building": [], "installing": [], "starting and installing": []}
            for number in range(arguments.rounds):
                restart_all(muster, QUIET)
                rounds["quiet"].append(load(load_program, muster, muster.leader(), arguments.clients, arguments.seconds))
                restart_all(muster, BUSY)
                rounds["building"].append(
                    load(load_program, muster, muster.leader(), arguments.clients, arguments.seconds)
                )
                for name, pause in (("installing", True), ("starting and installing", False)):
                    measured = installs(muster, load_program, arguments.clients, arguments.seconds, pause)
                    rounds[name].append(measured)
                report.say(f"round {number + 1}: " + str({name: each[-1] for name, each in rounds.items()}))
            restart_all(muster, ROLL_UP)
            leader = muster.leader()
            rounds["rolling up"] = [
                load(load_program, muster, leader, arguments.clients, arguments.seconds)
                for _ in range(arguments.rounds)
            ]
            extra = [each["leader_mib"]["peak"] - each["leader_mib"]["before"] for each in rounds["installing"]]
            results["leader_extra_mib"] = round(report.median(extra), 1)
            latencies = []
            for name in rounds:
                m = middle(rounds, name)
                times = report.median(
                    [each["p99_us"] / calm["p99_us"] for each, calm in zip(rounds[name], rounds["quiet"])]
                )
                results[name] = {**m, "p99_times_quiet": round(times, 2), "rounds": rounds[name]}
                latencies.append(
                    [name, round(m["per_second"]), f"{m['p50_us'] / 1000:.2f} ms", f"{m['p99_us'] / 1000:.2f} ms",
                     f"{times:.2f}"]
                )
            muster.stop()
        report.table(
            f"State against time, {arguments.functions} functions (medians of {arguments.trials})",
            ["ledger rows", "snapshot", "restart: exec to ready", "rebuild: exec to caught up", "the same beside builds", "RSS after a restart"],
            table,
        )
        report.table(
            f"Writes by {arguments.clients} clients on the leader, {sizes[-1]:,} rows (medians of {arguments.rounds})",
            ["while", "writes/s", "p50", "p99", "p99 / quiet"],
            latencies,
        )
        print(f"\nThe leader's peak while it builds and sends: {results['leader_extra_mib']} MiB above what it held before")
        run.finish(scope, results)


if __name__ == "__main__":
    main()
