"""A cluster of `stave serve` nodes for the tools: on loopback, or in network namespaces of its own.

In namespaces each node has an address and a cable to a bridge; what one sends to another can be cut
one way or both (a blackhole route in the sender's namespace) while clients reach every node. All of
it goes with the tool that made it.
"""

import itertools
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from served import BINARY, TARGET, Client, ReplyError

PASSING = ("CLUSTERDOWN", "TRYAGAIN")  # Nothing was done: ask again.


def run(*line):
    subprocess.run(line, check=True, capture_output=True)


PORTS = (10_000 + pair % 11_000 * 2 for pair in itertools.count(os.getpid() * 97))


def is_free(port):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def ports(count):
    """`count` free ports of which each has a free one behind it, below those that the kernel hands out:
    nobody gets one by chance while its node is dead."""
    free = (port for port in PORTS if is_free(port) and is_free(port + 1))
    return list(itertools.islice(free, count))


class Namespaces:
    """A namespace for each node, cabled to a bridge that this process is on."""

    def __init__(self, count):
        self.tag = f"st{os.getpid() % 100_000}"
        self.net = f"10.{64 + os.getpid() % 60}.{os.getpid() // 60 % 250}"
        self.cut_now, self.names = set(), [f"{self.tag}n{n}" for n in range(count)]
        run("ip", "link", "add", f"{self.tag}br", "type", "bridge")
        run("ip", "link", "set", f"{self.tag}br", "up")
        run("ip", "addr", "add", f"{self.net}.254/24", "dev", f"{self.tag}br")
        for n, name in enumerate(self.names):
            run("ip", "netns", "add", name)
            run("ip", "link", "add", f"{self.tag}v{n}", "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "link", "set", f"{self.tag}v{n}", "master", f"{self.tag}br", "up")
            run("ip", "-n", name, "addr", "add", f"{self.addr(n)}/24", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "-n", name, "link", "set", "eth0", "up")

    @staticmethod
    def are_allowed():
        name = f"st{os.getpid() % 100_000}try"
        try:
            run("ip", "netns", "add", name)
            run("ip", "link", "add", f"{name}v", "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "-n", name, "route", "add", "blackhole", "192.0.2.1/32")
            return True
        except (OSError, subprocess.CalledProcessError):
            return False
        finally:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    def addr(self, node):
        return f"{self.net}.{node + 1}"

    def cut(self, sender, receiver):
        """What one node sends to another is lost from now on."""
        if (sender, receiver) not in self.cut_now:
            run("ip", "-n", self.names[sender], "route", "add", "blackhole", f"{self.addr(receiver)}/32")
            self.cut_now.add((sender, receiver))

    def heal(self):
        for sender, receiver in self.cut_now:
            run("ip", "-n", self.names[sender], "route", "del", "blackhole", f"{self.addr(receiver)}/32")
        self.cut_now.clear()

    def remove(self):
        for n, name in enumerate(self.names):
            subprocess.run(["ip", "link", "del", f"{self.tag}v{n}"], capture_output=True)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        subprocess.run(["ip", "link", "del", f"{self.tag}br"], capture_output=True)


class Node:
    """One of them, which can be killed and started again."""

    def __init__(self, cluster, number):
        self.cluster, self.number, self.process = cluster, number, None
        self.dir = cluster.dir / str(number + 1)
        self.dir.mkdir()
        spaces = cluster.spaces
        self.host = spaces.addr(number) if spaces else "127.0.0.1"
        self.port = 6379 if spaces else ports(1)[0]
        self.line = [str(cluster.binary), "serve", "--data-dir", str(self.dir / "data"), "--cores", str(cluster.cores),
                     "--memory", cluster.memory, "--initial-cluster", cluster.members, "--node-id", str(number + 1),
                     "--resp-port", str(self.port), "--binary-port", "0", "--shard-port-base", "0",
                     "--bind", self.host, "--log-level", cluster.level, "--ready-file", str(self.dir / "ready"), *cluster.flags]
        if spaces:
            self.line = ["ip", "netns", "exec", spaces.names[number], *self.line, "--insecure"]
        if shutil.which("setpriv"):
            # Ends with us, also when we are killed.
            self.line = ["setpriv", "--pdeathsig", "KILL", *self.line]

    def start(self):
        """Starts it; it serves a moment later."""
        (self.dir / "ready").unlink(missing_ok=True)
        env = {name: value for name, value in os.environ.items() if not name.startswith("STAVE_")}
        with open(self.dir / "log", "a") as log:
            self.process = subprocess.Popen(self.line, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait(self, seconds=60):
        """Waits until it listens."""
        end = time.monotonic() + seconds
        ready = self.dir / "ready"
        while not (ready.exists() and ready.read_text().endswith("\n")):
            if self.process.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"node {self.number + 1} did not start:\n" + self.log()[-4000:])
            time.sleep(0.005)
        self.pid = json.loads(ready.read_text())["pid"]

    def is_up(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        self.process.kill()
        self.process.wait()

    def signal(self, number):
        os.kill(self.pid, number)

    def log(self):
        return (self.dir / "log").read_text(errors="replace")

    def connect(self, timeout=10):
        return Client(self.port, timeout, host=self.host)

    def cpu_seconds(self):
        """Time on a core of all threads."""
        tasks = pathlib.Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


class Cluster:
    """Nodes numbered from 0, started and serving."""

    def __init__(self, count=3, cores=1, memory="512MiB", binary=None, flags=(), namespaces=False, name="cluster", level="warn"):
        TARGET.mkdir(parents=True, exist_ok=True)
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix=f"stave-{name}-", dir=TARGET))
        self.cores, self.memory, self.binary, self.flags, self.level = cores, memory, binary or BINARY, flags, level
        self.spaces, self.nodes = None, []
        try:
            self.spaces = Namespaces(count) if namespaces else None
            peers = [(self.spaces.addr(n), 7401) for n in range(count)] if namespaces else [("127.0.0.1", p) for p in ports(count)]
            self.members = ",".join(f"{host}:{port}" for host, port in peers)
            self.nodes = [Node(self, number) for number in range(count)]
            self.start()
        except BaseException:
            self.remove()
            raise

    def start(self):
        """Starts all that are down and waits until they serve; seconds until they did."""
        begin, down = time.monotonic(), [node for node in self.nodes if not node.is_up()]
        for node in down:
            node.start()
        for node in down:
            node.wait()
        for node in self.nodes:
            self.wait_for_service(node)
        return time.monotonic() - begin

    def wait_for_service(self, node, seconds=60):
        """Until keys of all partitions are answered over a node."""
        client, end = node.connect(30), time.monotonic() + seconds
        for n in range(128):
            while True:
                try:
                    client.run(b"GET", b"warm:%d" % n)
                    break
                except ReplyError as error:
                    if time.monotonic() > end or not str(error).startswith(PASSING):
                        raise SystemExit(f"node {node.number + 1} does not serve: {error}") from error
                    time.sleep(0.02)
        client.close()

    def remove(self):
        for node in self.nodes:
            if node.is_up():
                if getattr(node, "pid", None):
                    try:
                        os.kill(node.pid, signal.SIGCONT)
                    except ProcessLookupError:
                        pass
                node.kill()
        if self.spaces:
            self.spaces.remove()
        shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove()
