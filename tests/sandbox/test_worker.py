"""The worker's own parts: frames, and what it believes of a call's answer."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustee.sandbox import inside, worker


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    """Give the worker the module that it loads by path at its start."""
    worker.load_inside()


FRAMES = st.lists(
    st.dictionaries(st.text(max_size=4), st.text(max_size=4) | st.integers()), max_size=4
)


@given(frames=FRAMES, size=st.integers(1, 7))
def test_frames_survive_any_cutting(frames: list[dict[str, object]], size: int) -> None:
    """However the bytes arrive, the frames come out whole and in order."""
    bodies = [json.dumps(frame).encode() for frame in frames]
    stream = b"".join(worker.HEADER.pack(len(body)) + body for body in bodies)
    buffer, found = bytearray(), []
    for begin in range(0, len(stream), size):
        buffer += stream[begin : begin + size]
        while (frame := worker.cut(buffer)) is not None:
            found.append(frame)
    assert frames == found
    assert b"" == buffer


@given(st.binary(max_size=40))
def test_noise_is_no_answer(noise: bytes) -> None:
    """Bytes are an answer only if kind and both lengths fit exactly."""
    read = worker.read_fork_answer(noise)
    fits = len(noise) >= inside.ANSWER.size and (
        noise[:1] in worker.BREACHES
        and sum(inside.ANSWER.unpack_from(noise)[1:]) == len(noise) - inside.ANSWER.size
    )
    assert fits == (read is not None)


@given(kind=st.sampled_from(sorted(worker.BREACHES)), denied=st.text(), text=st.text())
def test_answer_is_read_as_written(kind: bytes, denied: str, text: str) -> None:
    """Kind, refusal and text come back; a byte more or less and there is no answer."""
    why, body = denied.encode("utf-8", "replace"), text.encode("utf-8", "replace")
    written = inside.ANSWER.pack(kind, len(why), len(body)) + why + body
    assert {
        "ok": kind == b"+",
        "breach": worker.BREACHES[kind],
        "denied": why.decode(),
        "text": body.decode(),
    } == worker.read_fork_answer(written)
    assert worker.read_fork_answer(written + b"x") is None
    assert worker.read_fork_answer(written[:-1]) is None
