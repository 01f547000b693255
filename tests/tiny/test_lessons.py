"""Lessons of the built-in model: each role's is right by a second opinion, each policy as flawed.

The second opinion replays an episode from its messages in a world of its own and never looks at
what the lesson's maker gathered.
"""

from __future__ import annotations

import json
import random
import re
from typing import Any, NamedTuple

import msgspec
import pytest

from trustee.environments.micro.tasks import draw_aspects, judge_truly, plan_task, sample_tools
from trustee.environments.micro.world import THINGS, Goal, MicroWorld, fact
from trustee.environments.simulated.curriculum import AMBIGUITIES, GUIDANCE, PERSONAS
from trustee.environments.simulated.facts import Executed, gather_facts
from trustee.environments.simulated.roles import (
    Criterion,
    UserAnswer,
    WrittenTask,
    check_task,
    check_user,
)
from trustee.environments.splits import is_reserved
from trustee.tiny import lessons
from trustee.tiny.lessons import (
    CARELESS,
    FAULTLESS,
    NO_COMPLETION,
    Habits,
    Lesson,
    ScriptedEpisode,
    teach,
)
from trustee.types import Message, ToolCall, Turn

EPISODES = 300


class Episode(NamedTuple):
    """One episode's lessons, and the stage that they come from."""

    stage: ScriptedEpisode
    start: dict[str, int | str]
    """What was written in the world before the first call."""
    lessons: list[Lesson]

    def answers(self, role: str) -> list[tuple[str, dict[str, Any]]]:
        """Give the prompts and answers of a role."""
        return [
            (lesson.messages[0].content, json.loads(lesson.messages[1].content))
            for lesson in self.lessons
            if lesson.role == role
        ]

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation of the policy."""
        return self.lessons[-1].messages

    @property
    def goals(self) -> tuple[Goal, ...]:
        """What the user wanted."""
        return self.stage.plan.goals


class Kept(ScriptedEpisode):
    """A stage that can be looked at afterwards."""

    made: list[Kept]

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.start: dict[str, int | str] = {}
        self.made.append(self)

    def play(self) -> None:
        self.start = dict(self.world.written)
        super().play()


def play(habits: Habits, *, reserved: bool = False, count: int = EPISODES) -> list[Episode]:
    """Play seeded episodes."""
    episodes = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Kept, "made", [], raising=False)
        patch.setattr(lessons, "ScriptedEpisode", Kept)
        for seed in range(count):
            taught = teach(random.Random(seed), habits=habits, reserved=reserved)
            stage = Kept.made[-1]
            episodes.append(Episode(stage, stage.start, taught))
    return episodes


@pytest.fixture(scope="module")
def careless() -> list[Episode]:
    """Play the careless policy."""
    return play(CARELESS)


@pytest.fixture(scope="module")
def faultless() -> list[Episode]:
    """Play the faultless policy."""
    return play(FAULTLESS)


class Second(NamedTuple):
    """A second opinion on an episode."""

    criteria: dict[Criterion, bool]
    results: list[dict[str, Any]]
    """What each call brought, in order."""


def judge_again(episode: Episode) -> Second:
    """Replay an episode's calls in a world of its own and hold what was said against it."""
    world = MicroWorld(seed=episode.stage.world._seed)
    world.written = dict(episode.start)
    asked = " ".join(m.content for m in episode.messages if m.role == "user").split()
    said = [m.content for m in episode.messages if m.role == "assistant"]
    calls = [call for message in episode.messages for call in message.calls]
    good = [call for call in calls if isinstance(call, ToolCall)]
    results: list[dict[str, Any]] = []
    wrote: dict[tuple[str, str], Any] = {}
    read: dict[tuple[str, str], Any] = {}
    since: set[str] = set()
    ever: set[str] = set()
    repeated = False
    for call in good:
        result, changes = world.call(call.name, call.arguments)
        results.append(result)
        thing = THINGS[call.name.split("_")[1]]
        at = (thing.name, call.arguments[thing.place])
        key = f"{call.name} {sorted(call.arguments.items())}"
        if changes:
            wrote.setdefault(at, set()).add(call.arguments[thing.kind])
            repeated |= key in ever
            ever.add(key)
            since.clear()
        else:
            read[at] = result[thing.kind]
            repeated |= key in since
            since.add(key)
    fulfilled = wrote == {(g.thing, g.place): {g.value} for g in episode.goals if g.value}
    invented = False
    for goal in episode.goals:
        at = (goal.thing, goal.place)
        truth = read.get(at) if goal.value is None else goal.value
        made = at in read if goal.value is None else goal.value in wrote.get(at, ())
        claims = re.findall(re.escape(fact(*at, "")) + r"(\w+)", " ".join(said))
        fulfilled &= made and claims[-1:] == [str(truth)]
        invented |= bool(claims) and not (made and claims[-1] == str(truth))
        known = all(str(value) in asked for value in goal.call.arguments.values())
        invented |= bool(good) and not known
    wanted = {goal.call.name for goal in episode.goals}
    questions = sum(text.endswith("?") for text in said)
    return Second(
        {
            Criterion.FULFILLED: fulfilled,
            Criterion.RIGHT_TOOLS: {call.name for call in good} == wanted and good == calls,
            Criterion.NO_INVENTION: not invented,
            Criterion.NO_REPETITION: not repeated,
            Criterion.EFFICIENT: len(calls) <= len(episode.goals) and questions <= 1,
        },
        results,
    )


