#!/usr/bin/env python3
"""A cold start through Muster, next to the bare engine's: Docker containers and child processes.

Muster: a function that is scaled to zero is invoked; the time is that of the whole answer. Bare
Docker: create, start and first answer of the same image on a bridge network with the same hardening,
over the engine's API; and the same joining the network namespace of a container that waits already, as
Muster does. Paused: an instance that has served nobody for a moment, and stands still. Bare process: spawn and first answer. Trials alternate, so that all meet the
same machine; each waits until what the one before it left is gone.
"""

import argparse
import http.client

import os
import secrets
import socket
import subprocess
import time

from support import docker, report
from support.muster import Muster, binary
from support.scope import Scope, wait_for
from support.web import Failure

IMAGE = "muster/faulty:latest"
LABEL = "muster.bench"
PORT = 8080
FUNCTION = "cold"


def first_answer(address, port, deadline_secs=30):
    """Connects as soon as someone listens, asks, and returns when the whole answer is there."""
    deadline = time.monotonic() + deadline_secs
    while True:
        connection = http.client.HTTPConnection(address, port, timeout=5)
        try:
            connection.request("GET", "/")
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
            return
        except Failure:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)
        finally:
            connection.close()


class BareDocker:
    """What Muster's engine asks Docker for, without Muster."""

    def __init__(self, scope):
        self.docker = docker.Docker()
        self.label = f"{LABEL}={secrets.token_hex(4)}"
        scope.callback(docker.remove_labelled, self.label)
        key, value = self.label.split("=")
        self.labels = {key: value}
        network = {
            "Name": f"muster-bench-{value}",
            "Driver": "bridge",
            "Labels": self.labels,
            "Options": {"com.docker.network.bridge.enable_icc": "false"},
        }
        self.network = self.docker.call("POST", "/networks/create", network)["Id"]

    def body(self, network):
        return {
            "Image": IMAGE,
            "Env": ["MODE=echo", f"PORT={PORT}"],
            "User": "65534:65534",
            "Labels": self.labels,
            "HostConfig": {
                "Memory": 128 << 20,
                "MemorySwap": 128 << 20,
                "NanoCpus": 1_000_000_000,
                "PidsLimit": 512,
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges"],
                "ReadonlyRootfs": True,
                "Tmpfs": {"/tmp": "size=16m,mode=1777"},
                "LogConfig": {"Type": "json-file", "Config": {"max-size": "4m", "max-file": "2"}},
                "NetworkMode": network,
                "Init": True if self.has_init() else None,
            },
        }

    def start(self, body):
        container = self.docker.call("POST", "/containers/create", body)["Id"]
        self.docker.call("POST", f"/containers/{container}/start")
        return container

    def address(self, container):
        seen = self.docker.call("GET", f"/containers/{container}/json")
        return next(iter(seen["NetworkSettings"]["Networks"].values()))["IPAddress"]

    def remove(self, container):
        self.docker.call("DELETE", f"/containers/{container}?force=true&v=true")

    def trial(self):
        began = time.perf_counter()
        container = self.start(self.body(self.network))
        first_answer(self.address(container), PORT)
        took = time.perf_counter() - began
        self.remove(container)
        return took

    def has_init(self):
        if not hasattr(self, "_init"):
            self._init = bool(self.docker.call("GET", "/info").get("InitBinary"))
        return self._init


class JoinedDocker(BareDocker):
    """The waiting container is there before the time begins."""

    def trial(self):
        body = self.body(self.network)
        body["Env"] = ["MODE=never-ready", f"PORT={PORT}"]
        holder = self.start(body)
        address = self.address(holder)
        began = time.perf_counter()
        container = self.start(self.body(f"container:{holder}"))
        first_answer(address, PORT)
        took = time.perf_counter() - began
        self.remove(container)
        self.remove(holder)
        return took


