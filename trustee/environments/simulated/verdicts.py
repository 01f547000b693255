"""The two ways to pay for an episode: facts before the judge, or the judge alone.

`facts`: code settles what it can, a bad call costs -1 whatever follows, and the judge decides what
is left. `published`, as the authors' code does: a policy that never calls gets -1, and for every
other episode the judge alone decides, so a bad call can be made good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trustee.environments.simulated.criteria import Criterion
from trustee.environments.simulated.facts import fact_lines, gather_facts, reward_of, settle
from trustee.environments.simulated.role_set import FactsJudge, LoneJudge, Reward
from trustee.environments.simulated.scene import Scene
from trustee.types import Outcome, Score, Stop, Turn


async def score_by_facts(
    judge: FactsJudge, scene: Scene, turns: Sequence[Turn], stop: Stop
) -> Score:
    """Decide each criterion by facts if they settle it, otherwise by the judge."""
    facts = gather_facts(
        scene.executed,
        scene.hidden.expected_calls,
        malformed=scene.malformed,
        writes=scene.writes,
    )
    settled = {c: settle(facts, c) for c in scene.hidden.criteria}
    evidence, asked = "settled by code", False
    if stop in (Stop.TOKENS, Stop.CONTEXT, Stop.RESPONSE):
        settled[Criterion.FULFILLED] = False
    if facts.malformed:
        settled = dict.fromkeys(settled, False)
    elif settled[Criterion.FULFILLED] is None:
        opinion = await judge.judge_with_facts(scene, turns, facts)
        evidence, asked = opinion.evidence, opinion.asked
        settled = {c: opinion.criteria[c] if kept is None else kept for c, kept in settled.items()}
    criteria = {c: bool(holds) for c, holds in settled.items()}
    return Score(
        rewards={"verdict": reward_of(facts, criteria)},
        outcome=Outcome(
            criteria={c.value: holds for c, holds in criteria.items()}, asked_judge=asked
        ),
        notes={"evidence": evidence, "facts": fact_lines(facts), "state": scene.state},
    )


async def score_by_judge(
    judge: LoneJudge, scene: Scene, turns: Sequence[Turn], stop: Stop
) -> Score:
    """Give -1 to an episode without a call, and to any other what the judge alone says."""
    heard = leave_out_unheard(turns, stop)
    if not any(turn.message.calls for turn in heard):
        return Score(
            rewards={"verdict": -1.0},
            outcome=Outcome(asked_judge=False),
            notes={"evidence": "no call was made", "malformed": scene.malformed},
        )
    opinion = await judge.judge_alone(scene, heard)
    reward = count_criteria(opinion.criteria) if opinion.reward is None else opinion.reward
    return Score(
        rewards={"verdict": float(reward)},
        outcome=Outcome(
            criteria={c.value: holds for c, holds in opinion.criteria.items()},
            asked_judge=opinion.asked,
        ),
        notes={"evidence": opinion.evidence, "malformed": scene.malformed},
    )


def leave_out_unheard(turns: Sequence[Turn], stop: Stop) -> Sequence[Turn]:
    """Return the turns without a last message that a limit of length kept from the world."""
    unheard = stop is not Stop.DONE and turns and not turns[-1].replies
    return turns[:-1] if unheard else turns


def count_criteria(criteria: Mapping[Criterion, bool]) -> Reward:
    """Return the published scale: 1 if all hold, 0 if more than half do, else -1."""
    met = sum(criteria.values())
    if met == len(criteria):
        return 1
    return 0 if 2 * met > len(criteria) else -1
