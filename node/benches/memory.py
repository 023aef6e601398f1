#!/usr/bin/env python3
"""Resident memory of a node: idle after its start, and after ten minutes' worth of light load.

Light load is 10 invocations, one admin write and one linearizable read a second. It is applied ten
times as fast for a minute; `--speed 1` takes the ten minutes. RSS and PSS from the kernel, per node.
"""

import argparse
import threading
import time

from support import report
from support.memory import resident
from support.muster import Muster, binary
from support.scope import Scope, wait_for

LOAD_SECS = 600
INVOCATIONS_PER_SEC = 10
SETTLE_SECS = 5
FUNCTION = "light"


def light_load(muster, n, speed, errors):
    """One node's third of the load."""
    web = muster.api(n)
    total = LOAD_SECS * INVOCATIONS_PER_SEC // len(muster.ids)
    every = LOAD_SECS / total / speed
    due = time.monotonic()
    try:
        for number in range(total):
            status, _, body = web.call("POST", f"/function/{FUNCTION}", b'{"args": {"prompt": "what now?"}}')
            if status != 200:
                raise RuntimeError(f"{status} {body[:200]!r}")
            if number % INVOCATIONS_PER_SEC == 0:
                path = f"/v1/accounts/bench-0/grants/function-{number % 500}"
                web.json("PUT", path, {"actions": ["invoke"]})
                web.json("GET", f"/v1/functions/{FUNCTION}")
            due += every
            time.sleep(max(0.0, due - time.monotonic()))
    except Exception as error:
        errors.append(f"node {n}: {error}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", type=float, default=10.0, help="of the load; 1 is real time")
    arguments = parser.parse_args()
    run = report.Run("memory", arguments)
    with Scope() as scope:
        muster = Muster(scope).start()
        time.sleep(SETTLE_SECS)
        measure = lambda: {n: resident(process.pid) for n, process in muster.process.items()}
        idle = measure()
        muster.api(1).json("POST", "/v1/accounts", {"name": "bench-0"})
        spec = {"command": [str(binary("faulty"))], "env": {"MODE": "echo"}, "scaling": {"min": 1, "max": 2}}
        muster.deploy(FUNCTION, spec)
        wait_for("the function is ready", lambda: any(i["phase"] == "ready" for i in muster.instances(FUNCTION)))
        errors = []
        threads = [
            threading.Thread(target=light_load, args=(muster, n, arguments.speed, errors)) for n in muster.ids
        ]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.monotonic() - began
        if errors:
            raise SystemExit("the load failed: " + "; ".join(errors))
        time.sleep(SETTLE_SECS)
        loaded = measure()
        leader = muster.leader()
        rows = [
            [n, "leader" if n == leader else "follower", *(f"{mib} MiB" for mib in (*idle[n], *loaded[n]))]
            for n in muster.ids
        ]
        report.table(
            f"Memory of a node, before and after {LOAD_SECS * INVOCATIONS_PER_SEC} invocations in {took:.0f} s",
            ["node", "role", "idle RSS", "idle PSS", "loaded RSS", "loaded PSS"],
            rows,
        )
        run.finish(scope, {"leader": leader, "idle_mib": idle, "loaded_mib": loaded, "load_secs": round(took)})


if __name__ == "__main__":
    main()
