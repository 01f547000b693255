"""The learning actor: it turns groups into policy versions and stores a checkpoint per step."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import structlog
from anyio.streams.memory import MemoryObjectReceiveStream

from trustee.algorithm.fallback import call_with_fallback
from trustee.algorithm.step import take_step
from trustee.checks.alarms import Decision, name_version
from trustee.checks.call_parsing import check_reading, read_again
from trustee.checks.judge import check_anchor
from trustee.environments.protocol import store_state
from trustee.errors import RunError
from trustee.events import Note, RolledBack, Stage, StepTrained
from trustee.rl.interim import BEST
from trustee.rl.run import Run, RunState, Slots
from trustee.runs.checkpoint import write_checkpoint
from trustee.runs.files import write_json
from trustee.types import Group, Role

log = structlog.get_logger()


async def learn(run: Run, slots: Slots, groups: MemoryObjectReceiveStream[Group]) -> None:
    """Train a new version on every `groups_per_step` fresh groups."""
    fresh: list[Group] = []
    seen: list[Group] = []
    since = time.monotonic()
    async for group in groups:
        seen.append(group)
        lag = run.versions.version - group.version
        if lag > run.rollout.max_off_policy_steps or len(group.valid) < 2:
            check_failures(run, seen)
            run.untrained.remove(group)
            slots.free(group)
            continue
        fresh.append(group)
        if len(fresh) < run.rollout.groups_per_step:
            continue
        waited = time.monotonic() - since
        # In task-spec order, so that a step does not depend on the order in which groups finished.
        fresh.sort(key=lambda group: group.id)
        seen.sort(key=lambda group: group.id)
        with run.engine.step(run.step + 1):
            progress = await finish_step(run, fresh, seen, waited)
        for group in fresh:
            run.untrained.remove(group)
            slots.free(group)
        if await measure_between(run, progress=progress) >= 1:
            return
        fresh, seen, since = [], [], time.monotonic()


async def finish_step(run: Run, fresh: list[Group], seen: list[Group], waited: float) -> float:
    """Train on a step's groups, check, publish, record; return the progress of the checkpoint."""
    started_at = time.monotonic()
    lags = [run.versions.version - group.version for group in fresh]
    report = await take_step(
        fresh,
        run.engine,
        run.learning,
        step=run.step,
        version=run.versions.version,
        progress=run.progress,
        store=run.store,
        ladder=run.ladder,
    )
    run.episode_limiter.total_tokens = run.ladder.level.parallel
    trained = time.monotonic()
    run.step += 1
    run.policy_tokens += count_spoken(seen)
    figures = run.source.observe(seen)
    check_anchor(figures, config=run.gates)
    reading = read_again([t for group in seen for t in group.valid], run.renderer)
    check_reading(reading, config=run.gates)
    verdict = run.watch.observe(report, fresh)
    if verdict.stop is None or verdict.roll_back_to is not None:
        await apply_decision(run, verdict, moved=report.moved)
    kl = await call_with_fallback(run.forgetting.measure, run.engine, ladder=run.ladder)
    metrics = {
        "step": run.step,
        "version": run.versions.version,
        **figures,
        **describe_groups(seen),
        "lag_mean": sum(lags) / len(lags),
        "lag_max": max(lags),
        "dropped": sum(1 for group in seen if group not in fresh),
        "rolled_back_to": verdict.roll_back_to,
        "memory_fallbacks": len(run.ladder.changes),
        "unread": reading.differing,
        **({} if kl is None else {"forgetting_kl": kl}),
        **report.metrics(),
    }
    run.store.append("metrics.jsonl", [metrics])
    if verdict.stop is not None:
        await end_run(run, verdict)
    run.forgetting.check(kl, step=run.step)
    published = time.monotonic()
    progress = await store_checkpoint(run)
    # Only after the checkpoint, because the previous one may name an older best version.
    run.watch.prune(run.store, alive=(*run.versions.alive, *run.interim.kept()))
    timing = {
        "step": run.step,
        "waited_s": round(waited, 3),
        "train_s": round(trained - started_at, 3),
        "publish_s": round(published - trained, 3),
        "checkpoint_s": round(time.monotonic() - published, 3),
        **describe_work(run),
    }
    run.store.append("timing.jsonl", [timing])
    run.emit(describe_step(metrics, timing, progress=progress))
    return progress


