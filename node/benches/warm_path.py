#!/usr/bin/env python3
"""What a warm invocation costs: through its host node, through another node, through nginx, and direct.

All four end at the same function instance, a process on this machine, and are loaded by wrk in
alternating rounds: one connection for latency, 32 for throughput. nginx proxies with keep-alive and
without logs, and does nothing else; Muster also authenticates, authorizes, counts slots and meters.
"""

import argparse
import os
import re
import shutil
import subprocess
from pathlib import Path

from support import report
from support.muster import Muster, bench_binary
from support.scope import Scope, wait_for
from support.web import answers

FUNCTION = "warm"
UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}

NGINX = """
user root;
daemon off;
worker_processes auto;
pid {dir}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    keepalive_requests 100000000;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    upstream function {{
        server 127.0.0.1:{upstream};
        keepalive 128;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://function;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"""


def instance_port(node_pid):
    """The port of the node's one child: the engine gives it in the environment."""
    children = Path(f"/proc/{node_pid}/task").glob("*/children")
    pids = [pid for each in children for pid in each.read_text().split()]
    for pid in pids:
        for setting in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            if setting.startswith(b"PORT="):
                return int(setting[5:])
    return None


def start_nginx(scope, upstream):
    directory = scope.dir / "nginx"
    directory.mkdir()
    port = scope.port()
    (directory / "nginx.conf").write_text(NGINX.format(dir=directory, upstream=upstream, port=port))
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    process = scope.start("nginx", [program, "-c", directory / "nginx.conf", "-p", directory])
    address = f"127.0.0.1:{port}"
    wait_for("nginx answers", lambda: answers(address, "/"))
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return address, [process.pid, *map(int, children)]


def wrk(url, key, connections, seconds):
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s", "--latency"]
    if key:
        command += ["--header", f"Authorization: Bearer {key}"]
    text = subprocess.run([*command, url], check=True, capture_output=True, text=True).stdout
    quantile = {}
    for percent, value, unit in re.findall(r"^\s+(\d+)%\s+([\d.]+)(us|ms|s|m)$", text, re.M):
        quantile[int(percent)] = float(value) * UNITS[unit]
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    broken = re.search(r"Socket errors: (.*)", text)
    return {
        "per_second": float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1)),
        "p50_us": round(quantile[50] * 1e6),
        "p99_us": round(quantile[99] * 1e6),
        "failed": int(bad.group(1)) if bad else 0,
        "socket_errors": broken.group(1) if broken else None,
        "load_average": os.getloadavg()[0],
    }


def cpu_secs(pids):
    """User and system time that processes have used so far."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def measure(url, key, pids, connections, seconds):
    """wrk's figures, and what a request cost the processes on its way in CPU time."""
    before = cpu_secs(pids)
    measured = wrk(url, key, connections, seconds)
    used = cpu_secs(pids) - before
    measured["cpu_us"] = round(used * 1e6 / (measured["per_second"] * seconds), 1)
    return measured


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of each measurement")
    parser.add_argument("--connections", default="1,32")
    parser.add_argument("--durability", default="interval", choices=["interval", "acknowledged", "replicated"])
    arguments = parser.parse_args()
    run = report.Run("warm_path", arguments)
    with Scope() as scope:
        muster = Muster(scope).start()
        spec = {
            "command": [str(bench_binary("hello"))],
            "concurrency": 64,
            "scaling": {"min": 1, "max": 1},
            "usage_durability": arguments.durability,
        }
        muster.deploy(FUNCTION, spec)
        ready = lambda: [i for i in muster.instances(FUNCTION) if i["phase"] == "ready"]
        host = wait_for("the instance is ready", ready)[0]["node"]
        upstream = wait_for("the instance has a port", lambda: instance_port(muster.process[host].pid))
        # Remote is a follower that is not the host, so that no leader's work is in it.
        leader = muster.leader()
        remote = next(n for n in muster.ids if n not in (host, leader))
        url = lambda n: f"http://{muster.http[n]}/function/{FUNCTION}"
        nginx, nginx_pids = start_nginx(scope, upstream)
        host_pid, remote_pid = muster.process[host].pid, muster.process[remote].pid
        paths = {
            "direct": (f"http://127.0.0.1:{upstream}/", None, []),
            "nginx": (f"http://{nginx}/", None, nginx_pids),
            "muster-local": (url(host), muster.key, [host_pid]),
            "muster-remote": (url(remote), muster.key, [host_pid, remote_pid]),
        }
        for path in paths.values():
            measure(*path, 4, 1)
        results, rows = {"host_is_leader": host == leader}, []
        for connections in map(int, arguments.connections.split(",")):
            rounds = {name: [] for name in paths}
            for number in range(1, arguments.rounds + 1):
                for name, path in paths.items():
                    measured = measure(*path, connections, arguments.seconds)
                    rounds[name].append(measured)
                    if measured["failed"] or measured["socket_errors"]:
                        report.say(f"{name}: {measured['failed']} failed, {measured['socket_errors']}")
                line = ", ".join(f"{n} {r[-1]['per_second']:.0f}/s {r[-1]['p50_us']} µs" for n, r in rounds.items())
                report.say(f"c{connections} round {number}: {line}")
            results[f"c{connections}"] = {"rounds": rounds}
            for name, measurements in rounds.items():
                middle = {
                    field: report.median([m[field] for m in measurements])
                    for field in ("per_second", "p50_us", "p99_us", "cpu_us", "failed")
                }
                pairs = list(zip(measurements, rounds["nginx"]))
                middle["throughput_by_nginx"] = round(report.median([a["per_second"] / b["per_second"] for a, b in pairs]), 2)
                middle["p50_by_nginx"] = round(report.median([a["p50_us"] / b["p50_us"] for a, b in pairs]), 2)
                results[f"c{connections}"][name] = middle
                rows.append(
                    [connections, name, round(middle["per_second"]), f"{middle['p50_us']:.0f} µs",
                     f"{middle['p99_us']:.0f} µs", f"{middle['cpu_us']:.0f} µs", middle["throughput_by_nginx"], middle["p50_by_nginx"]]
                )
        report.table(
            f"Warm path, medians of {arguments.rounds} rounds of {arguments.seconds} s",
            ["connections", "through", "requests/s", "p50", "p99", "CPU each", "requests/s by nginx's", "p50 by nginx's"],
            rows,
        )
        run.finish(scope, results)


if __name__ == "__main__":
    main()
