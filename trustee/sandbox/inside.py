"""What a worker does before it is locked in, and what each forked call does to itself and runs.

Loaded by `worker.py` from the file beside it, and like it made of the standard library alone. After
`Tools.lock` nothing here is trusted: a tool can rewrite all of it, in a process that can no longer
reach anything and whose end the worker awaits.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import resource
import signal
import struct
import sys
import time
from collections.abc import Callable
from types import CodeType
from typing import Any, NamedTuple

PRELOADED = """
base64 bisect calendar collections contextlib copy csv dataclasses datetime decimal difflib enum
fractions functools hashlib heapq hmac html inspect io itertools locale math numbers operator pprint
random re secrets statistics string textwrap traceback types typing unicodedata urllib.parse uuid
zoneinfo
"""
"""What tools import: loaded before the worker is locked in, so that calls find it ready."""
YEAR_BEGINS = 1735689600
YEAR = 365 * 86400
NS = 1_000_000_000
TICK_NS = 1_000_000
"""How far the clock goes on with each look at it."""
LONGEST_ERROR = 500
DESCRIPTORS = 32
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 22, 38
SECCOMP_MODE_FILTER = 2
CAPABILITY_VERSION = 0x20080522
DENIED_EVENTS = """
os.chmod os.chown os.exec os.fork os.kill os.link os.mkdir os.posix_spawn os.remove os.rename
os.rmdir os.spawn os.symlink os.system os.truncate pty.spawn resource.prlimit resource.setrlimit
signal.pthread_kill socket. subprocess.
"""
"""Beginnings of the interpreter's audit events that only a tool out of bounds raises."""
PATH_EVENTS = ("open", "os.listdir", "os.scandir")

ANSWER = struct.Struct(">cII")
"""What a call writes: kind, bytes of what it was denied, bytes of its text; then both."""

leave = os._exit


class Contained:
    """Keeps whatever its block raises, a `SystemExit` too."""

    error: BaseException | None = None

    def __enter__(self) -> Contained:
        """Begin."""
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        """Keep the error."""
        self.error = error
        return True


class Clock:
    """A clock that starts where the seed says and goes on only when it is looked at or slept on."""

    def __init__(self) -> None:
        self._ns = 0
        self._start = 0

    def set(self, seed: int) -> None:
        """Start at a second of the year 2025."""
        self._ns = self._start = (YEAR_BEGINS + seed % YEAR) * NS

    def time_ns(self) -> int:
        """Tell the time and go on by one tick."""
        self._ns += TICK_NS
        return self._ns

    def elapsed_ns(self) -> int:
        """Tell the time since the call began and go on by one tick."""
        return self.time_ns() - self._start

    def sleep(self, seconds: float) -> None:
        """Go on without waiting."""
        if seconds < 0:
            raise ValueError("sleep length must be non-negative")
        self._ns += int(seconds * NS)

    def install(self) -> None:
        """Take the place of the real clock in `time`."""
        module: Any = time
        module.time_ns, module.sleep = self.time_ns, self.sleep
        module.time = lambda: self.time_ns() / NS
        for name in ("monotonic", "perf_counter", "process_time", "thread_time"):
            setattr(module, f"{name}_ns", self.elapsed_ns)
            setattr(module, name, lambda: self.elapsed_ns() / NS)
        module.clock_gettime_ns = lambda _: self.time_ns()
        module.clock_gettime = lambda _: self.time_ns() / NS
        for name in ("localtime", "gmtime", "ctime"):
            setattr(module, name, self._of_now(getattr(module, name)))
        strftime, asctime = module.strftime, module.asctime
        module.strftime = lambda form, at=None: strftime(form, at or module.localtime())
        module.asctime = lambda at=None: asctime(at or module.localtime())

    def _of_now(self, real: Callable[[float], Any]) -> Callable[..., Any]:
        """Let a function of a time take this clock's where it is given none."""
        return lambda at=None: real(self.time_ns() / NS if at is None else at)


class Start(NamedTuple):
    """The first frame: what to run and within which limits."""

    sources: dict[str, str]
    published: bool
    library: str
    """Folder of the Landlock library; empty where something else locks the worker in."""
    readable: list[str]
    filter: str
    """The seccomp program, in hexadecimal; empty for none."""
    seconds: float
    cpu_seconds: int
    memory_bytes: int
    output_bytes: int


class CallFrame(NamedTuple):
    """A later frame: one call."""

    id: int
    seed: int
    name: str
    arguments: str
    """JSON of an object; read where it can do no harm."""


class Forked(NamedTuple):
    """What the fork of a call starts from."""

    call: CallFrame
    pipe: int


