"""Checks of the judge: a run whose judge is wrong too often stops and says what to change.

Each check asks a question whose answer is known beforehand, so a wrong answer shows that the judge
is broken: it accepts or refuses everything, or obeys the policy. Its neighbours check the adapter's
effect and the call parser; alarms over a run's own metrics are in `alarms.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import anyio

from trustee.checks.canaries import Known, read_canaries
from trustee.checks.config import GateConfig
from trustee.environments.protocol import Services, World
from trustee.environments.simulated.episode import judge_episode
from trustee.environments.simulated.roles import Criterion
from trustee.environments.simulated.rules import Rules
from trustee.environments.simulator import Simulator
from trustee.errors import RunError, SimulatorError
from trustee.types import Record, Score, Task, Trajectory

FEWEST_EPISODES = 30
"""Minimum number of judged episodes for comparing a judge with the truth."""
FEWEST_OF_A_KIND = 10
"""Minimum number of truly good, and of truly bad, episodes for using their separate shares."""
FEWEST_ANCHORED = 64
"""Minimum number of an anchor's episodes for comparing judge and proof."""


class Verdicts(Record, frozen=True):
    """A judge's results on episodes with a known verdict; names are of wrongly judged episodes."""

    good: int
    """Number of episodes that really fulfil their task."""
    bad: int
    """Number of episodes that do not."""
    false_accepts: tuple[str, ...]
    """Bad episodes that the judge accepted."""
    false_refuses: tuple[str, ...]
    """Good episodes that the judge refused, or gave no usable verdict on."""

    @property
    def agreement(self) -> float:
        """The mean of two shares: good episodes, and bad episodes, that were judged correctly.

        So a judge that refuses everything does not score well when the policy mostly fails. With
        too few good or bad episodes, it is the share of all episodes.
        """
        wrong = (len(self.false_accepts), len(self.false_refuses))
        if min(self.good, self.bad) < FEWEST_OF_A_KIND:
            return 1 - sum(wrong) / max(1, self.good + self.bad)
        return 1 - (wrong[0] / self.bad + wrong[1] / self.good) / 2

    def count(self) -> str:
        """Return the counts as text."""
        return (
            f"{len(self.false_accepts)} of {self.bad} bad episodes accepted, "
            f"{len(self.false_refuses)} of {self.good} good ones refused"
        )

    def describe(self) -> str:
        """Return the counts and the first names as text."""
        return "; ".join(
            f"{verb} {len(names)} of {count}" + (f" ({', '.join(names[:5])})" if names else "")
            for verb, names, count in (
                ("accepted", self.false_accepts, f"{self.bad} bad episodes"),
                ("refused", self.false_refuses, f"{self.good} good ones"),
            )
        )


def is_accepted(score: Score) -> bool:
    """Whether a judge takes an episode for a success: by its criteria, or else by its reward."""
    criteria = score.outcome.criteria
    return criteria[Criterion.FULFILLED] if criteria else sum(score.rewards.values()) > 0


async def ask_judge(
    episodes: Sequence[Known],
    *,
    rules: Rules,
    simulator: Simulator,
    whole: bool = True,
    done: Callable[[], None] = lambda: None,
) -> Verdicts:
    """Have a run's judge score episodes as in training: facts first, then its verdict.

    Without `whole` only those count on which the judge was asked: what code settles says nothing
    about a judge, and a judge of one answer must be found out.
    """
    accepted: dict[str, bool] = {}
    settled: set[str] = set()

    async def ask(known: Known) -> None:
        services = Services(simulator=simulator, rng=random.Random(f"gate {known.name}"))
        try:
            score = await judge_episode(known.task, known.turns, known.stop, services, rules=rules)
        except SimulatorError:
            # Without a verdict there is no reward, so the episode counts as not accepted.
            accepted[known.name] = False
        else:
            accepted[known.name] = is_accepted(score)
            if not (whole or score.outcome.asked_judge):
                settled.add(known.name)
        done()

    async with anyio.create_task_group() as tasks:
        for known in episodes:
            tasks.start_soon(ask, known)
    counted = [known for known in episodes if known.name not in settled]
    good = [known.name for known in counted if known.good]
    bad = [known.name for known in counted if not known.good]
    return Verdicts(
        good=len(good),
        bad=len(bad),
        false_accepts=tuple(name for name in bad if accepted[name]),
        false_refuses=tuple(name for name in good if not accepted[name]),
    )


