"""The parts that jobs share: one restart for an engine that dies, and none for anything else."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from trustee.errors import EngineDied, RunError
from trustee.events import Event
from trustee.jobs.assemble import restart_once

pytestmark = pytest.mark.anyio


def job_of(*results: BaseException | str) -> tuple[Callable[[], object], list[int]]:
    """Return a job that ends in another way each time it is run, and the list of its runs."""
    runs: list[int] = []

    async def job() -> str:
        runs.append(len(runs))
        result = results[len(runs) - 1]
        if isinstance(result, BaseException):
            raise result
        return result

    return job, runs


DIED = EngineDied("the engine died")


@pytest.mark.parametrize(
    ("first", "runs"),
    [("done", 1), (DIED, 2), (BaseExceptionGroup("", [BaseExceptionGroup("", [DIED])]), 2)],
)
async def test_dead_engine_is_started_once_more(first: BaseException | str, runs: int) -> None:
    """A job whose engine dies is run again and tells it; one that ends is run once."""
    job, made = job_of(first, "done")
    told: list[Event] = []
    assert "done" == await restart_once(job, emit=told.append)  # type: ignore[arg-type]
    assert (runs, runs - 1) == (len(made), len(told))


@pytest.mark.parametrize(
    "error", [RunError("full disk"), BaseExceptionGroup("", [DIED, RunError("full disk")])]
)
async def test_other_errors_end_the_job(error: BaseException) -> None:
    """Only a death, and nothing besides it, is worth another start."""
    job, made = job_of(error, "done")
    with pytest.raises(type(error)):
        await restart_once(job, emit=lambda event: None)  # type: ignore[arg-type]
    assert [0] == made


async def test_second_death_ends_the_job() -> None:
    """An engine that dies twice would die again."""
    job, made = job_of(DIED, EngineDied("again"))
    with pytest.raises(EngineDied, match="again"):
        await restart_once(job, emit=lambda event: None)  # type: ignore[arg-type]
    assert [0, 1] == made