class Tools:
    """The compiled tools, and the lock that each call puts on itself."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self.null = os.open(os.devnull, os.O_RDWR)
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.filter = bytes.fromhex(start.filter)
        self.codes: dict[str, CodeType | BaseException] = {}
        """By tool; the error where the source does not compile."""
        self.clock = Clock()
        self.entropy = random.Random()
        self.held_bytes = read_address_space()

    def prepare(self) -> None:
        """Load, lock in, compile.

        Raises:
            OSError: if the kernel refuses to lock this process in.
        """
        for name in PRELOADED.split():
            __import__(name)
        fill_finders()
        self.clock.install()
        os.urandom = self.entropy.randbytes
        random._urandom = self.entropy.randbytes  # type: ignore[attr-defined]
        if self.start.library:
            confine(self.start.library, self.start.readable)
        self._give_up_powers()
        for name, source in self.start.sources.items():
            with Contained() as tried:
                self.codes[name] = compile(source, f"<{name}>", "exec", dont_inherit=True)
            if tried.error is not None:
                self.codes[name] = tried.error

    def _give_up_powers(self) -> None:
        """Drop every capability, and the right to gain any."""
        if self.libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "no_new_privs")
        header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
        if self.libc.capset(header, (ctypes.c_uint32 * 6)()):
            raise OSError(ctypes.get_errno(), "capset")

    def lock(self, pipe: int) -> None:
        """Take everything from this fork but its memory, its pipe and its time."""
        self.libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        for stream in range(3):
            os.dup2(self.null, stream)
        os.closerange(3, pipe)
        os.closerange(pipe + 1, pipe + 4096)
        cpu = self.start.cpu_seconds
        for kind, soft, hard in (
            (resource.RLIMIT_CPU, cpu, cpu + 1),
            (resource.RLIMIT_AS, *2 * (self.held_bytes + self.start.memory_bytes,)),
            (resource.RLIMIT_FSIZE, 0, 0),
            (resource.RLIMIT_CORE, 0, 0),
            (resource.RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS),
            (resource.RLIMIT_NPROC, 0, 0),
        ):
            resource.setrlimit(kind, (soft, hard))
        if self.filter:
            buffer = ctypes.create_string_buffer(self.filter, len(self.filter))
            program = struct.pack("@HP", len(self.filter) // 8, ctypes.addressof(buffer))
            if self.libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0):
                raise OSError(ctypes.get_errno(), "seccomp")

    def run(self, call: CallFrame) -> bytes:
        """Run one call and give its result as text in UTF-8."""
        self.clock.set(call.seed)
        self.entropy.seed(call.seed)
        random.seed(call.seed)
        code = self.codes[call.name]
        if not isinstance(code, CodeType):
            raise code
        visible: dict[str, Any] = {"__name__": "tool", "__builtins__": __builtins__}
        own: dict[str, Any] = visible
        if self.start.published:
            from copy import deepcopy
            from hashlib import sha256

            visible |= {"json": json, "sleep": time.sleep, "sha256": sha256, "deepcopy": deepcopy}
            own = {}
        exec(code, visible, own)
        if call.name not in own:
            raise NameError(f"name {call.name} is not defined")
        value = own[call.name](**json.loads(call.arguments))
        exact = type(value) in (dict, list)
        if exact or (not self.start.published and isinstance(value, dict | list)):
            value = json.dumps(value, ensure_ascii=False)
        return str.encode(str(value), "utf-8", "backslashreplace")

    def answer(self, forked: Forked) -> None:
        """Run a forked call, write what came of it, and end."""
        self.lock(forked.pipe)
        denied: list[str] = []
        if self.filter:
            watch(denied, (sys.prefix, sys.base_prefix, *self.start.readable))
        kind, body = b"+", b""
        with Contained() as tried:
            body = self.run(forked.call)
        error = tried.error
        if error is not None:
            kind, body = b"-", b""
            if issubclass(type(error), MemoryError):
                # Its traceback holds the frames, and they hold what filled the memory.
                error.__traceback__ = None
                tried.error = error = None
                kind = b"m"
            else:
                body = describe_error(error).encode("utf-8", "backslashreplace")
                with Contained():
                    if error.errno in (errno.EPERM, errno.EACCES):  # type: ignore[attr-defined]
                        denied.append(body.decode())
        elif len(body) > self.start.output_bytes:
            kind, body = b"o", b""
        why = denied[0][:LONGEST_ERROR].encode("utf-8", "backslashreplace") if denied else b""
        write_all(forked.pipe, ANSWER.pack(kind, len(why), len(body)) + why + body)
        leave(0)


def describe_error(error: BaseException) -> str:
    """Put an error on one line, whatever its class does when it is asked for its text."""
    line = "an error without a text"
    with Contained():
        line = f"{type(error).__name__}: {' '.join(str(error).split())}"[:LONGEST_ERROR]
    return line


def watch(denied: list[str], allowed: tuple[str, ...]) -> None:
    """Note what the code tries that the kernel will refuse, also where it hides the refusal."""
    forbidden = tuple(DENIED_EVENTS.split())

    def notice(event: str, details: tuple[Any, ...]) -> None:
        if event in PATH_EVENTS:
            path = os.fsdecode(details[0]) if isinstance(details[0], str | bytes) else ""
            if not path or path.startswith(allowed):
                return
            denied.append(f"{event} {path}")
        elif event.startswith(forbidden):
            denied.append(event)

    sys.addaudithook(notice)


def read_address_space() -> int:
    """Give the bytes of address space that this process has, or a guess where nobody tells."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 128 << 20


def fill_finders() -> None:
    """Let the importer remember what folders hold, because it cannot list them once locked in."""
    with Contained():
        __import__("a_module_that_is_nowhere")


def confine(library: str, readable: list[str]) -> None:
    """Let the kernel refuse every file but those named, for good."""
    sys.path.append(library)
    before = set(sys.modules)
    sandlock = __import__("sandlock")
    sys.path.remove(library)
    # What an older kernel cannot confine, such as signals, the filter of each call refuses anyway.
    policy = sandlock.Sandbox(fs_readable=readable, allow_degraded=list(sandlock.Protection))
    sandlock.confine(policy)
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "sandlock":
            del sys.modules[name]
    sys.path_importer_cache.pop(library, None)


def write_all(descriptor: int, data: bytes) -> None:
    """Write everything, in as many writes as the pipe wants."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
