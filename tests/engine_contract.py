"""What every engine promises, as checks that any engine's tests can run.

An engine's tests make a `Subject` and run every check of `CONTRACT` on it. The engine is started;
no version is published yet. A check that publishes retires what it published.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import anyio
import pytest

from trustee.engine.protocol import Engine, Sampling
from trustee.errors import ContextError, EngineError
from trustee.types import Adapter, Completion, Record


class Subject(NamedTuple):
    """An engine under test, and what a test must know about it."""

    engine: Engine
    encode: Callable[[str], tuple[int, ...]]
    stop_ids: tuple[int, ...]
    publish: Callable[[int], Awaitable[Adapter]]
    """Makes a version with weights of its own and publishes it."""
    running: Callable[[], int]
    """Counts the requests under way."""
    short: str
    """A prompt that a completion of 200 tokens at temperature 0 answers to its stop."""
    long: str
    """A prompt whose answer is longer than 4 tokens, and takes a while at 200."""


class Names:
    """Request ids, each new."""

    def __init__(self) -> None:
        self._count = 0

    def __next__(self) -> str:
        self._count += 1
        return f"contract-{self._count}"


NAMES = Names()


class Wish(Record, frozen=True):
    """What to ask an engine for."""

    prompt: str
    max_tokens: int = 200
    temperature: float = 0.0
    seed: int | None = None


async def ask(subject: Subject, wish: Wish, *, adapter: Adapter | None = None) -> Completion:
    """Ask for one completion."""
    return await subject.engine.generate(
        subject.encode(wish.prompt),
        Sampling(max_tokens=wish.max_tokens, temperature=wish.temperature, seed=wish.seed),
        adapter=adapter,
        request_id=next(NAMES),
    )


async def become_idle(subject: Subject) -> None:
    """Wait until nothing runs; an engine may need a moment to drop what was cancelled."""
    for _ in range(200):
        if not subject.running():
            return
        await anyio.sleep(0.05)
    pytest.fail(f"{subject.running()} requests still run")


async def check_each_id_has_a_logprob(subject: Subject) -> None:
    """There are as many logprobs as ids, none above 0, at any length."""
    for max_tokens in (1, 4, 200):
        completion = await ask(subject, Wish(prompt=subject.long, max_tokens=max_tokens))
        assert len(completion.ids) == len(completion.logprobs)
        assert 1 <= len(completion.ids) <= max_tokens
        assert all(logprob <= 1e-6 for logprob in completion.logprobs)


async def check_stop_reasons(subject: Subject) -> None:
    """A whole answer ends with a stop id, which is given; a cut one reached its limit."""
    whole = await ask(subject, Wish(prompt=subject.short))
    assert ("stop", True) == (whole.stop, whole.ids[-1] in subject.stop_ids)
    assert not set(whole.ids[:-1]) & set(subject.stop_ids)
    cut = await ask(subject, Wish(prompt=subject.long, max_tokens=4))
    assert ("length", 4) == (cut.stop, len(cut.ids))


async def check_stop_at_the_very_limit(subject: Subject) -> None:
    """An answer whose stop id is the last id allowed is whole."""
    whole = await ask(subject, Wish(prompt=subject.short))
    again = await ask(subject, Wish(prompt=subject.short, max_tokens=len(whole.ids)))
    assert ("stop", whole.ids) == (again.stop, again.ids)


async def check_context(subject: Subject) -> None:
    """A prompt that leaves no room for its completion is refused, one that just fits is not."""
    room = subject.engine.context - len(subject.encode(subject.short))
    with pytest.raises(ContextError):
        await ask(subject, Wish(prompt=subject.short, max_tokens=room + 1))
    completion = await ask(subject, Wish(prompt=subject.short, max_tokens=room))
    assert "stop" == completion.stop
    assert 0 == subject.running()


async def check_equal_seeds_give_equal_ids(subject: Subject) -> None:
    """Same prompt, seed and weights: the same ids and logprobs."""
    wish = Wish(prompt=subject.long, max_tokens=12, temperature=1.0, seed=3)
    first, second = [await ask(subject, wish) for _ in range(2)]
    assert (first.ids, first.stop) == (second.ids, second.stop)
    assert list(first.logprobs) == pytest.approx(second.logprobs, abs=0.05)


async def check_base_is_version_0(subject: Subject) -> None:
    """Without an adapter the base speaks, and says so."""
    assert 0 == (await ask(subject, Wish(prompt=subject.short))).version


async def check_cancel_frees_the_place(subject: Subject) -> None:
    """Whoever asked and is cancelled leaves nothing running, and the engine goes on."""
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(ask, subject, Wish(prompt=subject.long))
        for _ in range(2000):
            if subject.running() == 3:
                break
            await anyio.sleep(0.001)
        assert 3 == subject.running()
        tasks.cancel_scope.cancel()
    await become_idle(subject)
    assert "stop" == (await ask(subject, Wish(prompt=subject.short))).stop


async def check_deadline_frees_the_place(subject: Subject) -> None:
    """A deadline around a request does the same."""
    with anyio.move_on_after(0.05) as scope:
        await ask(subject, Wish(prompt=subject.long))
    assert scope.cancelled_caught
    await become_idle(subject)


async def check_unpublished_version_is_refused(subject: Subject) -> None:
    """A version that was never published, or was retired, is nobody's."""
    adapter = await subject.publish(901)
    assert 901 == (await ask(subject, Wish(prompt=subject.short), adapter=adapter)).version
    await subject.engine.retire(adapter)
    with pytest.raises(EngineError):
        await ask(subject, Wish(prompt=subject.short), adapter=adapter)
    assert 0 == (await ask(subject, Wish(prompt=subject.short))).version


