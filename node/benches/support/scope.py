"""A benchmark's processes, files and containers, all gone when it ends, however it ends."""

import contextlib
import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
# On a machine that others use: gives what is measured precedence, from -20 to 19. Needs root.
NICE = os.environ.get("BENCH_NICE")
# Below the ports the kernel gives to outgoing connections, so that none is taken meanwhile.
PORTS = range(20_000, 31_000)
STOP_SECS = 20


class Scope(contextlib.ExitStack):
    """A temporary directory, and whatever was started in it. To be used as a context manager."""

    def __enter__(self):
        super().__enter__()
        # A terminated benchmark cleans up like one that ended: the exception unwinds the stack.
        signal.signal(signal.SIGTERM, lambda *_: raise_exit())
        take_precedence()
        base = os.environ.get("BENCH_DIR", tempfile.gettempdir())
        self.dir = Path(tempfile.mkdtemp(prefix="muster-bench-", dir=base))
        self.callback(shutil.rmtree, self.dir, ignore_errors=True)
        self._ports = set()
        return self

    def start(self, name, command, **options):
        """Starts a process whose output goes to a file; it is stopped when the scope ends."""
        log = open(self.dir / f"{name}.log", "ab")
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=prepare_child,
            **options,
        )
        log.close()
        self.callback(stop, process)
        return process

    def port(self):
        """A free port that this scope has not given out yet."""
        for _ in range(1000):
            port = random.choice(PORTS)
            if port in self._ports:
                continue
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            self._ports.add(port)
            return port
        raise RuntimeError("no free port")

    def log_tail(self, name, lines=20):
        text = (self.dir / f"{name}.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])


def raise_exit():
    raise SystemExit("terminated")


def prepare_child():
    # A benchmark that is killed must not leave a cluster behind.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    take_precedence()


def take_precedence():
    """Linux weighs sessions against each other first, where it groups by session, then processes."""
    if NICE is None:
        return
    os.setpriority(os.PRIO_PROCESS, 0, int(NICE))
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as group:
        group.write(NICE)


def stop(process):
    """SIGTERM, then SIGKILL; nothing if it has ended."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def kill(process):
    process.kill()
    process.wait()


def wait_for(what, condition, secs=60.0, every=0.02):
    """Polls until `condition()` is true and returns what it gave; fails after `secs`."""
    deadline = time.monotonic() + secs
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise TimeoutError(f"waited {secs} s in vain until {what}")
        time.sleep(every)
