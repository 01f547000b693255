"""The first use of a model folder's tokenizer and template, in a child process with limits.

A chat template is a program, and its sandbox bounds neither time nor memory; a tokenizer may hold
millions of tokens. So the first use of a folder happens in a copy of this process, which may take
so much time and memory and no more. Whatever happens there becomes one sentence.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from trustee.decoding import read_file
from trustee.errors import InputError
from trustee.rendering.chat_templates import ChatStyle
from trustee.rendering.renderer import Renderer
from trustee.types import GIB

SECONDS = 120.0
"""Time of the first use; the largest vocabularies take about ten seconds of it."""
MEMORY = 4 * GIB
"""Bytes that the first use may take in addition to what the process holds."""
MOST_WORDS = 2000
"""Bytes of a reason that reach the parent."""


def load_tried(folder: Path, style: ChatStyle, *, trusted: bool = False) -> Renderer:
    """Load a model's renderer after its first use, with the self-test, went well in a child.

    A trusted folder, such as the package's own, is loaded at once with its own template.

    Raises:
        InputError: if the folder has no usable tokenizer, or the template is not usable.
    """
    if trusted and style.template is None:
        return Renderer.load(folder, style)
    # Imported by the parent, or the child would do it within its limits, and the parent again.
    import transformers  # noqa: F401

    stamp = tuple(
        (path.name, (found := path.stat()).st_size, found.st_mtime_ns)
        for path in sorted(folder.iterdir())
        if path.is_file()
    )
    _try_once(folder, style, stamp)
    return Renderer.load(folder, style)


@cache
def _try_once(folder: Path, style: ChatStyle, stamp: tuple[tuple[str, int, int], ...]) -> None:
    given = f", with model.template = {style.template.name!r}," if style.template else ""
    try_first(
        lambda: Renderer.load(folder, style).self_test(),
        what=f"the tokenizer or chat template in {folder} (model){given}",
        seconds=SECONDS,
        memory=MEMORY,
    )


def try_first(
    use: Callable[[], object], *, what: str, seconds: float = SECONDS, memory: int = MEMORY
) -> None:
    """Use something untrusted in a child process, and return if that went well.

    Args:
        use: what is tried; its result is lost, and an `InputError` of it is passed on.
        what: how error messages name it.
        seconds: time that it may take.
        memory: bytes that it may take in addition to what this process holds.

    Raises:
        InputError: if it fails in any way, or takes too much time or memory.
    """
    words: str | None = None
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        _use_and_exit(use, theirs, seconds=seconds, memory=memory)
    os.close(theirs)
    try:
        words = _hear(ours, until=time.monotonic() + seconds)
    finally:
        os.close(ours)
        if words is None:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    limits = f"{seconds:g} s and {memory / GIB:g} GiB are allowed"
    if words is None:
        raise InputError(f"{what} takes too long to use: {limits}")
    if words:
        kind, _, reason = words.partition("\n")
        if kind == InputError.__name__:
            raise InputError(reason)
        if kind == MemoryError.__name__:
            raise InputError(f"{what} needs too much memory: {limits}")
        raise InputError(f"{what} cannot be used: {reason or 'no reason given'} ({kind})")
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        raise InputError(f"{what} cannot be used: trying it ended with {name}; {limits}")
    if status:
        # It failed, and could not say of what, for example for lack of memory.
        raise InputError(f"{what} cannot be used: trying it ended without a reason; {limits}")


def _use_and_exit(use: Callable[[], object], pipe: int, *, seconds: float, memory: int) -> None:
    """Use it within the limits, tell the parent what went wrong, and never return."""
    code = 1
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        _limit(resource.RLIMIT_CORE, 0)
        _limit(resource.RLIMIT_CPU, int(seconds) + 1)
        _limit(resource.RLIMIT_AS, _held_bytes() + memory)
        use()
        code = 0
    finally:
        # Not an `except`: whatever is on its way ends here, in a process that must not go on.
        try:
            kind, error, _ = sys.exc_info()
            if kind is not None:
                words = f"{kind.__name__}\n{error}".encode(errors="replace")
                os.write(pipe, words[:MOST_WORDS])
        finally:
            os._exit(code)


def _limit(which: int, most: int) -> None:
    _, hard = resource.getrlimit(which)
    resource.setrlimit(which, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _held_bytes() -> int:
    """Return the size of this process's address space."""
    pages = read_file(Path("/proc/self/statm"), error=InputError).split()[0]
    return int(pages) * resource.getpagesize()


def _hear(pipe: int, *, until: float) -> str | None:
    """Return what comes out of a pipe until its other end closes; None if that takes too long."""
    heard = b""
    while True:
        ready, _, _ = select.select([pipe], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            return None
        piece = os.read(pipe, MOST_WORDS)
        if not piece:
            return heard.decode(errors="replace")
        heard += piece
