"""How a worker isolates itself, and how each forked call restricts itself further and runs.

`worker.py` loads this file by its path, and both use only the standard library. After `Tools.lock`
nothing here is trusted: a tool can rewrite all of it, but only in a process that cannot reach
anything any more and whose end the worker awaits.
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
"""Modules that tools often import, loaded before the worker isolates itself."""
YEAR_BEGINS = 1735689600
YEAR = 365 * 86400
NS = 1_000_000_000
TICK_NS = 1_000_000
"""Nanoseconds by which the clock advances each time it is read."""
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
"""Prefixes of the interpreter's audit events that only a forbidden action raises."""
PATH_EVENTS = ("open", "os.listdir", "os.scandir")

ANSWER = struct.Struct(">cII")
"""Header of what a call writes: kind, length of the denied action, length of the text. The two
texts follow it."""

leave = os._exit
POSIX: tuple[Any, Any] = (os, sys.modules["posix"])
"""Both doors to the same functions of the system."""
getpid, getppid = os.getpid, os.getppid
PID = 2
"""What a tool is told of its process id."""
NODE = 0x020000000001
"""What a tool is told of the network card's address."""


class Contained:
    """Catches and stores whatever its block raises, including `SystemExit`."""

    error: BaseException | None = None

    def __enter__(self) -> Contained:
        """Enter the block."""
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        """Store the error and suppress it."""
        self.error = error
        return True


class Clock:
    """A clock that starts at a time given by a seed and advances only on reads and sleeps."""

    def __init__(self) -> None:
        self._ns = 0
        self._start = 0

    def set(self, seed: int) -> None:
        """Set the clock to a second of the year 2025."""
        self._ns = self._start = (YEAR_BEGINS + seed % YEAR) * NS

    def time_ns(self) -> int:
        """Advance by one tick and return the time."""
        self._ns += TICK_NS
        return self._ns

    def elapsed_ns(self) -> int:
        """Advance by one tick and return the time since the call began."""
        return self.time_ns() - self._start

    def sleep(self, seconds: float) -> None:
        """Advance the clock without waiting."""
        if seconds < 0:
            raise ValueError("sleep length must be non-negative")
        self._ns += int(seconds * NS)

    def install(self) -> None:
        """Replace the real clock in the module `time`."""
        module: Any = time
        module.time_ns, module.sleep = self.time_ns, self.sleep
        module.time = lambda: self.time_ns() / NS
        for name in ("monotonic", "perf_counter", "process_time", "thread_time"):
            setattr(module, f"{name}_ns", self.elapsed_ns)
            setattr(module, name, lambda: self.elapsed_ns() / NS)
        module.clock_gettime_ns = lambda _: self.time_ns()
        module.clock_gettime = lambda _: self.time_ns() / NS
        spent = time.process_time
        for target in POSIX:
            target.times = lambda: os.times_result((spent(), 0.0, 0.0, 0.0, spent()))
        for name in ("localtime", "gmtime", "ctime"):
            setattr(module, name, self._of_now(getattr(module, name)))
        strftime, asctime = module.strftime, module.asctime
        module.strftime = lambda form, at=None: strftime(form, at or module.localtime())
        module.asctime = lambda at=None: asctime(at or module.localtime())

    def _of_now(self, real: Callable[[float], Any]) -> Callable[..., Any]:
        """Wrap a function of a time so that its default is this clock's time."""
        return lambda at=None: real(self.time_ns() / NS if at is None else at)


class Start(NamedTuple):
    """The first frame: the tools and their limits."""

    sources: dict[str, str]
    published: bool
    library: str
    """Folder of the Landlock library; empty if Landlock is not used."""
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
    """A JSON object, parsed only in the fork, where it can do no harm."""


class Forked(NamedTuple):
    """The state with which the fork of a call starts."""

    call: CallFrame
    pipe: int


