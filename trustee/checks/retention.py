"""What a policy still says to general prompts, compared with its base.

The base answers each prompt greedily. At every token of that answer the distributions of base and
policy are compared over the whole vocabulary: KL(base ‖ policy), exact, in nats. Greedy answers
make the measure the same each time; that they are the base's own makes it ask what the base would
have said. The policy's own greedy answer shows whether a user would notice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import anyio

from trustee.algorithm.divergence import Divergence
from trustee.checks.general_prompts import GeneralPrompt
from trustee.engine.protocol import Engine, Sampling, TrainingEngine
from trustee.environments.engine_simulator import ChatRenderer
from trustee.types import Adapter, Completion, Message, Record, Sample

TOKENS = 48
"""Longest answer, in tokens."""
TOGETHER = 8
"""Samples that the trainer compares in one pass."""
PARALLEL = 64
"""Requests to the engine at once."""


class Asked(Record, frozen=True):
    """A general prompt as the model reads it."""

    prompt: GeneralPrompt
    ids: tuple[int, ...]
    """The rendered prompt, ready for an answer."""


def render_prompts(
    prompts: Sequence[GeneralPrompt], renderer: ChatRenderer, *, context: int
) -> tuple[Asked, ...]:
    """Return the prompts that leave room for an answer in the engine's context."""
    rendered = (
        Asked(
            prompt=prompt,
            ids=renderer.open((Message(role="user", content=prompt.prompt),), ()),
        )
        for prompt in prompts
    )
    return tuple(asked for asked in rendered if len(asked.ids) + TOKENS <= context)


async def answer_all(
    asked: Sequence[Asked],
    engine: Engine,
    *,
    adapter: Adapter | None,
    label: str,
    done: Callable[[], None] = lambda: None,
) -> tuple[Completion, ...]:
    """Return the greedy answer to each prompt."""
    answers: dict[int, Completion] = {}
    limiter = anyio.CapacityLimiter(PARALLEL)

    async def ask(place: int) -> None:
        async with limiter:
            answers[place] = await engine.generate(
                asked[place].ids,
                Sampling(max_tokens=TOKENS, temperature=0.0),
                adapter=adapter,
                request_id=f"general-{label}-{place}",
            )
        done()

    async with anyio.create_task_group() as tasks:
        for place in range(len(asked)):
            tasks.start_soon(ask, place)
    return tuple(answers[place] for place in sorted(answers))


def as_sample(prompt: Sequence[int], answer: Sequence[int]) -> Sample:
    """Return prompt and answer as a sample whose answer is compared."""
    count = len(prompt), len(answer)
    return Sample(
        ids=(*prompt, *answer),
        mask=(False,) * count[0] + (True,) * count[1],
        logprobs=(0.0,) * sum(count),
        advantage=0.0,
        version=0,
        trajectory_id="",
    )


async def diverge_all(
    samples: Sequence[Sample],
    engine: TrainingEngine,
    *,
    done: Callable[[], None] = lambda: None,
) -> tuple[Divergence, ...]:
    """Compare base and adapter on samples, a few at a time."""
    found: list[Divergence] = []
    for part in cut(samples, TOGETHER):
        found += await engine.diverge(part)
        for _ in part:
            done()
    return tuple(found)


def cut(samples: Sequence[Sample], size: int) -> Iterator[Sequence[Sample]]:
    """Yield samples in parts of at most `size`."""
    for start in range(0, len(samples), size):
        yield samples[start : start + size]
