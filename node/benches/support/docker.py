"""The few Docker Engine calls that are needed, over its socket, without the weight of the CLI."""

import http.client
import json
import os
import socket
import urllib.parse

SOCKET = os.environ.get("DOCKER_SOCKET", "/var/run/docker.sock")


class _Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(120)
        self.sock.connect(SOCKET)


class Docker:
    def __init__(self):
        self.connection = _Connection("docker")

    def call(self, method, path, body=None, missing_ok=False):
        payload = None if body is None else json.dumps(body)
        self.connection.request(method, path, payload, {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        raw = answer.read()
        if answer.status == 404 and missing_ok:
            return None
        if answer.status >= 400:
            raise RuntimeError(f"docker: {method} {path}: {answer.status} {raw[:300]!r}")
        return json.loads(raw) if raw.strip() else None


def available(image=None):
    """Whether an engine answers and, if asked, has the image."""
    try:
        return image is None or Docker().call("GET", f"/images/{image}/json", missing_ok=True) is not None
    except (OSError, http.client.HTTPException):
        return False


def remove_labelled(label):
    """Removes every container and network with a label."""
    docker = Docker()
    filters = urllib.parse.quote(json.dumps({"label": [label]}))
    for container in docker.call("GET", f"/containers/json?all=true&filters={filters}"):
        docker.call("DELETE", f"/containers/{container['Id']}?force=true&v=true", missing_ok=True)
    for network in docker.call("GET", f"/networks?filters={filters}"):
        docker.call("DELETE", f"/networks/{network['Id']}", missing_ok=True)
