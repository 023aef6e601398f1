"""A Muster cluster on this machine, from the release binaries, with default settings."""

import json
import os
import secrets
import subprocess
from pathlib import Path

from . import docker
from .scope import kill, stop, wait_for
from .web import Failure, Http, answers

ROOT = Path(__file__).resolve().parents[3]


def binary(name):
    """A release binary: from MUSTER_BIN_DIR, or built now."""
    given = os.environ.get("MUSTER_BIN_DIR")
    path = Path(given or ROOT / "target" / "release") / name
    if not given:
        package = {"muster": "muster-client"}.get(name, name)
        subprocess.run(["cargo", "build", "--quiet", "--release", "--package", package], cwd=ROOT, check=True)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; build it with `cargo build --release`")
    return path


def bench_binary(name):
    """A helper program of this folder: from MUSTER_BIN_DIR, or built now."""
    given = os.environ.get("MUSTER_BIN_DIR")
    if given:
        return Path(given) / name
    command = ["cargo", "bench", "--quiet", "--package", "muster-node", "--bench", name, "--no-run"]
    done = subprocess.run(
        [*command, "--message-format=json"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == name:
            return Path(message["executable"])
    raise RuntimeError(f"cargo did not name the program it built for {name}")


class Muster:
    def __init__(self, scope, nodes=3, engine="process", extra="", name="muster"):
        self.scope, self.engine, self.extra, self.name = scope, engine, extra, name
        self.ids = list(range(1, nodes + 1))
        self.dir = scope.dir / name
        self.dir.mkdir()
        self.http = {n: f"127.0.0.1:{scope.port()}" for n in self.ids}
        self.peer = {n: f"127.0.0.1:{scope.port()}" for n in self.ids}
        (self.dir / "peer.secret").write_text(secrets.token_hex(32))
        os.chmod(self.dir / "peer.secret", 0o600)
        self.program = binary("muster-node")
        self.process, self.key = {}, None

    def start(self):
        """Starts every node and waits until all are ready."""
        if self.engine != "process":
            self.scope.callback(self._remove_containers)
        for n in self.ids:
            self.start_node(n)
        for n in self.ids:
            self.wait_ready(n)
        root_key = self.dir / "root.key"
        wait_for("the root key is there", root_key.is_file)
        self.key = root_key.read_text().strip()
        wait_for("every node has joined", self._all_joined)
        self.cluster_id = self.api(1).json("GET", "/v1/cluster")["cluster_id"]
        return self

    def start_node(self, n):
        config = self.dir / f"node{n}.toml"
        config.write_text(self._config(n))
        self.process[n] = self.scope.start(f"{self.name}{n}", [self.program, "--config", config])

    def wait_ready(self, n, secs=120, every=0.01):
        def ready():
            if self.process[n].poll() is not None:
                raise RuntimeError(f"node {n} ended:\n{self.scope.log_tail(f'{self.name}{n}')}")
            return answers(self.http[n], "/readyz")

        wait_for(f"node {n} is ready", ready, secs, every)

    def kill_node(self, n):
        kill(self.process[n])

    def stop_node(self, n):
        stop(self.process[n])

    def stop(self):
        for process in self.process.values():
            process.terminate()
        for n in self.ids:
            self.stop_node(n)

    def api(self, n, timeout=30.0):
        return Http(self.http[n], self.key, timeout)

    def leader(self):
        """The leader's id, as a node sees it that is asked to prove it."""

        def ask():
            for n in self.ids:
                if self.process[n].poll() is not None:
                    continue
                web = self.api(n, timeout=3.0)
                try:
                    return web.json("GET", "/v1/cluster")["leader"]
                except (*Failure, RuntimeError):
                    continue
                finally:
                    web.close()
            return None

        return wait_for("there is a leader", ask)

    def caught_up(self, n):
        """Whether node `n` has about all that the leader has."""
        try:
            seen = self.api(self.leader(), 3.0).json("GET", "/v1/cluster")["nodes"]
        except (*Failure, RuntimeError):
            return False
        applied = {node["id"]: node["applied"] or 0 for node in seen}
        return applied[n] > 0 and applied[n] + 50 >= max(applied.values())

    def deploy(self, name, spec):
        return self.api(1).json("PUT", f"/v1/functions/{name}", spec)

    def instances(self, function):
        """The function's live instances."""
        found = self.api(1).json("GET", f"/v1/instances?function={function}")
        return [i for i in found if i["phase"] in ("placed", "starting", "ready", "draining")]

    def _all_joined(self):
        try:
            nodes = self.api(1).json("GET", "/v1/cluster")["nodes"]
        except (*Failure, RuntimeError):
            return False
        return [node["condition"] for node in nodes] == ["ready"] * len(self.ids)

    def _remove_containers(self):
        self.stop()
        docker.remove_labelled(f"muster.cluster={self.cluster_id}")

    def _config(self, n):
        lines = [
            f"node_id = {n}",
            f'data_dir = "{self.dir}/node{n}"',
            f'[http]\nlisten = "{self.http[n]}"',
            f'[peer]\nlisten = "{self.peer[n]}"\nsecret_file = "{self.dir}/peer.secret"',
            f'[engine]\nkind = "{self.engine}"',
            self.extra,
        ]
        if n == 1:
            members = ", ".join(
                f'{{ id = {m}, http = "{self.http[m]}", peer = "{self.peer[m]}" }}' for m in self.ids
            )
            lines.append(f'[bootstrap]\nmembers = [{members}]\nroot_key_file = "{self.dir}/root.key"')
        return "\n".join(lines) + "\n"
