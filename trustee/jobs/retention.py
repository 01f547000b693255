"""`trustee eval --retention`: what a run's adapter has changed on general prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from trustee.checks.general_prompts import choose_few, read_general_prompts
from trustee.checks.retention import Asked, answer_all, as_sample, diverge_all, render_prompts
from trustee.config import Config
from trustee.engine.clock import EngineClock
from trustee.engine.watchdog import Watchdog
from trustee.evaluation.retention_report import PromptResult, RetentionReport, report_on
from trustee.events import Emit
from trustee.jobs.assemble import choose_adapter, open_watched, prepare_model, restart_once
from trustee.jobs.stage_meter import metered
from trustee.rendering.renderer import Renderer
from trustee.runs.files import write_json, write_lines
from trustee.types import Adapter, Completion, Message

RESULTS, REPORT = "retention.jsonl", "retention.json"


async def measure_retention(
    config: Config, run: Path, *, adapter: Path | None, most: int | None, emit: Emit
) -> RetentionReport:
    """Ask base and adapter general prompts, compare them token by token, and store the results.

    Args:
        config: the run's config, or one changed from it.
        run: the run's folder, which gets `retention.jsonl` and `retention.json`.
        adapter: PEFT or run folder; None is the run's own newest adapter.
        most: number of prompts, spread over kinds and languages; None is all.
        emit: receives progress events.

    Raises:
        InputError: if the adapter does not fit.
    """
    model, renderer = prepare_model(config)
    folder = choose_adapter(config, adapter or run, model, emit=emit)
    prompts = read_general_prompts()
    if most is not None:
        prompts = choose_few(prompts, most)
    asked = render_prompts(prompts, renderer, context=config.engine.context)

    async def measure() -> tuple[PromptResult, ...]:
        clock = EngineClock()
        async with open_watched(config, model, run, clock=clock, emit=emit) as engine:
            await engine.load_adapter(Adapter(version=1, path=folder))
            policy = Adapter(version=1, path=run / "adapters" / "compared")
            await engine.publish(policy)
            found = await compare_answers(asked, engine, policy, renderer, emit=emit)
            await engine.retire(policy)
            return found

    results = await restart_once(measure, emit=emit)
    left_out = len(prompts) - len(asked)
    report = report_on(results, adapter=str(folder), left_out=left_out)
    write_lines(run / RESULTS, results)
    write_json(run / REPORT, report, indent=2)
    return report


async def compare_answers(
    asked: Sequence[Asked], engine: Watchdog, policy: Adapter, renderer: Renderer, *, emit: Emit
) -> tuple[PromptResult, ...]:
    """Return the results of all prompts, in their order."""
    count, progress = len(asked), engine.progress
    answers: dict[str, tuple[Completion, ...]] = {}
    for label, adapter in (("base", None), ("adapter", policy)):
        name = f"answering {count} general prompts with the {label}"
        with metered(name, emit, of=count, unit="answers", engine=progress) as meter:
            answers[label] = await answer_all(
                asked, engine, adapter=adapter, label=label, done=meter.count
            )
    own = [
        as_sample(one.ids, answer.ids) for one, answer in zip(asked, answers["base"], strict=True)
    ]
    written = [as_sample(one.ids, render_answer(one, renderer)) for one in asked]
    name = f"comparing {2 * count} answers token by token"
    with metered(name, emit, of=2 * count, unit="answers", engine=progress) as meter:
        moved = await diverge_all(own, engine, done=meter.count)
        likely = await diverge_all(written, engine, done=meter.count)
    texts = [[decode(answer, renderer) for answer in answers[label]] for label in answers]
    return tuple(
        PromptResult(
            prompt=one.prompt,
            tokens=len(answer.kl),
            kl=math.fsum(answer.kl),
            written_tokens=len(good.kl),
            change=math.fsum(good.policy) - math.fsum(good.base),
            base=base,
            policy=said,
            differs=first.ids != second.ids,
        )
        for one, answer, good, base, said, first, second in zip(
            asked, moved, likely, *texts, *answers.values(), strict=True
        )
    )


def render_answer(asked: Asked, renderer: Renderer) -> tuple[int, ...]:
    """Return the written answer as the policy would sample it."""
    return renderer.complete(Message(role="assistant", content=asked.prompt.answer))


def decode(answer: Completion, renderer: Renderer) -> str:
    """Return the text of an answer without its stop mark."""
    ended = answer.ids and answer.ids[-1] in renderer.stop_ids
    return renderer.decode(answer.ids[:-1] if ended else answer.ids)
