"""An etcd cluster on this machine, spoken to over its JSON gateway."""

import base64
import shutil

from .scope import kill, wait_for
from .web import Failure, Http, answers


class Etcd:
    """Default settings, unless heartbeat and election time are given (milliseconds)."""

    def __init__(self, scope, nodes=3, heartbeat_ms=100, election_ms=1000, name="etcd"):
        self.scope, self.name = scope, name
        self.timing = [f"--heartbeat-interval={heartbeat_ms}", f"--election-timeout={election_ms}"]
        self.program = shutil.which("etcd")
        if not self.program:
            raise FileNotFoundError("etcd is not installed (Debian: etcd-server)")
        self.ids = list(range(1, nodes + 1))
        self.http = {n: f"127.0.0.1:{scope.port()}" for n in self.ids}
        self.peer = {n: f"127.0.0.1:{scope.port()}" for n in self.ids}
        self.process = {}

    def start(self):
        for n in self.ids:
            self.start_node(n)
        for n in self.ids:
            self.wait_ready(n)
        return self

    def start_node(self, n):
        members = ",".join(f"{self.name}{m}=http://{self.peer[m]}" for m in self.ids)
        self.process[n] = self.scope.start(
            f"{self.name}{n}",
            [
                self.program,
                f"--name={self.name}{n}",
                f"--data-dir={self.scope.dir}/{self.name}{n}",
                f"--listen-client-urls=http://{self.http[n]}",
                f"--advertise-client-urls=http://{self.http[n]}",
                f"--listen-peer-urls=http://{self.peer[n]}",
                f"--initial-advertise-peer-urls=http://{self.peer[n]}",
                f"--initial-cluster={members}",
                *self.timing,
            ],
        )

    def wait_ready(self, n):
        # etcd's /health proves a quorum, as Muster's /readyz does.
        wait_for(f"etcd {n} is healthy", lambda: answers(self.http[n], "/health"))

    def kill_node(self, n):
        kill(self.process[n])

    def leader(self):
        def ask():
            for n in self.ids:
                status = self._status(n)
                if status and status.get("leader") == status["header"]["member_id"]:
                    return n
            return None

        return wait_for("etcd has a leader", ask)

    def caught_up(self, n):
        statuses = {m: self._status(m) for m in self.ids}
        if not all(statuses.values()):
            return False
        index = {m: int(status["raftAppliedIndex"]) for m, status in statuses.items()}
        return index[n] + 50 >= max(index.values())

    def _status(self, n):
        if self.process[n].poll() is not None:
            return None
        try:
            return Http(self.http[n], timeout=3.0).json("POST", "/v3/maintenance/status", {})
        except (*Failure, RuntimeError):
            return None


def put_body(key, value):
    """The body of a put, as the gateway wants it."""
    text = lambda raw: base64.b64encode(raw.encode()).decode()
    return {"key": text(key), "value": text(value)}
