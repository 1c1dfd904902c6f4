"""Types into `stave repl` in a terminal of its own: repl.py BINARY SERVER HISTORY PID.

Each step types something and waits for what must appear. Exits with 1 and all that was seen if it
does not within 20 s.
"""

import os
import pty
import re
import select
import signal
import sys
import time


class Terminal:
    """The repl in a pseudo terminal."""

    def __init__(self, binary, server, history):
        self.seen, self.at, self.prompt = "", 0, f"{server}> "
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm", STAVE_SERVER=server, COLUMNS="200")
            os.execv(binary, [binary, "repl", "--history", history])

    def expect(self, text):
        """Waits for `text` behind what was waited for before."""
        deadline = time.monotonic() + 20
        while (found := self.plain().find(text, self.at)) < 0:
            ready, _, _ = select.select([self.fd], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                sys.exit(f"{text!r} did not come in:\n{self.plain()[self.at:]!r}\nafter:\n{self.plain()[:self.at]}")
            try:
                self.seen += os.read(self.fd, 65536).decode(errors="replace")
            except OSError:
                sys.exit(f"it ended before {text!r} came:\n{self.plain()}")
        self.at = found + len(text)

    def plain(self):
        """What was seen without the terminal's control sequences."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]", "", self.seen)

    def type(self, text):
        os.write(self.fd, text.encode())

    def line(self, text):
        """Types a line once the prompt is there: before, Ctrl-C would be a signal."""
        self.expect(self.prompt)
        self.type(text)

    def end(self):
        """Its exit code."""
        try:
            while os.read(self.fd, 65536):
                pass
        except OSError:
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def first(binary, server, history):
    """Commands, editing, completion and help; remembers lines but those that begin with a space."""
    repl = Terminal(binary, server, history)
    repl.line("set greeting hello\r")
    repl.expect("created, version ")
    repl.line("get greetinq\x7fg\r")
    repl.expect("\nhello")
    repl.line("sc\t--pr\tgree\r")
    repl.expect("scan --prefix ")
    repl.expect("\ngreeting")
    repl.line('set "a\\x00b" "two words"\r')
    repl.expect("created, version ")
    repl.line("scan --values\r")
    repl.expect('"a\\x00b"')
    repl.expect('"two words"')
    repl.line("help\r")
    for command in ["get", "set", "del", "scan", "info", "ping", "exit"]:
        repl.expect(command)
    repl.line("help set\r")
    repl.expect("Usage: set")
    repl.expect("--ttl")
    repl.line("frobnicate\r")
    repl.expect("unrecognized subcommand")
    repl.line("set k -\r")
    repl.expect("type the value")
    repl.line(" set k secret\r")
    repl.expect("created, version ")
    repl.line("abandoned")
    repl.expect("abandoned")
    repl.type("\x03")
    repl.line("ping\r")
    repl.expect(" us")
    repl.line("\x04")
    assert repl.end() == 0


def second(binary, server, history):
    """Another one knows the lines of the first."""
    repl = Terminal(binary, server, history)
    repl.line("\x1b[A")
    repl.expect("ping")
    repl.type("\x15\x12greetin")
    repl.expect("get greeting")
    repl.type("\r")
    repl.expect("\nhello")
    repl.line("exit\r")
    assert repl.end() == 0


def stop(pid):
    """Stops a process, and waits until all its threads have: on a busy machine that takes a while."""
    os.kill(pid, signal.SIGSTOP)
    threads = [f"/proc/{pid}/task/{thread}/stat" for thread in os.listdir(f"/proc/{pid}/task")]
    while any(open(stat).read().rsplit(") ", 1)[1][0] != "T" for stat in threads):
        time.sleep(0.01)


def third(binary, server, history, pid):
    """Ctrl-C ends a request that is not answered, and the next one is answered."""
    repl = Terminal(binary, server, history)
    repl.line("get greeting\r")
    repl.expect("\nhello")
    for line, fate in [("get greeting\r", "stave: interrupted"), ("set k v\r", "unknown whether it was done: interrupted")]:
        stop(pid)
        try:
            begin = time.monotonic()
            repl.line(line)
            time.sleep(0.5)
            repl.type("\x03")
            repl.expect(fate)
            assert time.monotonic() - begin < 4, "that was the deadline"
        finally:
            os.kill(pid, signal.SIGCONT)
        repl.line("get greeting\r")
        repl.expect("\nhello")
    repl.line("\x04")
    assert repl.end() == 0


words = sys.argv[1:4]
first(*words)
second(*words)
third(*words, int(sys.argv[4]))
