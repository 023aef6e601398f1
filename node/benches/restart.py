#!/usr/bin/env python3
"""How long a node with much state takes from exec to ready: 10,000 functions, 1,000,000 ledger rows.

The data directories are written by `fill` (see there): real commands applied to the state, saved as
the real snapshot; only the way through the log is skipped. Then three nodes start from them. A
follower is killed and started again, several times: from exec to the first 200 of `/readyz`, which
proves a round trip to a quorum.
"""

import argparse
import json
import os
import subprocess
import time

from support import report
from support.memory import resident
from support.muster import Muster, bench_binary
from support.scope import Scope, wait_for


def size_mib(directory):
    total = sum((file.stat().st_size for file in directory.rglob("*") if file.is_file()))
    return round(total / 2**20, 1)


def timed_start(muster, n):
    began = time.perf_counter()
    muster.start_node(n)
    muster.wait_ready(n, every=0.002)
    return time.perf_counter() - began


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--functions", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--writes", type=int, default=200, help="committed before each kill, to have a log to replay")
    arguments = parser.parse_args()
    program = bench_binary("fill")
    run = report.Run("restart", arguments)
    with Scope() as scope:
        # `fill` writes rows of January 2026: they are to stay as they are.
        muster = Muster(scope, extra="[ledger]\nhours_for_days = 100000")
        command = [program, "--dir", muster.dir, "--functions", arguments.functions, "--rows", arguments.rows]
        for n in muster.ids:
            command += ["--member", f"{muster.http[n]},{muster.peer[n]}"]
        report.say("filling")
        done = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
        filled = json.loads(done.stdout)
        report.say(f"filled: {done.stdout.strip()}")
        os.chmod(muster.dir / "root.key", 0o600)

        began = time.perf_counter()
        muster.start()
        cluster_secs = time.perf_counter() - began
        report.say(f"cold start of all three: {cluster_secs:.2f} s")
        after_start = {n: resident(process.pid) for n, process in muster.process.items()}
        times = []
        for number in range(1, arguments.trials + 1):
            leader = muster.leader()
            victim = next(n for n in muster.ids if n != leader)
            web = muster.api(leader)
            for write in range(arguments.writes):
                web.json("PUT", f"/v1/accounts/account-0000/grants/function-{write % 50}", {"actions": ["invoke"]})
            wait_for("the follower has it too", lambda: muster.caught_up(victim))
            muster.kill_node(victim)
            times.append(timed_start(muster, victim))
            report.say(f"restart {number}/{arguments.trials}: {report.ms(times[-1]):.0f} ms")
        restarted = resident(muster.process[victim].pid)
        results = {
            "filled": filled,
            "restart_ms": {
                "median": report.ms(report.median(times)),
                "max": report.ms(max(times)),
                "all": [report.ms(each) for each in times],
            },
            "whole_cluster_start_ms": report.ms(cluster_secs),
            "after_start_mib": after_start,
            "restarted_node_mib": restarted,
            "data_dir_mib": {n: size_mib(muster.dir / f"node{n}") for n in muster.ids},
        }
        snapshot_mib = filled["snapshot_bytes"] / 2**20
        report.table(
            f"Restart with {arguments.functions} functions and {arguments.rows} ledger rows",
            ["figure", "value"],
            [
                [f"one node killed, exec to ready, median of {arguments.trials}", f"{results['restart_ms']['median']:.0f} ms"],
                ["the same, longest", f"{results['restart_ms']['max']:.0f} ms"],
                ["whole cluster from nothing running, all ready", f"{results['whole_cluster_start_ms']:.0f} ms"],
                ["snapshot", f"{snapshot_mib:.1f} MiB"],
                ["encoding it / decoding it", f"{filled['encode_ms']} ms / {filled['decode_ms']} ms"],
                ["data directory of a node", f"{results['data_dir_mib'][1]} MiB"],
                ["restarted node, RSS / PSS", f"{restarted[0]} MiB / {restarted[1]} MiB"],
            ],
        )
        run.finish(scope, results)


if __name__ == "__main__":
    main()
