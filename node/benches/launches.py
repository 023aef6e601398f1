#!/usr/bin/env python3
"""Launches a second that last, next to the bare engine's: Docker containers, several at a time.

Muster: callers, each with a function of its own that is scaled to zero as soon as it is idle, invoke it whenever
nothing of it is left; an invocation that finds no instance is a launch, and each launch is also removed within the
time that is measured. Bare Docker: as many threads create, start, ask and remove containers that join the network
namespaces of containers that wait, as Muster's do. The two alternate.
"""

import argparse
import threading
import time

from cold_start import IMAGE, PORT, JoinedDocker, first_answer
from support import docker, report
from support.muster import Muster, binary
from support.scope import Scope, wait_for


class Bare:
    """A namespace for each thread, made before the time begins and used again and again."""

    def __init__(self, scope, workers):
        self.workers = []
        for _ in range(workers):
            one = JoinedDocker(scope)
            body = one.body(one.network)
            body["Env"] = ["MODE=never-ready", f"PORT={PORT}"]
            holder = one.start(body)
            self.workers.append((one, holder, one.address(holder)))

    def launch(self, worker):
        one, holder, address = self.workers[worker]
        container = one.start(one.body(f"container:{holder}"))
        first_answer(address, PORT)
        one.remove(container)


class ThroughMuster:
    def __init__(self, scope, engine, source, workers):
        self.cluster = Muster(scope, engine=engine, name=f"muster-{engine}-").start()
        self.apis = []
        for worker in range(workers):
            spec = {
                **source,
                "env": {"MODE": "echo"},
                "memory_mb": 32,
                "cpu_millis": 100,
                "scaling": {"min": 0, "max": 1, "window_ms": 500, "keep_alive_ms": 0},
            }
            self.cluster.deploy(f"cold-{worker}", spec)
            self.apis.append(self.cluster.api(self.cluster.ids[worker % len(self.cluster.ids)]))

    def launch(self, worker):
        api, function = self.apis[worker], f"cold-{worker}"
        status, headers, body = api.call("GET", f"/function/{function}")
        if status != 200:
            raise RuntimeError(f"{status} {body[:200]!r}")
        cold = headers["Muster-Cold-Start"] == "true"
        # Ready ones are drained at once, and gone ones make room for the next.
        wait_for(f"{function} is scaled to zero", lambda: self.is_gone(api, function), 60, 0.02)
        return cold

    def is_gone(self, api, function):
        return not api.json("GET", f"/v1/instances?function={function}&consistency=local")


def rate(subject, workers, seconds):
    """Launches a second of all workers together, over whole launches alone."""
    counts, failures = [0] * workers, []
    end = time.perf_counter() + seconds

    def work(worker):
        try:
            while time.perf_counter() < end:
                counts[worker] += subject.launch(worker) is not False
        except Exception as failure:  # noqa: BLE001: told below, whatever it is
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(workers)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sum(counts) / (time.perf_counter() - began)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=24)
    parser.add_argument("--bare-workers", type=int, default=4, help="threads at the bare engine")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--engine", choices=["process", "docker", "both"], default="both")
    arguments = parser.parse_args()
    run = report.Run("launches", arguments)
    results, rows = {}, []
    with Scope() as scope:
        sources = {"process": {"command": [str(binary("faulty"))]}, "docker": {"image": IMAGE, "port": PORT}}
        if arguments.engine != "both":
            sources = {arguments.engine: sources[arguments.engine]}
        if "docker" in sources and not docker.available(IMAGE):
            report.say(f"no Docker Engine with {IMAGE}: see runtime/images/build.sh --function faulty")
            del sources["docker"]
        for engine, source in sources.items():
            subjects = {"muster": (ThroughMuster(scope, engine, source, arguments.workers), arguments.workers)}
            if engine == "docker":
                subjects["bare"] = (Bare(scope, arguments.bare_workers), arguments.bare_workers)
            rates = {name: [] for name in subjects}
            for number in range(1, arguments.rounds + 1):
                for name, (subject, workers) in subjects.items():
                    rates[name].append(rate(subject, workers, arguments.seconds))
                    report.say(f"{engine} {number}/{arguments.rounds}: {name} {rates[name][-1]:.1f}/s")
            subjects["muster"][0].cluster.stop()
            results[engine] = rates
            rows += [[engine, name, f"{report.median(each):.1f}"] for name, each in rates.items()]
        report.table("Launches a second, removed again", ["engine", "through", "a second"], rows)
        run.finish(scope, results)


if __name__ == "__main__":
    main()