def describe_work(run: Run) -> dict[str, Any]:
    """Return what the simulator's roles have done so far, and the memory that was needed."""
    return {
        "tokens": dict(run.simulator.tokens),
        "read": dict(run.simulator.read),
        "rejected": dict(run.simulator.rejected),
        "refusals": dict(run.simulator.refusals),
        "memory": run.engine.progress().peak,
    }


async def measure_between(run: Run, *, progress: float) -> float:
    """Measure the current version if that is due, and return the progress.

    Episodes of training are played on meanwhile; the time does not count as training.
    """
    if progress >= 1 or run.measure is None or not run.interim.is_due(run.step):
        return progress
    began = time.monotonic()
    run.interim.note(await run.measure(run))
    run.started_at += time.monotonic() - began
    best = run.interim.best
    if best is not None:
        write_json(run.store.folder / BEST, best)
    if not run.interim.ended or best is None:
        # A kill before the next checkpoint costs nothing: the episodes are in their file.
        tell_training(run, progress=progress)
        return progress
    text = (
        f"training ends early after step {run.step}: {run.interim.misses} measurements in a row "
        f"were not above the {best.success:.1%} of {name_version(best.version)} after step "
        f"{best.step} (eval.patience)"
    )
    run.emit(Note(text=text, about="gate"))
    return await store_checkpoint(run)


def tell_training(run: Run, *, progress: float) -> None:
    """Tell that training begins, or goes on after something else."""
    run.emit(Stage(name=f"training, {run.steps} steps", progress=progress))


def count_spoken(groups: list[Group]) -> int:
    """Return the number of tokens that the policy sampled in groups."""
    return sum(len(u.completion.ids) for g in groups for t in g.trajectories for u in t.turns)


def describe_step(
    metrics: dict[str, Any], timing: dict[str, Any], *, progress: float
) -> StepTrained:
    """Return the progress event of a step, with all recorded values."""
    return StepTrained(
        step=metrics["step"],
        version=metrics["version"],
        progress=progress,
        reward=metrics["reward"],
        frac_reward_zero_std=metrics["frac_reward_zero_std"],
        clip_ratio=metrics["clip_ratio"],
        mismatch_abs=metrics["mismatch_abs"],
        lag_mean=metrics["lag_mean"],
        lag_max=metrics["lag_max"],
        waited_s=timing["waited_s"],
        train_s=timing["train_s"],
        publish_s=timing["publish_s"],
        checkpoint_s=timing["checkpoint_s"],
        tokens=timing["tokens"],
        difficulty=metrics.get("difficulty"),
        anchor_correlation=metrics.get("anchor_correlation"),
        anchor_episodes=metrics.get("anchor_episodes"),
        figures={**metrics, **timing},
    )


async def store_checkpoint(run: Run) -> float:
    """Store a checkpoint of the run's current state, and return the progress at that moment."""
    state = RunState(
        step=run.step,
        version=run.versions.version,
        next_group=run.next_group,
        policy_tokens=run.policy_tokens,
        source=store_state(run.source.state()),
        watch=run.watch.state(),
        effect=run.effect.state(),
        ladder=run.ladder.state(),
        seconds=run.seconds,
        skipped=run.skipped,
        settings=run.settings,
        interim=run.interim.state(),
    )
    await write_checkpoint(
        run.store.folder / "checkpoints", state, save=run.engine.save, keep=run.keep_checkpoints
    )
    return run.progress_at(state.seconds)