def test_every_role_is_taught(careless: list[Episode]) -> None:
    """An episode has a writer, a judge and a policy, a user for each text, a tool for each call."""
    for episode in careless:
        roles = [lesson.role for lesson in episode.lessons]
        texts = [m for m in episode.messages if m.role == "assistant" and m.content]
        good = [c for m in episode.messages for c in m.calls if isinstance(c, ToolCall)]
        assert ("writer", "judge", "policy") == (roles[0], roles[-2], roles[-1])
        assert (len(texts), len(good)) == (roles.count("user"), roles.count("tool"))
        assert len(texts) + len(good) + 3 == len(roles)


def said_elsewhere(episode: Episode) -> bool:
    """Say whether another goal happens to say all that the first leaves out."""
    plan = episode.stage.plan
    told = [str(v) for goal in plan.goals[1 : plan.told] for v in goal.call.arguments.values()]
    hidden = [str(plan.goals[0].call.arguments[name]) for name in plan.hidden]
    return bool(hidden) and all(value in told for value in hidden)


def test_writers_are_right(careless: list[Episode]) -> None:
    """The writer's task passes the checks of code, but where a hidden value is also another's."""
    chance = 0
    for episode in careless:
        ((_, written),) = episode.answers("writer")
        task = msgspec.convert(written, WrittenTask)
        plan = episode.stage.plan
        refusal = "the query says every value although it should leave some out"
        expected = refusal if said_elsewhere(episode) else None
        assert expected == check_task(task, plan.tools, plan.aspects), task
        assert task.query == episode.messages[1].content
        assert [goal.call for goal in plan.goals] == list(task.expected_calls)
        assert [goal.text for goal in plan.goals] == task.intent.split(" ; ")
        chance += expected is not None
    assert chance / EPISODES < 0.04


def test_users_are_right(careless: list[Episode]) -> None:
    """The user's answers pass the checks of code and are what the policy reads next."""
    for episode in careless:
        texts = [
            index
            for index, message in enumerate(episode.messages)
            if message.role == "assistant" and message.content
        ]
        intent = episode.stage.intent
        for index, (prompt, said) in zip(texts, episode.answers("user"), strict=True):
            answer = msgspec.convert(said, UserAnswer)
            before = episode.messages[: index + 1]
            tools = episode.stage.plan.tools
            assert check_user(answer, before, intent=intent, tools=tools) is None
            following = [message.content for message in episode.messages[index + 1 :][:1]]
            assert ([] if answer.done else [answer.message]) == following
            assert f"assistant: {before[-1].content}" in prompt
            assert all(part in intent for part in answer.still_open.split(" ; ")) or (
                answer.still_open == "nothing"
            )
        assert [True] == [said["done"] for _, said in episode.answers("user")][-1:]


