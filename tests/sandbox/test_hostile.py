"""No tool gets out of the sandbox, breaks it, or is felt by the next call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from structlog.testing import capture_logs

from hostile_tools import Attack, read_attacks
from trustee.errors import InputError
from trustee.sandbox.calls import CallResult, SandboxConfig, Worker
from trustee.sandbox.host import ProcessSandbox

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ATTACKS = read_attacks()

CANARY = """
import builtins, datetime, gc, json, os, random, sys, time

def canary(word):
    state = [
        word, json.dumps({"a": [1, 2]}), len(dir(builtins)), len("abc"), sorted("cab"),
        random.random(),
        str(datetime.datetime.now()), time.time(), dict(os.environ), sys.path, len(sys.meta_path),
        sys.getrecursionlimit(), len(gc.callbacks), str(__import__("decimal").Decimal("0.1")),
        __import__("statistics").mean([1, 2]), repr(__import__("signal").getsignal(2)),
    ]
    return json.dumps(state)
"""
"""Gives all that an earlier call could have left behind."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder that no tool may touch."""
    made = tmp_path_factory.mktemp("run")
    (made / "answers.json").write_text("42")
    return made


class Lent(NamedTuple):
    """A worker, and what its canary says before anything was done to it."""

    worker: Worker
    before: CallResult


@pytest.fixture(scope="module")
async def workers(folder: Path) -> AsyncIterator[Callable[[Attack], Lent]]:
    """Lend two workers for all attacks: those that wait forever get the one that waits briefly."""
    tools = {attack.name: attack.source(folder) for attack in ATTACKS} | {"canary": CANARY}
    async with AsyncExitStack() as stack:
        lent = []
        for seconds in (60, 1):
            config = SandboxConfig(seconds=seconds, cpu_seconds=1, memory_mib=96)
            try:
                sandbox = await stack.enter_async_context(ProcessSandbox(config))
            except InputError as error:
                pytest.skip(str(error))
            worker = await stack.enter_async_context(sandbox.open(tools, seed=11))
            before = await worker.call("canary", {"word": "tweet"})
            assert before.ok
            lent.append(Lent(worker, before))
        yield lambda attack: lent[attack.end == "time"]


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
async def test_attack_is_contained(
    attack: Attack, workers: Callable[[Attack], Lent], folder: Path
) -> None:
    """The attack ends as it must, the log names it, and the next call finds all as at first."""
    (worker, before), expected = workers(attack), attack.outcome(folder)
    with capture_logs() as logs:
        assert expected == await worker.call(attack.name, {})
    named = [(line["event"], line["tool"], line["breach"]) for line in logs]
    wanted = [("sandbox_breach", attack.name, expected.breach)] if expected.breach else []
    assert wanted == named
    assert before == await worker.call("canary", {"word": "tweet"})
    assert {"answers.json": "42"} == read_folder(folder)


def read_folder(folder: Path) -> dict[str, str]:
    """Read all files of a folder."""
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_attacks_have_names_of_their_own() -> None:
    """None stands in for another."""
    assert 60 <= len({attack.name for attack in ATTACKS}) == len(ATTACKS)
