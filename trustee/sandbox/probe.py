"""Probing the isolation: tools that try what no tool may do, run in the sandbox itself.

That the kernel offers a lock does not prove that it works, so every kind of denial is tried, and
whatever is not refused is reported.
"""

from __future__ import annotations

import os
from pathlib import Path

from trustee.errors import InputError
from trustee.sandbox.calls import Isolation, SandboxConfig
from trustee.sandbox.host import ProcessSandbox
from trustee.types import Record

ATTEMPTS = {
    "read_a_file": "open(OWN_FILE).close()",
    "write_a_file": "os.close(os.open(os.devnull, os.O_WRONLY))",
    "list_processes": "os.listdir('/proc/1')",
    "read_the_hosts_environment": "open('/proc/HOST/environ', 'rb').read(1)",
    "read_the_hosts_memory": "open('/proc/HOST/mem', 'rb').close()",
    "open_a_socket": "socket.socket().close()",
    "open_a_local_socket": "socket.socket(socket.AF_UNIX).close()",
    "start_a_program": "os.posix_spawn(sys.executable, [sys.executable, '-c', ''], {})",
    "start_a_thread": "threading.Thread(target=int).start()",
    "signal_the_host": "os.kill(HOST, 0)",
    "trace_a_process": "assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0",
    "see_the_environment": "assert os.environ",
    "open_a_mere_path": "os.close(os.open(OWN_FILE, os.O_PATH))",
    "ask_whether_a_file_exists": "assert os.access(OWN_FILE, os.F_OK)",
    "name_the_machine": "assert ctypes.CDLL(None).uname(ctypes.create_string_buffer(1024)) == 0",
}
"""Forbidden actions by name, each a statement that raises an error if it is refused."""
VISIBLE = {"metadata": "os.stat(OWN_FILE)"}
"""What a lock may leave visible, see docs/sandbox.md; only bubblewrap hides it."""


class IsolationReport(Record, frozen=True):
    """Which attempts were refused."""

    isolation: Isolation | None
    """The isolation in use; None if tools with code cannot be run at all."""
    refused: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    """Attempts that succeeded; a lock that works leaves none."""
    visible: tuple[str, ...] = ()
    """What can be seen although nothing forbidden was possible."""
    why: str = ""
    """What is missing if no isolation works."""

    @property
    def holds(self) -> bool:
        """Whether every attempt was refused."""
        return self.isolation is not None and not self.allowed


async def probe_isolation(isolation: Isolation = "auto") -> IsolationReport:
    """Make every forbidden attempt in a worker and return which were refused."""
    tools = {
        name: f"import ctypes, os, socket, sys, threading\ndef {name}():\n    "
        + body.replace("HOST", str(os.getpid())).replace("OWN_FILE", repr(str(Path(__file__))))
        for name, body in (ATTEMPTS | VISIBLE).items()
    }
    refused: list[str] = []
    allowed: list[str] = []
    visible: list[str] = []
    try:
        async with (
            ProcessSandbox(SandboxConfig(isolation=isolation), report=ignore) as sandbox,
            sandbox.open(tools, seed=0) as worker,
        ):
            for name in tools:
                outcome = await worker.call(name, {})
                if name not in VISIBLE:
                    (allowed if outcome.ok else refused).append(name)
                elif outcome.ok:
                    visible.append(name)
            return IsolationReport(
                isolation=sandbox.isolation,
                refused=tuple(refused),
                allowed=tuple(allowed),
                visible=tuple(visible),
            )
    except InputError as error:
        return IsolationReport(isolation=None, why=str(error))


def ignore(tool: str, breach: str, why: str) -> None:
    """Do not log these breaches, which are provoked on purpose."""