class Tools:
    """The compiled tools, and the restrictions that each call applies to itself."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self.null = os.open(os.devnull, os.O_RDWR)
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.filter = bytes.fromhex(start.filter)
        self.codes: dict[str, CodeType | BaseException] = {}
        """Code by tool, or the error if its source does not compile."""
        self.clock = Clock()
        self.entropy = random.Random()
        self.held_bytes = read_address_space()
        self.worker = getpid()

    def prepare(self) -> None:
        """Load modules, isolate this process, compile the tools.

        Raises:
            OSError: if the kernel refuses to isolate this process.
        """
        hide_the_machine(process=bool(self.filter))
        for name in PRELOADED.split():
            __import__(name)
        fill_finders()
        self.clock.install()
        replace_randomness(self.entropy)
        if self.start.library:
            confine(self.start.library, self.start.readable)
        self._give_up_powers()
        for name, source in self.start.sources.items():
            with Contained() as tried:
                self.codes[name] = compile(source, f"<{name}>", "exec", dont_inherit=True)
            if tried.error is not None:
                self.codes[name] = tried.error

    def _give_up_powers(self) -> None:
        """Drop all capabilities and the ability to gain any."""
        if self.libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "no_new_privs")
        header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
        if self.libc.capset(header, (ctypes.c_uint32 * 6)()):
            raise OSError(ctypes.get_errno(), "capset")

    def lock(self, pipe: int) -> None:
        """Restrict this fork to its memory, its pipe and its time limit."""
        self.libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if getppid() != self.worker:
            # The worker ended before that request, so nobody would end this call.
            leave(1)
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
        """Run one call and return its result as UTF-8 text."""
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
        """Run a forked call, write its result to the pipe, and exit."""
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
                # Its traceback keeps the frames alive, and with them what filled the memory.
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


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def describe_error(error: BaseException) -> str:
    """Return an error as one line, even if its class raises when it is converted to text."""
    line = "an error without a text"
    with Contained():
        line = f"{type(error).__name__}: {' '.join(str(error).split())}"[:LONGEST_ERROR]
    return line


def watch(denied: list[str], allowed: tuple[str, ...]) -> None:
    """Record forbidden actions as they are tried, even if the code hides that they failed."""
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
    """Return the address space of this process in bytes, or a guess if it cannot be read."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 128 << 20


def hide_the_machine(*, process: bool) -> None:
    """Give tools the same machine in every call, and the same process ids where they are no use.

    It comes before modules that remember what they saw.
    """
    machine = os.uname().machine
    for module in POSIX:
        if process:
            module.getpid, module.getppid = lambda: PID, lambda: PID - 1
        module.uname = lambda: os.uname_result(("Linux", "sandbox", "0", "0", machine))
        module.cpu_count = lambda: 1
    uuid: Any = __import__("uuid")
    uuid._generate_time_safe = None
    uuid.getnode = lambda: NODE


def replace_randomness(entropy: random.Random) -> None:
    """Let all randomness of the interpreter come from one seeded generator."""
    draw: Any = entropy.randbytes
    for module in POSIX:
        module.urandom = draw
        module.getrandom = lambda size, flags=0: draw(size)
    random._urandom = draw  # type: ignore[attr-defined]
    # A generator without a seed takes one from the kernel, in C.
    plain, shared = random.Random.seed, random.random.__self__  # type: ignore[attr-defined]

    def seed(self: random.Random, a: Any = None, version: int = 2) -> None:
        plain(self, entropy.getrandbits(64) if a is None else a, version)

    random.Random.seed = seed  # type: ignore[method-assign]
    random.seed = shared.seed


def fill_finders() -> None:
    """Make the importer cache its folder listings, which it cannot read after the isolation."""
    with Contained():
        __import__("a_module_that_is_nowhere")


def confine(library: str, readable: list[str]) -> None:
    """Make the kernel refuse, permanently, all files except the readable ones."""
    sys.path.append(library)
    before = set(sys.modules)
    sandlock = __import__("sandlock")
    sys.path.remove(library)
    # An older kernel may lack some protections, such as of signals; each call's seccomp filter
    # refuses those actions anyway.
    policy = sandlock.Sandbox(fs_readable=readable, allow_degraded=list(sandlock.Protection))
    sandlock.confine(policy)
    for name in set(sys.modules) - before:
        if name.partition(".")[0] == "sandlock":
            del sys.modules[name]
    sys.path_importer_cache.pop(library, None)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all data, in as many writes as it takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
