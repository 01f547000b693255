"""The program inside the sandbox: it compiles tools once and forks one process for every call.

It is started by path, without site-packages and without this package, and exchanges frames (a
length, then JSON) over standard input and output. It never runs tool code itself: a call is a fork
that restricts itself further, runs, writes one answer to its own pipe and exits. So no call sees
what another left behind, and the worker learns from the kernel which limit a call broke.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import struct
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trustee.sandbox import inside
    from trustee.sandbox.inside import CallFrame, Forked, Start

CHUNK = 1 << 16
ROOM = 4096
"""Bytes that one answer may have in addition to its text."""
HEADER = struct.Struct(">I")
BREACHES = {b"+": "", b"-": "", b"m": "memory", b"o": "output"}
"""Breach by kind of answer; only `+` is a successful result."""
monotonic = time.monotonic
send_signal = os.kill


class Running:
    """One forked call, as the worker sees it."""

    def __init__(self, call: CallFrame, pid: int, pipe: int, deadline: float) -> None:
        self.id = call.id
        self.pid = pid
        self.pipe = pipe
        self.deadline = deadline
        self.written = bytearray()


def receive() -> bytes | None:
    """Return what is available on standard input; None at its end."""
    return os.read(0, CHUNK) or None


def send(frame: dict[str, Any]) -> None:
    """Write one frame to standard output."""
    body = json.dumps(frame).encode()
    inside.write_all(1, HEADER.pack(len(body)) + body)


def cut(buffer: bytearray) -> Any:
    """Remove and return the first frame of a buffer; None if it is not complete yet."""
    if len(buffer) < HEADER.size:
        return None
    end = HEADER.size + HEADER.unpack_from(buffer)[0]
    if len(buffer) < end:
        return None
    frame = json.loads(bytes(buffer[HEADER.size : end]))
    del buffer[:end]
    return frame


def serve(start: Start, buffer: bytearray) -> Forked | None:
    """Fork for every call. Like fork, it returns twice: None in the worker, a call in the fork."""
    calls: dict[int, Running] = {}
    poll = select.poll()
    poll.register(0, select.POLLIN)
    while True:
        while (frame := cut(buffer)) is not None:
            call = inside.CallFrame(**frame)
            inward, outward = os.pipe()
            pid = os.fork()
            if pid == 0:
                calls.clear()
                buffer.clear()
                return inside.Forked(call, outward)
            os.close(outward)
            calls[inward] = Running(call, pid, inward, monotonic() + start.seconds)
            poll.register(inward, select.POLLIN)
        nearest = min((call.deadline for call in calls.values()), default=None)
        wait = None if nearest is None else max(0.0, nearest - monotonic()) * 1000 + 1
        for descriptor, _ in poll.poll(wait):
            if descriptor == 0:
                received = receive()
                if received is None:
                    for running in calls.values():
                        finish(running)
                    return None
                buffer += received
                continue
            running = calls[descriptor]
            data = os.read(descriptor, CHUNK)
            running.written += data
            if not data or len(running.written) > start.output_bytes + ROOM:
                poll.unregister(descriptor)
                del calls[descriptor]
                send(judge(running, start, ended=not data))
        now = monotonic()
        for running in [call for call in calls.values() if call.deadline <= now]:
            poll.unregister(running.pipe)
            del calls[running.pipe]
            finish(running)
            send({"id": running.id, "breach": "time"})


def read_fork_answer(written: bytes) -> dict[str, Any] | None:
    """Parse what a call wrote to its pipe; None unless it is exactly one answer."""
    if len(written) < inside.ANSWER.size:
        return None
    kind, denied, length = inside.ANSWER.unpack_from(written)
    if kind not in BREACHES or len(written) != inside.ANSWER.size + denied + length:
        return None
    cut_at = inside.ANSWER.size + denied
    return {
        "ok": kind == b"+",
        "breach": BREACHES[kind],
        "denied": written[inside.ANSWER.size : cut_at].decode("utf-8", "replace"),
        "text": written[cut_at:].decode("utf-8", "replace"),
    }


def finish(running: Running) -> tuple[int, float]:
    """Kill and reap a call's process; return its exit status and its CPU time in seconds."""
    send_signal(running.pid, signal.SIGKILL)
    os.close(running.pipe)
    _, status, used = os.wait4(running.pid, 0)
    return status, used.ru_utime + used.ru_stime


def judge(running: Running, start: Start, *, ended: bool) -> dict[str, Any]:
    """Return the answer frame of a call that ended or wrote too much."""
    status, cpu = finish(running)
    written = bytes(running.written)
    if not ended:
        return {"id": running.id, "breach": "output"}
    answer = read_fork_answer(written)
    if answer is not None:
        return {"id": running.id, **answer}
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    # The kernel enforces the limit more coarsely than it reports CPU time, hence the factor of 2.
    by_limit = number == signal.SIGKILL and cpu >= start.cpu_seconds / 2
    if number == signal.SIGXCPU or by_limit:
        return {"id": running.id, "breach": "cpu"}
    if written:
        return {"id": running.id, "breach": "protocol"}
    how = f"signal {number}" if number else f"exit code {os.WEXITSTATUS(status)}"
    return {"id": running.id, "breach": "died", "text": how}


def load_inside() -> None:
    """Load `inside.py` by path, because there is no package or folder to import from."""
    global inside
    spec = spec_from_file_location("inside", Path(__file__).with_name("inside.py"))
    assert spec is not None
    assert spec.loader is not None
    inside = sys.modules["inside"] = module_from_spec(spec)
    spec.loader.exec_module(inside)


def main() -> None:
    """Start, report readiness, and serve until standard input ends."""
    load_inside()
    # Whoever was killed before this has closed standard input.
    inside.die_with_parent()
    os.environ.clear()
    # The C implementations read the kernel's clock; those in Python use `time`, which is replaced.
    sys.modules["_datetime"] = sys.modules["_zoneinfo"] = None  # type: ignore[assignment]
    buffer = bytearray()
    while (frame := cut(buffer)) is None:
        received = receive()
        if received is None:
            return
        buffer += received
    tools = inside.Tools(inside.Start(**frame))
    with inside.Contained() as tried:
        tools.prepare()
    if tried.error is not None:
        send({"refused": inside.describe_error(tried.error)})
        return
    gc.collect()
    gc.freeze()
    send({"ready": True})
    forked = serve(tools.start, buffer)
    if forked is not None:
        tools.answer(forked)


if __name__ == "__main__":
    main()