def test_tools_are_right(careless: list[Episode]) -> None:
    """The tool answers from the state that its prompt shows, or as the world says, every time."""
    known = 0
    for episode in careless:
        results = judge_again(episode).results
        state: dict[str, Any] = dict(episode.start)
        for (prompt, said), result in zip(episode.answers("tool"), results, strict=True):
            assert result == said["result"]
            shown = json.loads(prompt.partition("\nstate ")[2].partition("\n")[0])
            assert state == shown
            name, _, arguments = prompt.partition("\ncall ")[2].strip().partition(" ")
            verb, thing = name.split("_")
            place, *values = json.loads(arguments).values()
            if verb == "read":
                assert {} == said["changes"]
                if f"{thing} {place}" in shown:
                    known += 1
                    assert [shown[f"{thing} {place}"]] == list(said["result"].values())
            else:
                assert {"ok": True} == said["result"]
                assert {f"{thing} {place}": values[0]} == said["changes"]
            state |= said["changes"]
    assert known > 5


def test_judges_are_right(careless: list[Episode]) -> None:
    """The judge's verdicts are those of a second opinion, in as many criteria as are asked for."""
    seen: set[tuple[str, bool]] = set()
    for episode in careless:
        ((_, verdict),) = episode.answers("judge")
        second = {str(key): holds for key, holds in judge_again(episode).criteria.items()}
        asked = [c.value for c in Criterion][: episode.stage.plan.aspects.strictness]
        assert ["evidence", *asked] == list(verdict)
        for name in asked:
            assert second[name] == verdict[name], (name, verdict, episode.messages)
        seen |= {(name, verdict[name]) for name in asked}
    assert {(c.value, holds) for c in Criterion for holds in (True, False)} == seen


def test_verdict_matches_its_evidence(careless: list[Episode]) -> None:
    """The evidence says yes for every goal where the intent is fulfilled, and nowhere else lies."""
    for episode in careless:
        ((_, verdict),) = episode.answers("judge")
        parts = verdict["evidence"].split(" ; ")
        goals = parts[: len(episode.goals)]
        assert [[g.thing, g.place] for g in episode.goals] == [p.split()[:2] for p in goals]
        good = all(part.endswith(" yes") for part in goals) and "extra set" not in parts
        assert good == verdict["fulfilled"]


def test_faultless_policy_always_succeeds(faultless: list[Episode]) -> None:
    """Without bad habits every criterion holds in every episode."""
    assert [dict.fromkeys(Criterion, True)] * EPISODES == [
        judge_again(episode).criteria for episode in faultless
    ]


def test_careless_policy_succeeds_sometimes(careless: list[Episode]) -> None:
    """Bad habits leave something to learn and something to start from."""
    wins = sum(judge_again(episode).criteria[Criterion.FULFILLED] for episode in careless)
    assert 0.2 < wins / EPISODES < 0.6


@pytest.mark.parametrize(
    ("extra", "fulfilled"), [("", True), ("read_fan", True), ("set_fan", False)]
)
def test_needless_write_does_harm(extra: str, fulfilled: bool) -> None:
    """Writing more than was wanted spoils what was wanted; reading more does no harm."""
    goal = Goal(thing="lamp", place="attic", value=12)
    other = Goal(thing="fan", place="hall", value="eco" if extra == "set_fan" else None)
    made = [goal, other] if extra else [goal]
    executed = [
        Executed(call=ToolCall(id=g.thing, **msgspec.to_builtins(g.call)), result="{}", ok=True)
        for g in made
    ]
    query = Message(role="user", content="set lamp attic level 12")
    report = Turn(
        rendered_ids=(),
        completion=NO_COMPLETION,
        message=Message(role="assistant", content="ok , lamp attic level 12"),
    )
    facts = gather_facts(executed, [goal.call], malformed=0)
    truth = judge_truly([query], [report], executed, facts)
    assert fulfilled == truth.criteria[Criterion.FULFILLED]
    parts = ["lamp attic told made 12 said 12 yes", *([f"extra {extra[:-4]}"] if extra else [])]
    assert " ; ".join(parts) == truth.evidence


