"""HTTP calls for set-up and for single timed requests."""

import http.client
import json

Failure = (OSError, http.client.HTTPException)


class Http:
    """One keep-alive connection, opened again when it breaks. Answers are (status, headers, body)."""

    def __init__(self, address, key=None, timeout=30.0):
        self.address, self.key, self.timeout = address, key, timeout
        self.connection = None

    def call(self, method, path, body=None):
        payload = None if body is None else (body if isinstance(body, bytes) else json.dumps(body).encode())
        headers = {"Content-Type": "application/json"} if payload else {}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        if self.connection is None:
            self.connection = http.client.HTTPConnection(self.address, timeout=self.timeout)
        try:
            self.connection.request(method, path, body=payload, headers=headers)
            answer = self.connection.getresponse()
            return answer.status, answer.headers, answer.read()
        except Failure:
            self.close()
            raise

    def json(self, method, path, body=None):
        """The decoded answer; raises unless the status is 2xx."""
        status, _, raw = self.call(method, path, body)
        if not 200 <= status < 300:
            raise RuntimeError(f"{method} {path}: {status} {raw[:300]!r}")
        return json.loads(raw) if raw.strip() else None

    def close(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def answers(address, path):
    """Whether a GET there answers 200 now."""
    web = Http(address, timeout=2.0)
    try:
        return web.call("GET", path)[0] == 200
    except Failure:
        return False
    finally:
        web.close()