class BareProcess:
    def __init__(self, program):
        self.program = program

    def trial(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = {"PATH": os.environ["PATH"], "PORT": str(port), "MODE": "echo"}
        began = time.perf_counter()
        process = subprocess.Popen(
            [self.program], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            first_answer("127.0.0.1", port)
            return time.perf_counter() - began
        finally:
            process.kill()
            process.wait()


class ThroughMuster:
    """A function on a cluster with one engine. It is scaled to zero as soon as it is idle."""

    def __init__(self, scope, engine, source):
        self.cluster = Muster(scope, engine=engine, name=f"muster-{engine}-").start()
        spec = {
            **source,
            "env": {"MODE": "echo"},
            "memory_mb": 128,
            "cpu_millis": 1000,
            "scaling": {"min": 0, "max": 1, "window_ms": 500, "keep_alive_ms": 0},
        }
        self.cluster.deploy(FUNCTION, spec)
        # Each node's connection is open before it is timed, as a client's usually is.
        self.entries = [self.cluster.api(n) for n in self.cluster.ids]
        self.turn = 0

    def trial(self):
        wait_for("the function is scaled to zero", self.is_cold, 60, 0.1)
        # The decision is over; whatever it left to do in the engine is not to be measured either.
        time.sleep(0.5)
        self.turn += 1
        entry = self.entries[self.turn % len(self.entries)]
        entry.json("GET", "/v1/cluster?consistency=local")
        began = time.perf_counter()
        status, headers, body = entry.call("GET", f"/function/{FUNCTION}")
        took = time.perf_counter() - began
        if status != 200 or headers["Muster-Cold-Start"] != "true":
            raise RuntimeError(f"not a cold start: {status} {dict(headers)} {body[:200]!r}")
        return took

    def is_cold(self):
        return not self.cluster.instances(FUNCTION)


class Paused:
    """A function with one instance that stands still as soon as it has served nobody for a moment."""

    def __init__(self, scope, engine, source):
        extra = "[agent]\npause_idle_after_ms = 100"
        self.cluster = Muster(scope, engine=engine, extra=extra, name=f"muster-{engine}-paused-").start()
        spec = {
            **source,
            "env": {"MODE": "echo"},
            "memory_mb": 128,
            "cpu_millis": 1000,
            "scaling": {"min": 1, "max": 1},
        }
        self.cluster.deploy(FUNCTION, spec)
        wait_for("the instance is ready", self.is_ready, 60, 0.1)
        self.entries = [self.cluster.api(n) for n in self.cluster.ids]
        self.turn = 0

    def trial(self):
        wait_for("the instance stands still", self.is_paused, 60, 0.05)
        time.sleep(0.2)
        self.turn += 1
        entry = self.entries[self.turn % len(self.entries)]
        entry.json("GET", "/v1/cluster?consistency=local")
        before = self.sum("muster_instances_resumed_total")
        began = time.perf_counter()
        status, headers, body = entry.call("GET", f"/function/{FUNCTION}")
        took = time.perf_counter() - began
        if status != 200 or self.sum("muster_instances_resumed_total") != before + 1:
            raise RuntimeError(f"not from a pause: {status} {dict(headers)} {body[:200]!r}")
        return took

    def is_ready(self):
        return [i["phase"] for i in self.cluster.instances(FUNCTION)] == ["ready"]

    def is_paused(self):
        return self.sum("muster_instances_paused_total") > self.sum("muster_instances_resumed_total")

    def sum(self, metric):
        texts = [entry.call("GET", "/metrics")[2].decode() for entry in self.entries]
        lines = [line for text in texts for line in text.splitlines() if line.startswith(f"{metric} ")]
        return sum(int(line.split()[1]) for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--engine", choices=["process", "docker", "both"], default="both")
    arguments = parser.parse_args()
    run = report.Run("cold_start", arguments)
    program = binary("faulty")
    results, rows = {}, []
    with Scope() as scope:
        subjects = {
            "process": ({"command": [str(program)]}, {"bare": lambda: BareProcess(program)}),
            "docker": (
                {"image": IMAGE, "port": PORT},
                {"bare": lambda: BareDocker(scope), "joined": lambda: JoinedDocker(scope)},
            ),
        }
        if arguments.engine != "both":
            subjects = {arguments.engine: subjects[arguments.engine]}
        if "docker" in subjects and not docker.available(IMAGE):
            report.say(f"no Docker Engine with {IMAGE}: see runtime/images/build.sh --function faulty")
            del subjects["docker"]
        for engine, (source, others) in subjects.items():
            muster, paused = ThroughMuster(scope, engine, source), Paused(scope, engine, source)
            compared = {name: begin() for name, begin in others.items()}
            compared.update({"muster": muster, "muster, paused": paused})
            times = {name: [] for name in compared}
            for subject in compared.values():
                subject.trial()  # images, pages and networks are as on a host in use
            for number in range(1, arguments.trials + 1):
                for name, subject in compared.items():
                    times[name].append(subject.trial())
                last = ", ".join(f"{name} {report.ms(each[-1]):.1f} ms" for name, each in times.items())
                report.say(f"{engine} {number}/{arguments.trials}: {last}")
            muster.cluster.stop()
            paused.cluster.stop()
            summary = {
                name: {
                    "p50_ms": report.ms(report.median(each)),
                    "p90_ms": report.ms(report.percentile(each, 0.9)),
                    "max_ms": report.ms(max(each)),
                }
                for name, each in times.items()
            }
            added = report.median(times["muster"]) - report.median(times["bare"])
            results[engine] = {**summary, "added_p50_ms": report.ms(added), "times_ms": {
                name: [report.ms(one) for one in each] for name, each in times.items()
            }}
            for name in compared:
                s = summary[name]
                rows.append(
                    [engine, name, f"{s['p50_ms']:.1f} ms", f"{s['p90_ms']:.1f} ms", f"{s['max_ms']:.1f} ms",
                     f"{report.ms(added):.1f} ms" if name == "muster" else ""]
                )
        report.table(
            f"Cold start, {arguments.trials} trials each, alternating",
            ["engine", "through", "p50", "p90", "max", "added by Muster (p50)"],
            rows,
        )
        run.finish(scope, results)


if __name__ == "__main__":
    main()