@pytest.mark.parametrize(
    ("habit", "criterion"),
    [
        ("guess", Criterion.NO_INVENTION),
        ("skip", Criterion.FULFILLED),
        ("wrong_value", Criterion.FULFILLED),
        ("wrong_tool", Criterion.RIGHT_TOOLS),
        ("claim", Criterion.NO_INVENTION),
        ("misreport", Criterion.NO_INVENTION),
        ("repeat", Criterion.NO_REPETITION),
        ("needless", Criterion.EFFICIENT),
        ("malformed", Criterion.RIGHT_TOOLS),
    ],
)
def test_each_habit_costs_its_criterion(habit: str, criterion: Criterion) -> None:
    """A habit alone violates what it should violate; without it nothing does."""
    played = play(msgspec.structs.replace(FAULTLESS, **{habit: 1.0}), count=60)
    held = [judge_again(episode).criteria[criterion] for episode in played]
    assert 50 > sum(held), held


def test_lessons_never_offer_a_reserved_pair(
    careless: list[Episode], faultless: list[Episode]
) -> None:
    """What is kept for evaluation is never taught together."""
    for episode in (*careless, *faultless):
        assert not is_reserved(episode.lessons[-1].tools, one_in=6)
        assert episode.lessons[-1].tools == episode.stage.plan.tools


def test_reserved_lessons_offer_one() -> None:
    """Tasks for evaluation hold a reserved pair, every time."""
    for episode in play(CARELESS, reserved=True, count=60):
        assert is_reserved(episode.lessons[-1].tools, one_in=6)


@pytest.mark.parametrize("reserved", [True, False, None])
def test_sampled_tools(reserved: bool | None) -> None:
    """Tools are different ones of one category; `reserved` chooses the side of the split."""
    rng = random.Random(0)
    sides = set()
    for _ in range(100):
        tools = sample_tools(rng, 3, reserved=reserved)
        assert 3 == len({tool.name for tool in tools})
        assert 1 == len({tool.category for tool in tools})
        sides.add(is_reserved(tools, one_in=6))
    assert {True: {True}, False: {False}, None: {True, False}}[reserved] == sides


def test_category_has_no_more_tools_than_it_has() -> None:
    """More tools than a category holds are all of them."""
    assert 8 == len(sample_tools(random.Random(0), 20, reserved=None))


def test_aspects_are_drawn_over_their_range() -> None:
    """Every value of every aspect comes up."""
    rng = random.Random(0)
    drawn = [draw_aspects(rng) for _ in range(400)]

    def values(name: str) -> set[Any]:
        return {getattr(aspects, name) for aspects in drawn}

    assert {1, 2, 3, 4} == values("tools")
    assert {1, 2, 3} == values("calls")
    assert {1, 2} == values("turns")
    assert set(range(1, 6)) == values("strictness")
    assert (set(GUIDANCE), set(PERSONAS), set(AMBIGUITIES)) == (
        values("guidance"),
        values("persona"),
        values("ambiguity"),
    )


def test_plans_fit_their_aspects() -> None:
    """A plan has as many goals as calls, on different things or places, with the tools offered."""
    rng = random.Random(0)
    for _ in range(200):
        aspects = draw_aspects(rng)
        tools = sample_tools(rng, aspects.tools)
        plan = plan_task(rng, tools, aspects)
        assert aspects.calls == len(plan.goals) == len({(g.thing, g.place) for g in plan.goals})
        assert {goal.call.name for goal in plan.goals} <= {tool.name for tool in tools}
        assert (1 if aspects.turns > 1 else aspects.calls) == plan.told
        assert (aspects.ambiguity == "clear") == (plan.hidden == ())


def test_equal_seeds_give_equal_lessons() -> None:
    """An episode depends on its generator alone."""
    first, again = ([teach(random.Random(seed)) for seed in range(20)] for _ in range(2))
    assert first == again
    assert first[0] != first[1]


def test_truth_takes_a_call_by_what_it_means() -> None:
    """A place in other letters is the expected call too, and its own result tells what is so."""
    goal = Goal(thing="heater", place="porch", value=None)
    call = ToolCall(id="1", name="read_heater", arguments={"room": " Porch"})
    executed = [Executed(call=call, result='{"hour": 7}', ok=True)]
    facts = gather_facts(executed, [goal.call], malformed=0)
    opening = (Message(role="user", content="read heater porch"),)
    truth = judge_truly(opening, (), executed, facts)
    assert "heater porch told made 7 said none no" == truth.evidence