async def apply_decision(run: Run, verdict: Decision, *, moved: bool) -> None:
    """Publish the trained adapter, or the earlier one to which the alarms roll back."""
    if verdict.roll_back_to is not None:
        earlier = run.store.adapter(verdict.roll_back_to)
        await call_with_fallback(
            lambda: run.engine.load_adapter(earlier), run.engine, ladder=run.ladder
        )
        run.emit(RolledBack(to=verdict.roll_back_to, why=verdict.why))
        log.warning("rolled_back", to=verdict.roll_back_to, why=verdict.why)
    if moved or verdict.roll_back_to is not None:
        await publish(run, run.versions.version + 1)
    if verdict.roll_back_to is not None:
        run.watch.note_restored(run.versions.version)
    if moved and verdict.roll_back_to is None and run.versions.current is not None:
        await run.effect.check(run.versions.current)


async def end_run(run: Run, verdict: Decision) -> None:
    """Stop a run that the alarms end.

    Raises:
        RunError: always; says why, and how to go on.
    """
    folder = run.store.folder
    if verdict.roll_back_to is None:
        raise RunError(f"{verdict.stop}; continue with trustee run --resume {folder}")
    # Unlike an alarm that may pass, this one leaves the run in a state that is worth keeping.
    await store_checkpoint(run)
    best = verdict.roll_back_to
    start = f", from the best version with --adapter {run.store.adapter(best).path}" if best else ""
    raise RunError(f"{verdict.stop}, and start a new run{start}")


async def publish(run: Run, version: int) -> None:
    """Publish the trained adapter as the current version once the engine has a free slot."""
    adapter = run.store.adapter(version)
    async with run.versions.slot():
        await call_with_fallback(lambda: run.engine.publish(adapter), run.engine, ladder=run.ladder)
    await run.versions.announce(adapter)


def check_failures(run: Run, seen: list[Group]) -> None:
    """Stop a run in which too many groups of one step failed.

    Raises:
        RunError: if at least four steps' worth of groups failed within this step.
    """
    failed = [group for group in seen if len(group.valid) < 2]
    if len(failed) < 4 * run.rollout.groups_per_step:
        return
    reasons = [
        failure
        for group in failed
        for failure in (group.failure, *(t.failure for t in group.trajectories))
        if failure is not None
    ]
    detail = f"{reasons[-1].source}: {reasons[-1].message}" if reasons else "unknown"
    raise RunError(
        f"{len(failed)} groups in one step failed, the last because of {detail}; "
        "see tasks.jsonl and episodes.jsonl in the run folder"
    )


def describe_groups(groups: list[Group]) -> dict[str, Any]:
    """Return the metrics of a step's episodes."""
    members = [trajectory for group in groups for trajectory in group.trajectories]
    valid = [trajectory for group in groups for trajectory in group.valid]
    failures = [t.failure for t in members if t.failure]
    failures += [group.failure for group in groups if group.failure]
    failed_by = [failure.source for failure in failures]
    calling = [[bool(turn.message.calls) for turn in t.turns] for t in valid]
    count = max(1, len(valid))
    return {
        "episodes": len(members),
        "reward": sum(t.reward for t in valid) / count,
        "share_positive": sum(t.reward > 0 for t in valid) / count,
        "share_negative": sum(t.reward < 0 for t in valid) / count,
        "turns": sum(len(t.turns) for t in valid) / count,
        "completion_tokens": sum(len(u.completion.ids) for t in valid for u in t.turns) / count,
        "call_turns": sum(map(sum, calling)) / count,
        "share_without_call": sum(not any(turns) for turns in calling) / count,
        "stops": count_words(str(t.stop) for t in members),
        **{f"failed_{role}": failed_by.count(role) for role in Role},
        "failure_kinds": count_words(f"{failure.source} {failure.kind}" for failure in failures),
    }


def count_words(words: Iterable[str]) -> dict[str, int]:
    """Return how often each word occurs, in an order that depends on the words alone."""
    return dict(sorted(Counter(words).items()))
