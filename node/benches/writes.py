#!/usr/bin/env python3
"""Committed writes per second and their latency, closed loop, at 1, 64 and 256 clients: Muster and etcd.

Three nodes each, clients spread over all of them, the same generator for both, both over HTTP and
JSON, in alternating rounds; medians over the rounds. Only one of the two runs under load at a time;
the other idles.
"""

import argparse
import json
import os
import subprocess

from support import report
from support.etcd import Etcd
from support.muster import Muster, bench_binary
from support.scope import Scope

ACCOUNTS = 16


def load(program, system, cluster, clients, seconds, key_file=None):
    command = [program, "--system", system, "--connections", clients, "--seconds", seconds]
    command += ["--targets", ",".join(cluster.http.values())]
    if key_file:
        command += ["--key-file", key_file]
    done = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
    measured = json.loads(done.stdout)
    if measured["errors"]:
        report.say(f"{system}: {measured['errors']} writes failed, such as: {measured['error']}")
    return measured


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", default="1,64,256")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=8, help="of each measurement, after one to warm up")
    parser.add_argument("--config", default="", help="TOML added to Muster's configuration, to try settings")
    arguments = parser.parse_args()
    program = bench_binary("load")
    run = report.Run("writes", arguments)
    with Scope() as scope:
        muster = Muster(scope, extra=arguments.config).start()
        for number in range(ACCOUNTS):
            muster.api(1).json("POST", "/v1/accounts", {"name": f"bench-{number}"})
        etcd = Etcd(scope).start()
        systems = {"muster": (muster, muster.dir / "root.key"), "etcd": (etcd, None)}
        results, rows = {}, []
        for clients in map(int, arguments.clients.split(",")):
            rounds = {name: [] for name in systems}
            for number in range(arguments.rounds):
                for name, (cluster, key) in systems.items():
                    measured = load(program, name, cluster, clients, arguments.seconds, key)
                    measured["load_average"] = os.getloadavg()[0]
                    rounds[name].append(measured)
                    report.say(f"{clients} clients, round {number + 1}, {name}: {measured['per_second']}/s")
            middle = {
                name: {
                    field: report.median([measured[field] for measured in measurements])
                    for field in ("per_second", "p50_us", "p99_us", "errors")
                }
                for name, measurements in rounds.items()
            }
            ratios = [a["per_second"] / b["per_second"] for a, b in zip(rounds["muster"], rounds["etcd"])]
            middle["ratio"] = round(report.median(ratios), 2)
            results[clients] = {**middle, "rounds": rounds}
            for name in systems:
                m = middle[name]
                rows.append(
                    [clients, name, round(m["per_second"]), f"{m['p50_us'] / 1000:.2f} ms",
                     f"{m['p99_us'] / 1000:.2f} ms", middle["ratio"] if name == "muster" else ""]
                )
        report.table(
            "Committed writes, three nodes, closed loop (medians)",
            ["clients", "system", "writes/s", "p50", "p99", "muster / etcd"],
            rows,
        )
        run.finish(scope, results)


if __name__ == "__main__":
    main()