async def check_canaries(
    world: World,
    simulator: Simulator,
    *,
    config: GateConfig,
    done: Callable[[], None] = lambda: None,
) -> Verdicts | None:
    """Test the judge on episodes of known verdict; None without a judge or with the checks off.

    `done` is called after each episode.

    Raises:
        InputError: if the world's prompt set has no canaries.
        RunError: if the judge wrongly accepts or refuses too many.
    """
    rules = world.judge_rules()
    if rules is None or not config.shows_canaries:
        return None
    verdicts = await ask_judge(
        read_canaries(rules.prompts),
        rules=rules,
        simulator=simulator,
        whole=False,
        done=done,
    )
    for names, count, limit, key in (
        (verdicts.false_accepts, verdicts.bad, config.false_accepts, "gates.false_accepts"),
        (verdicts.false_refuses, verdicts.good, config.false_refuses, "gates.false_refuses"),
    ):
        if limit is not None and len(names) > limit * count:
            raise RunError(
                f"the judge fails on canaries: it {verdicts.describe()}, and {key} allows "
                f"{limit:.0%} wrong; the policy would learn what such a judge rewards, so use a "
                "stronger base (model.path), check simulator.judge and the prompt set, or "
                "raise the limit knowingly"
            )
    return verdicts


async def compare_judge(
    tasks: Sequence[Task],
    trajectories: Sequence[Trajectory],
    *,
    held_out: World,
    training: World,
    simulator: Simulator,
    config: GateConfig,
    done: Callable[[], None] = lambda: None,
) -> Verdicts | None:
    """Ask the training judge about episodes that the held-out world has scored by the truth.

    Return None if the held-out world does not know the truth, if training has no judge, if the
    check is off, or if there are fewer than `FEWEST_EPISODES` valid episodes.
    """
    rules = training.judge_rules()
    by_id = {task.id: judged for task in tasks if (judged := held_out.as_judged(task)) is not None}
    if rules is None or not by_id:
        return None
    valid = [t for t in trajectories if t.failure is None]
    if len(valid) < FEWEST_EPISODES or config.agreement is None:
        return None
    return await ask_judge(
        [
            Known(
                name=t.id,
                task=by_id[t.task_id],
                turns=t.turns,
                stop=t.stop,
                good=t.reward > 0,
            )
            for t in valid
        ],
        rules=rules,
        simulator=simulator,
        done=done,
    )


def check_agreement(verdicts: Verdicts, *, config: GateConfig) -> None:
    """Stop a run whose judge disagrees with the truth.

    Raises:
        RunError: if judge and truth agree too rarely.
    """
    if config.agreement is not None and verdicts.agreement < config.agreement:
        raise RunError(
            f"the judge agrees with the truth of the held-out world in {verdicts.agreement:.0%} "
            f"(gates.agreement asks for {config.agreement:.0%}): it {verdicts.describe()}; the "
            "policy would learn to please the judge instead of serving users, so use a stronger "
            "base (model.path) or read held-out-*.jsonl to see what it takes for success"
        )


def check_anchor(figures: Mapping[str, float], *, config: GateConfig) -> None:
    """Stop a run whose judge does not agree with what an anchor's tools have proved.

    `figures` are the metrics of a source, with or without an anchor.

    Raises:
        RunError: if they correlate too little over at least `FEWEST_ANCHORED` episodes.
    """
    found = figures.get("anchor_correlation")
    count = int(figures.get("anchor_episodes", 0))
    if config.correlation is None or found is None or count < FEWEST_ANCHORED:
        return
    if found < config.correlation:
        raise RunError(
            f"over the anchor's last {count} episodes the judge's verdicts correlate by "
            f"{found:.2f} with what the tools proved, and gates.correlation asks for "
            f"{config.correlation:g}: judge and truth diverge, so the simulated tasks would teach "
            "the policy to please the judge; compare outcome.judged with the rewards in "
            "episodes.jsonl, use a stronger base (model.path), or raise env.share to train on more "
            "proof"
        )
