"""What the tools share: a server of their own, a small client, a probe that measures latency.

The server listens on free loopback ports, keeps its data in a directory of its own below the target
directory (direct I/O wants a real disk) and dies with the tool that started it.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
BINARY = pathlib.Path(os.environ.get("STAVE_BIN") or TARGET / "release/stave")


def encode(*args):
    """A command as RESP."""
    out = bytearray(b"*%d\r\n" % len(args))
    for arg in args:
        out += b"$%d\r\n%s\r\n" % (len(arg), arg)
    return bytes(out)


class ReplyError(RuntimeError):
    """An error reply."""


class Client:
    """Just enough RESP to pipeline and read replies."""

    def __init__(self, port, timeout=20, receive_buffer=None, host="127.0.0.1"):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.connect((host, port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer, self.at = b"", 0

    def send(self, commands):
        self.socket.sendall(b"".join(encode(*command) for command in commands))

    def run(self, *command):
        self.send([command])
        return self.reply()

    def more(self):
        chunk = self.socket.recv(1 << 20)
        if not chunk:
            raise ConnectionError("closed by the server")
        self.buffer, self.at = self.buffer[self.at :] + chunk, 0

    def line(self):
        while (end := self.buffer.find(b"\r\n", self.at)) < 0:
            self.more()
        line, self.at = self.buffer[self.at : end], end + 2
        return line

    def bulk(self, length):
        parts, missing = [self.buffer[self.at : self.at + length + 2]], 0
        self.at += len(parts[0])
        missing = length + 2 - len(parts[0])
        while missing:
            part = self.socket.recv(min(missing, 1 << 20))
            if not part:
                raise ConnectionError("closed by the server")
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)[:-2] if len(parts) > 1 else parts[0][:-2]

    def reply(self):
        """A reply; an error reply is raised."""
        line = self.line()
        kind, rest = line[:1], line[1:]
        if kind == b"$":
            return None if rest == b"-1" else self.bulk(int(rest))
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        if kind == b":":
            return int(rest)
        if kind == b"-":
            raise ReplyError(rest.decode())
        return rest

    def close(self):
        self.socket.close()


class Server:
    """`stave serve` in a directory that goes with it."""

    def __init__(self, flags=(), cores=1, memory="4GiB", binary=None, name="tool"):
        TARGET.mkdir(parents=True, exist_ok=True)
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=f"stave-{name}-", dir=TARGET))
        self.line = [str(binary or BINARY), "serve", "--data-dir", str(self.dir / "data"), "--resp-port", "0",
                     "--binary-port", "0", "--shard-port-base", "0", "--cores", str(cores), "--ready-file", str(self.dir / "ready"),
                     "--log-level", "warn", "--memory", memory, *flags]
        if shutil.which("setpriv"):
            # Ends with us, also when we are killed.
            self.line = ["setpriv", "--pdeathsig", "KILL", *self.line]
        self.process = None
        self.start()

    def start(self):
        """Starts it and waits until it serves; seconds that took."""
        ready = self.dir / "ready"
        ready.unlink(missing_ok=True)
        begin = time.monotonic()
        # Of our variables only this one: all servers of a test run are of one runtime.
        ours = lambda name: name.startswith("STAVE_") and name != "STAVE_RUNTIME"
        env = {name: value for name, value in os.environ.items() if not ours(name)}
        with open(self.dir / "log", "a") as log:
            self.process = subprocess.Popen(self.line, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while not (ready.exists() and (text := ready.read_text()).endswith("\n")):
            if self.process.poll() is not None or time.monotonic() - begin > 120:
                self.kill()
                raise SystemExit("the server did not start:\n" + self.log()[-4000:])
            time.sleep(0.002)
        took = time.monotonic() - begin
        self.port = json.loads(text)["resp_port"]
        self.binary_port = json.loads(text)["binary_port"]
        return took

    def log(self):
        return (self.dir / "log").read_text(errors="replace")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        """Ends it as an operator would; its exit code, None if it had to be killed."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def remove(self):
        if self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove()

    def rss_mib(self):
        for line in open(f"/proc/{self.process.pid}/status"):
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        return 0.0

    def cpu_seconds(self):
        """Time on a core of all threads, to the nanosecond."""
        tasks = pathlib.Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def fill(port, count, value_len=100):
    """Exactly `count` keys."""
    client, value = Client(port, 60), b"v" * value_len
    for first in range(0, count, 1000):
        batch = range(first, min(first + 1000, count))
        client.send([(b"SET", b"fill:%09d" % n, value) for n in batch])
        for _ in batch:
            client.reply()
    client.close()


class Probe(threading.Thread):
    """A well-behaved client: SET and GET in turn at a fixed pace. What it met is in `ms`, `wrong`.

    Requests that a late reply kept from being sent count too, from when they were due until that
    reply: a second of silence is not one bad request out of many.
    """

    def __init__(self, port, per_second=500):
        super().__init__(daemon=True)
        self.client, self.pause = Client(port, 60), 1 / per_second
        self.ms, self.wrong, self.stopped = [], [], threading.Event()

    def once(self, n):
        """A request and whether its reply was right."""
        if n % 2:
            return self.client.run(b"SET", b"probe", b"%d" % n) == b"OK"
        return self.client.run(b"GET", b"probe") == b"%d" % (n - 1)

    def run(self):
        due, n = time.monotonic(), 0
        while not self.stopped.is_set():
            due, n = due + self.pause, n + 1
            time.sleep(max(0, due - time.monotonic()))
            begin = time.monotonic()
            try:
                if not self.once(n):
                    self.wrong.append(n)
            except (OSError, ReplyError) as error:
                self.wrong.append(str(error))
                return
            end = time.monotonic()
            self.ms.append((end - begin) * 1e3)
            while due + self.pause < end:
                due += self.pause
                self.ms.append((end - due) * 1e3)

    def end(self):
        """Ends it; p50, p99 and the longest, ms."""
        self.stopped.set()
        self.join()
        self.client.close()
        ms = sorted(self.ms) or [float("nan")]
        return ms[len(ms) // 2], ms[min(len(ms) - 1, len(ms) * 99 // 100)], ms[-1]
