#!/usr/bin/env python3
"""How long writes stand still after the leader is killed: Muster and etcd, three nodes each. And after it is
stopped as planned (SIGTERM), when Muster's leader gives its place to another first.

An open-loop writer starts a small write every few milliseconds at a surviving node, so that one lost
request never hides what the others see, and no client timeout rounds the result. The gap is the
longest time between two acknowledged writes around the SIGKILL.
"""

import argparse
import asyncio
import json
import random
import time

from support import report
from support.etcd import Etcd, put_body
from support.muster import Muster
from support.scope import Scope, wait_for

WRITE_EVERY = 0.005
SETTLE_SECS = (1.0, 1.5)
# After the first write that gets through again, others that waited longer may still come.
TAIL_SECS = 0.5
GAP_MAX_SECS = 20.0
OPEN_MAX = 4096


class Writer:
    """Starts a write every `WRITE_EVERY` over as many connections as are needed."""

    def __init__(self, address, request):
        self.host, port = address.split(":")
        self.port = int(port)
        self.request = request
        self.idle, self.tasks = [], set()
        self.acknowledged, self.refused = [], 0

    async def run(self, stop):
        due = time.monotonic()
        while not stop.is_set():
            if len(self.tasks) < OPEN_MAX:
                task = asyncio.create_task(self._write())
                self.tasks.add(task)
                task.add_done_callback(self.tasks.discard)
            due += WRITE_EVERY
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for _, writer in self.idle:
            writer.close()

    async def _write(self):
        writer = None
        try:
            reader, writer = self.idle.pop() if self.idle else await asyncio.open_connection(self.host, self.port)
            writer.write(self.request)
            status = await read_answer(reader)
        except (OSError, ValueError, IndexError, asyncio.IncompleteReadError):
            status = 0
        except asyncio.CancelledError:
            if writer:
                writer.close()
            raise
        if 200 <= status < 300:
            self.acknowledged.append(time.monotonic())
            self.idle.append((reader, writer))
        else:
            self.refused += 1
            if writer:
                writer.close()


async def read_answer(reader):
    """Reads one answer to its end and returns its status."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split()[1])
    headers = {}
    for line in head[1:]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if headers.get("transfer-encoding") == "chunked":
        while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
            await reader.readexactly(size + 2)
        await reader.readuntil(b"\r\n")
    else:
        await reader.readexactly(int(headers.get("content-length", 0)))
    return status


def raw_request(method, address, path, body, key=None):
    payload = json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
    if key:
        head += f"Authorization: Bearer {key}\r\n"
    return f"{head}Content-Length: {len(payload)}\r\n\r\n".encode() + payload


async def trial(cluster, request_to, planned):
    """Kills the leader, or stops it as planned, under writes at another node; returns the gap in seconds, and
    puts it back."""
    leader = cluster.leader()
    survivor = random.choice([n for n in cluster.ids if n != leader])
    writer = Writer(cluster.http[survivor], request_to(cluster.http[survivor]))
    stop = asyncio.Event()
    running = asyncio.create_task(writer.run(stop))
    await asyncio.sleep(random.uniform(*SETTLE_SECS))
    if len(writer.acknowledged) < 10:
        raise RuntimeError("hardly any write succeeded before the kill")
    killed = time.monotonic()
    if planned:
        stopping = asyncio.get_running_loop().run_in_executor(None, cluster.stop_node, leader)
    else:
        cluster.kill_node(leader)
    # Over when a write that began after the gap is acknowledged: the first acknowledgements may be
    # of writes that were already committed.
    while time.monotonic() - killed < GAP_MAX_SECS + TAIL_SECS:
        await asyncio.sleep(0.05)
        late = [at for at in writer.acknowledged if at > killed + 0.05]
        if len(late) >= 20 and time.monotonic() - late[0] > TAIL_SECS:
            break
    stop.set()
    await running
    if planned:
        await stopping
    around = [at for at in writer.acknowledged if at >= killed - 0.1]
    gap = max((b - a for a, b in zip(around, around[1:])), default=GAP_MAX_SECS)
    before = [at for at in writer.acknowledged if at < killed]
    usual = max(b - a for a, b in zip(before[5:], before[6:]))
    # etcd's leader is its member; Muster's and ours count alike.
    cluster.start_node(leader)
    cluster.wait_ready(leader)
    wait_for("the restarted node has caught up", lambda: cluster.caught_up(leader), 60, 0.1)
    return gap, usual, writer.refused


def series(name, cluster, request_to, trials, planned=False):
    gaps, usual, refused = [], [], 0
    for number in range(1, trials + 1):
        gap, longest_before, failed = asyncio.run(trial(cluster, request_to, planned))
        gaps.append(gap)
        usual.append(longest_before)
        refused += failed
        report.say(f"{name} {number}/{trials}: {report.ms(gap):.0f} ms ({failed} writes refused)")
    return {
        "trials": trials,
        "median_ms": report.ms(report.median(gaps)),
        "min_ms": report.ms(min(gaps)),
        "max_ms": report.ms(max(gaps)),
        "longest_pause_before_kill_median_ms": report.ms(report.median(usual)),
        "refused_writes": refused,
        "gaps_ms": [report.ms(gap) for gap in gaps],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--planned-trials", type=int, default=20, help="stop it by SIGTERM; 0: do not")
    parser.add_argument("--etcd-trials", type=int, default=8, help="0: without etcd")
    parser.add_argument("--config", default="", help="TOML added to Muster's configuration, to try settings")
    arguments = parser.parse_args()
    run = report.Run("failover", arguments)
    results = {}
    with Scope() as scope:
        muster = Muster(scope, extra=arguments.config).start()
        muster.api(1).json("POST", "/v1/accounts", {"name": "bench-0"})
        path = "/v1/accounts/bench-0/grants/function-0"
        to_muster = lambda address: raw_request("PUT", address, path, {"actions": ["invoke"]}, muster.key)
        results["muster"] = series("muster", muster, to_muster, arguments.trials)
        if arguments.planned_trials:
            results["muster-planned"] = series(
                "muster-planned", muster, to_muster, arguments.planned_trials, planned=True
            )
        muster.stop()
        if arguments.etcd_trials:
            to_etcd = lambda address: raw_request("POST", address, "/v3/kv/put", put_body("/k", "v" * 22))
            # Its defaults suit networks with some delay; the second is set as fast as Muster's.
            for name, timing in [("etcd", (100, 1000)), ("etcd-50-250", (50, 250))]:
                etcd = Etcd(scope, heartbeat_ms=timing[0], election_ms=timing[1], name=name).start()
                results[name] = series(name, etcd, to_etcd, arguments.etcd_trials)
                for n in etcd.ids:
                    etcd.kill_node(n)
        report.table(
            "Write gap after SIGKILL of the leader, three nodes",
            ["system", "trials", "median", "min", "max", "longest pause before the kill (median)"],
            [
                [name, r["trials"], *(f"{r[k]:.0f} ms" for k in ("median_ms", "min_ms", "max_ms")),
                 f"{r['longest_pause_before_kill_median_ms']:.0f} ms"]
                for name, r in results.items()
            ],
        )
        run.finish(scope, results)


if __name__ == "__main__":
    main()