async def check_two_versions_side_by_side(subject: Subject) -> None:
    """Two versions and the base speak at once, each as itself, whatever runs beside it."""
    wish = Wish(prompt=subject.long, max_tokens=8)
    first, second = await subject.publish(911), await subject.publish(912)
    voices = (None, first, second)
    alone = [await ask(subject, wish, adapter=voice) for voice in voices]
    together: dict[int, Completion] = {}

    async def speak(place: int, voice: Adapter | None) -> None:
        together[place] = await ask(subject, wish, adapter=voice)

    async with anyio.create_task_group() as tasks:
        for place, voice in enumerate(voices):
            tasks.start_soon(speak, place, voice)
    assert [0, 911, 912] == [together[place].version for place in range(3)]
    assert [completion.ids for completion in alone] == [together[n].ids for n in range(3)]
    await subject.engine.retire(first)
    assert alone[2].ids == (await ask(subject, wish, adapter=second)).ids
    await subject.engine.retire(second)


async def check_publish_under_load(subject: Subject) -> None:
    """A version published while others speak disturbs none of them and speaks at once."""
    old = await subject.publish(921)
    wish = Wish(prompt=subject.long, max_tokens=40)
    expected = (await ask(subject, wish, adapter=old)).ids
    heard: list[Completion] = []

    async def speak() -> None:
        heard.append(await ask(subject, wish, adapter=old))

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(speak)
        await anyio.sleep(0.01)
        new = await subject.publish(922)
        assert 922 == (await ask(subject, wish, adapter=new)).version
    assert [(921, expected)] * 4 == [(completion.version, completion.ids) for completion in heard]
    await subject.engine.retire(old)
    await subject.engine.retire(new)


CONTRACT: tuple[Callable[[Subject], Awaitable[None]], ...] = (
    check_each_id_has_a_logprob,
    check_stop_reasons,
    check_stop_at_the_very_limit,
    check_context,
    check_equal_seeds_give_equal_ids,
    check_base_is_version_0,
    check_cancel_frees_the_place,
    check_deadline_frees_the_place,
    check_unpublished_version_is_refused,
    check_two_versions_side_by_side,
    check_publish_under_load,
)
