"""The world of trial and execution: phases, budgets, and that the inner world scores execution."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from dice import Dice
from scripts import cast, make_simulator, perfect
from trustee.engine.scripted import ScriptedEngine
from trustee.environments.executable.environment import Executable
from trustee.environments.micro.environment import Microworld
from trustee.environments.protocol import Environment, Opening, Services, TaskSource, World
from trustee.environments.simulated.curriculum import Curriculum
from trustee.environments.simulated.environment import Simulated
from trustee.environments.trial.environment import (
    HiddenTrial,
    Trial,
    TrialEnvironment,
)
from trustee.environments.trial.transforms.names import Opaque
from trustee.environments.trial.transforms.perturbation import to_shown_call
from trustee.environments.trial.transforms.supply import Break, Lookalikes
from trustee.errors import InputError
from trustee.tiny.teacher import TrialHabits, play_demonstration
from trustee.types import (
    BadCall,
    Completion,
    ExpectedCall,
    Group,
    Label,
    Message,
    Phase,
    Score,
    Stop,
    Task,
    ToolCall,
    Trajectory,
    TrialFacts,
    Turn,
)

pytestmark = pytest.mark.anyio

ONE_CALL = Curriculum(tools=(2, 3), calls=(1, 1), turns=(1, 1))
NOTE = "ok , call {}"


def trial(**changes: Any) -> Trial:
    """Make a trial over the true micro-world, tasks of one call."""
    settings: dict[str, Any] = {
        "inner": Microworld(difficulty=1, curriculum=ONE_CALL),
        "prompts": "tiny",
        "transforms": (Break(), Lookalikes()),
        "trial_turns": 4,
        "trial_calls": 4,
        "execution_turns": 3,
        "execution_calls": 1,
    }
    return Trial(**(settings | changes))


def services(seed: int = 0) -> Services:
    """Give services whose simulator plays the micro-world."""
    simulator = make_simulator(ScriptedEngine(cast(perfect)), tries=4)
    return Services(simulator=simulator, rng=random.Random(seed))


async def write_task(world: Trial, *, seed: int = 0, held_out: bool = False) -> Task:
    """Write the first task of a source."""
    source = world.source(seed=seed, held_out=held_out)
    spec = source.draw()
    assert spec is not None
    return await source.write(spec, services())


class Episode:
    """An environment, and the turns that were played in it."""

    def __init__(self, world: Trial, task: Task) -> None:
        self.task = task
        self.hidden = msgspec.convert(task.hidden, HiddenTrial)
        self.environment = TrialEnvironment(world, task, services())
        self.turns: list[Turn] = []
        self.done = False
        self._calls = 0
        (self.wanted,) = world.inner.reference_calls(self.hidden.inner)
        shown_call = to_shown_call(self.hidden.chain, self.wanted)
        assert shown_call is not None
        self.right = shown_call
        self.note = NOTE.format(shown_call.name)
        self.dead = tuple(
            tool.name
            for tool in task.tools
            if tool.name.split("_")[:2] == shown_call.name.split("_")[:2]
            and tool.name != shown_call.name
        )

    async def say(self, text: str = "", *calls: ExpectedCall | BadCall) -> tuple[Message, ...]:
        """Speak as the policy."""
        made: list[ToolCall | BadCall] = []
        for call in calls:
            self._calls += 1
            if isinstance(call, ExpectedCall):
                call_id = f"c{self._calls}"
                made.append(ToolCall(id=call_id, name=call.name, arguments=call.arguments))
            else:
                made.append(call)
        message = Message(role="assistant", content=text, calls=tuple(made))
        reply = await self.environment.reply(message)
        self.turns.append(turn(message, reply.messages))
        self.done = reply.done
        return reply.messages

    async def score(self, stop: Stop = Stop.DONE) -> Score:
        """Score what was played."""
        return await self.environment.score(self.turns, stop)

    def facts(self, score: Score) -> TrialFacts:
        """Return what a score says of the trial."""
        assert score.outcome.trial is not None
        return score.outcome.trial

    def use(self, name: str) -> ExpectedCall:
        """Give the task's call under another name."""
        return ExpectedCall(name=name, arguments=self.right.arguments)

    async def report(self) -> None:
        """Report truly, as the oracle wants it."""
        told = self.turns[-1].replies[0].content
        result = json.loads(told)
        thing = self.wanted.name.split("_", 1)[1]
        place, *values = self.wanted.arguments.values()
        kind = next((k for k in result if k != "ok"), None)
        if kind is None:
            kind = [*self.wanted.arguments][1]
        value = values[0] if values else result[kind]
        await self.say(f"ok , {thing} {place} {kind} {value}")


def turn(message: Message, replies: Sequence[Message] = ()) -> Turn:
    """Make a turn without ids."""
    nothing = Completion(ids=(), logprobs=(), stop="stop", version=0)
    return Turn(rendered_ids=(), completion=nothing, message=message, replies=tuple(replies))


async def begin(world: Trial, *, seed: int = 0) -> Episode:
    """Write a task and open its episode."""
    episode = Episode(world, await write_task(world, seed=seed))
    await episode.environment.open()
    return episode


async def test_trial_note_and_execution_are_one_episode() -> None:
    """Calls are tried, the note opens the execution phase, and the inner world's user ends it."""
    episode = await begin(trial())
    query = episode.hidden.inner.messages[-1].content
    assert f"try the tools : {query}" == episode.task.messages[-1].content
    (failed,) = await episode.say("", episode.use(episode.dead[0]))
    assert failed.content in ('{"error": "down"}', '{"result": null}')
    await episode.say("", episode.right)
    assert (Message(role="user", content=f"now call : {query}"),) == await episode.say(episode.note)
    await episode.say("", episode.right)
    assert not episode.done
    await episode.report()
    assert episode.done
    score = await episode.score()
    assert {"success": 1.0, "format": 0.0} == score.rewards
    facts = episode.facts(score)
    trial_phase, execution = Phase.TRIAL, Phase.EXECUTION
    assert (trial_phase, trial_phase, Phase.NOTE, execution, execution) == facts.phases
    assert (Label.USEFUL, Label.USEFUL, Label.DIRECT) == facts.labels
    assert episode.note == facts.note


async def test_effects_of_the_trial_never_reach_execution() -> None:
    """A write of the trial is not there afterwards, and does not count as done."""
    for seed in range(20):
        episode = await begin(trial(), seed=seed)
        if episode.wanted.name.startswith("set_"):
            break
    await episode.say("", episode.right)
    await episode.say(episode.note)
    thing = episode.wanted.name.split("_", 1)[1]
    place, value = episode.wanted.arguments.values()
    kind = [*episode.wanted.arguments][1]
    await episode.say(f"ok , {thing} {place} {kind} {value}")
    score = await episode.score()
    assert {"success": 0.0, "format": 0.0} == score.rewards
    assert score.notes["facts"].splitlines()[0].endswith(": not made")


@pytest.mark.parametrize(
    ("tries", "note", "expected"),
    [(True, NOTE, 0.0), (True, "ok", -0.1), (False, NOTE, -0.1), (False, "ok", -0.2)],
)
async def test_form_takes_off_half_its_weight_for_each_lack(
    tries: bool, note: str, expected: float
) -> None:
    """The form of the trial costs, it never pays: a failure stays a failure."""
    episode = await begin(trial(format_weight=0.2))
    if tries:
        await episode.say("", episode.right)
    await episode.say(note.format(episode.right.name))
    await episode.say("", episode.right)
    await episode.report()
    assert {"success": 1.0, "format": expected} == (await episode.score()).rewards


@pytest.mark.parametrize(
    ("text", "noted"), [(" use {} ", True), ("{}\nworks", True), ("use it", False), ("", False)]
)
async def test_note_is_known_by_the_tool_it_names(text: str, noted: bool) -> None:
    """A message that names no tool closes the trial as well, and is no note."""
    episode = await begin(trial())
    said = text.format(episode.right.name)
    (opening,) = await episode.say(said)
    assert opening.content.startswith("now call : ")
    assert (said.strip() if noted else "") == episode.facts(await episode.score()).note


async def test_used_up_trial_calls_ask_for_the_note() -> None:
    """At the last call the world asks; a further call is refused and the execution begins."""
    episode = await begin(trial(trial_calls=2))
    replies = await episode.say("", episode.right, episode.right, episode.right)
    assert ["tool", "tool", "tool", "user"] == [m.role for m in replies]
    assert {"error": "no calls are left"} == json.loads(replies[2].content)
    assert "which tool ?" == replies[3].content
    refused, opening = await episode.say("", episode.right)
    assert {"error": "the trial is over; this call was not made"} == json.loads(refused.content)
    assert opening.content.startswith("now call : ")
    facts = episode.facts(await episode.score())
    assert (Phase.TRIAL, Phase.NOTE) == facts.phases
    assert (3, "") == (facts.trials, facts.note)


async def test_used_up_trial_turns_ask_for_the_note() -> None:
    """Messages are counted apart from calls."""
    episode = await begin(trial(trial_turns=1))
    _, asked = await episode.say("", episode.right)
    assert Message(role="user", content="which tool ?") == asked


async def test_execution_budget_allows_no_second_call() -> None:
    """A wrong first call fails the task: the right one comes too late."""
    episode = await begin(trial())
    await episode.say(episode.note)
    await episode.say("", episode.use(episode.dead[0]))
    (late,) = await episode.say("", episode.right)
    assert {"error": "no calls are left"} == json.loads(late.content)
    assert not episode.done
    await episode.say("ok")
    assert episode.done
    assert {"success": 0.0, "format": -0.05} == (await episode.score()).rewards


async def test_execution_turns_end_the_episode() -> None:
    """The last allowed message ends it, and the inner world hears that it was cut off."""
    episode = await begin(trial(execution_turns=1))
    await episode.say(episode.note)
    await episode.say("", episode.right)
    assert episode.done
    assert 0.0 == (await episode.score()).rewards["success"]


async def test_budget_is_never_below_the_reference_solution() -> None:
    """A task with more calls than the budget is given as many as it needs."""
    two = Curriculum(tools=(3, 3), calls=(2, 2), turns=(1, 1), soft=0.0)
    world = trial(inner=Microworld(difficulty=1, curriculum=two), transforms=(), execution_calls=1)
    task = await write_task(world)
    environment = TrialEnvironment(world, task, services())
    await environment.open()
    await environment.reply(Message(role="assistant", content=NOTE))
    calls = tuple(
        ToolCall(id=f"{i}", name=call.name, arguments=call.arguments)
        for i, call in enumerate(world.inner.reference_calls(task_of(task)))
    )
    reply = await environment.reply(Message(role="assistant", calls=calls))
    assert [False, False] == ["error" in json.loads(m.content) for m in reply.messages]


def task_of(task: Task) -> Task:
    """Give the inner task."""
    return msgspec.convert(task.hidden, HiddenTrial).inner


@pytest.mark.parametrize(
    "name", ["trial_turns", "trial_calls", "execution_turns", "execution_calls"]
)
def test_budget_of_zero_is_refused(name: str) -> None:
    """The error names the budget, and for the trial the setting that leaves it out."""
    with pytest.raises(InputError, match=rf"env\.{name} must be 1 or more, got 0") as caught:
        trial(**{name: 0})
    assert ("env.strip_trial = true" in str(caught.value)) == name.startswith("trial")


async def test_stripped_trial_begins_with_execution() -> None:
    """The first message is the execution's, and no form is asked for."""
    episode = await begin(trial(strip_trial=True))
    query = episode.hidden.inner.messages[-1].content
    assert f"now call : {query}" == episode.task.messages[-1].content
    await episode.say("", episode.right)
    await episode.report()
    score = await episode.score()
    assert {"success": 1.0} == score.rewards
    assert (Phase.EXECUTION, Phase.EXECUTION) == episode.facts(score).phases


async def test_unread_and_unknown_calls_count_in_the_phase_they_were_made_in() -> None:
    """Those of the trial are forgiven; those of the execution reach the inner world's count."""
    bad = BadCall(id="bad", text="{", reason="not JSON")
    other = ExpectedCall(name="no_such_tool", arguments={})
    episode = await begin(trial())
    replies = await episode.say("", bad, other)
    assert {"error": "not JSON"} == json.loads(replies[0].content)
    assert (
        f"there is no tool 'no_such_tool'; the tools are {[t.name for t in episode.task.tools]}"
        == json.loads(replies[1].content)["error"]
    )
    await episode.say(episode.note)
    await episode.say("", episode.right)
    await episode.report()
    score = await episode.score()
    assert 1.0 == score.rewards["success"]
    assert score.outcome.criteria["right_tools"]
    other_episode = await begin(trial(execution_calls=2))
    await other_episode.say(other_episode.note)
    await other_episode.say("", other)
    await other_episode.say("", other_episode.right)
    await other_episode.report()
    assert not (await other_episode.score()).outcome.criteria["right_tools"]


async def test_true_name_of_a_perturbed_tool_is_unknown() -> None:
    """Whoever guesses the name beneath is told that there is no such tool."""
    episode = await begin(trial(transforms=(Opaque(),)))
    (answer,) = await episode.say("", episode.wanted)
    assert json.loads(answer.content)["error"].startswith(
        f"there is no tool '{episode.wanted.name}'; the tools are ["
    )


async def test_episode_that_ends_in_the_trial_is_scored_as_nothing_done() -> None:
    """Whoever never comes to the execution has done nothing."""
    episode = await begin(trial())
    await episode.say("", episode.right)
    score = await episode.score(Stop.TURNS)
    assert {"success": 0.0, "format": -0.05} == score.rewards
    assert ("expected", False) == (
        score.notes["facts"].split()[0],
        score.outcome.criteria["fulfilled"],
    )


async def test_message_cut_off_at_a_limit_stays_in_its_phase() -> None:
    """A last message that was never answered is the execution's only if execution had begun."""
    for entered in (False, True):
        episode = await begin(trial())
        if entered:
            await episode.say(episode.note)
        episode.turns.append(turn(Message(role="assistant", content="ok , and on")))
        score = await episode.score(Stop.TOKENS)
        assert 0.0 == score.rewards["success"]
        assert entered == (Phase.NOTE in episode.facts(score).phases)


async def test_source_refuses_what_would_make_a_task_unsolvable() -> None:
    """The transform is left out, the reason is in the facts and counted in the figures."""
    world = trial(transforms=(Break(alternative=False),))
    episode = await begin(world)
    assert () == episode.hidden.chain
    assert (f"break: no working tool is left for {episode.wanted.name}",) == episode.hidden.refused
    score = await episode.score()
    assert episode.hidden.refused == episode.facts(score).refused


@pytest.mark.parametrize("held_out", [False, True])
async def test_unseen_categories_are_kept_for_evaluation(held_out: bool) -> None:
    """Training has no tool of them, evaluation nothing else."""
    world = trial(unseen=("bank", "clinic"))
    source = world.source(seed=0, held_out=held_out)
    seen = set()
    for _ in range(12):
        spec = source.draw()
        assert spec is not None
        seen |= {tool.category for tool in (await source.write(spec, services())).tools}
    assert held_out == (seen == {"bank", "clinic"})
    assert held_out == bool(seen & {"bank", "clinic"})


async def test_unseen_category_that_is_nowhere_is_refused() -> None:
    """The error names the setting, and the categories that there are."""
    world = trial(unseen=("kitchen",))
    with pytest.raises(InputError, match=r"with tools of env\.unseen = \['kitchen'\] in 200 draws"):
        await write_task(world, held_out=True)


def test_turn_by_turn_world_cannot_be_tried() -> None:
    """A trial needs whole episodes inside."""
    with pytest.raises(InputError, match=r'env\.inner\.unit must be "episode" inside a trial'):
        Trial(inner=Executable(path="x", unit="turn"))


def test_reference_of_an_executable_task_is_what_its_tools_owe() -> None:
    """Each owed answer stands for a call of its tool; other worlds tell nothing."""
    hidden = {
        "blueprint": "b",
        "scenario": "single_hop",
        "sources": {},
        "unsolved": {"a": ["1", "2"], "b": ["3"]},
        "answer": "3",
        "unit": "episode",
        "seed": 0,
    }
    task = Task(id="t", messages=(), tools=(), difficulty=1, hidden=hidden)
    calls = Executable(path="x").reference_calls(task)
    assert ["a", "a", "b"] == [call.name for call in calls]
    assert () == Dice().reference_calls(task)


class OneAtATime(World):
    """A world that cannot be open twice, as one that borrows from a small supply."""

    def __init__(self) -> None:
        self.inner = Microworld(difficulty=1, curriculum=ONE_CALL)
        self.open = 0
        self.most = 0
        self.opened = 0

    def source(self, *, seed: int, held_out: bool = False) -> TaskSource:
        """Make the source."""
        return self.inner.source(seed=seed, held_out=held_out)

    def environment(self, task: Task, services: Services) -> Environment:
        """Make an environment that counts."""
        world, inner = self, self.inner.environment(task, services)

        class Counted:
            """Counts what is open."""

            reply, score = inner.reply, inner.score

            async def open(self) -> Opening:
                """Open the inner one."""
                world.open += 1
                world.opened += 1
                world.most = max(world.most, world.open)
                return await inner.open()

            async def aclose(self) -> None:
                """Close the inner one."""
                world.open -= 1
                await inner.aclose()

        return Counted()


@pytest.mark.parametrize(("notes", "opened"), [(True, 2), (False, 1)])
async def test_copy_is_closed_before_the_execution_opens(notes: bool, opened: int) -> None:
    """One episode never holds two worlds, and in the end it holds none."""
    counted = OneAtATime()
    world = trial()
    task = await write_task(world)
    environment = TrialEnvironment(msgspec.structs.replace(world, inner=counted), task, services())
    await environment.open()
    if notes:
        await environment.reply(Message(role="assistant", content="ok"))
    await environment.aclose()
    assert (0, 1, opened) == (counted.open, counted.most, counted.opened)


async def test_observed_groups_give_the_figures_of_the_trial() -> None:
    """The inner source's figures and those of the trial are told together."""
    episode = await begin(trial())
    await episode.say("", episode.right)
    score = await episode.score()
    played = Trajectory(
        id="0/0",
        task_id="t",
        turns=(),
        stop=Stop.DONE,
        rewards=score.rewards,
        outcome=score.outcome,
    )
    group = Group(id=0, version=0, task=episode.task, trajectories=(played,))
    figures = trial().source(seed=0).observe([group])
    assert (1.0, 1.0, 0.0) == (
        figures["trial_calls"],
        figures["trial_share"],
        figures["note_share"],
    )
    simulated = Trial(inner=Simulated(prompts="tiny", tools="micro"), prompts="tiny")
    assert {"difficulty"} < set(simulated.source(seed=0).observe([group]))


async def test_perturbed_task_is_told_in_true_names_to_the_inner_world() -> None:
    """The inner world's facts are about its own tools, whatever the policy calls them."""
    episode = await begin(trial(transforms=(Opaque(),)))
    await episode.say("", episode.right)
    await episode.say(episode.note)
    await episode.say("", episode.right)
    await episode.report()
    score = await episode.score()
    assert 1.0 == score.rewards["success"]
    assert score.notes["facts"].startswith(f"expected {episode.wanted.name} ")


@pytest.mark.parametrize("held_out", [False, True])
async def test_teacher_solves_its_tasks_by_trying(held_out: bool) -> None:
    """A careful teacher always succeeds, tries before it acts, and acts on what it saw."""
    world = trial()
    for seed in range(12):
        task = await write_task(world, seed=seed, held_out=held_out)
        demonstration = await play_demonstration(world, task, services(seed))
        assert 1.0 == demonstration.reward
        assert 1 <= demonstration.trials <= 4
        assert demonstration.lesson.messages[: len(task.messages)] == task.messages


async def test_hasty_teacher_fails_where_its_first_try_failed() -> None:
    """Habits leave the demonstration's form alone and spoil what it shows."""
    world = trial()
    rewards = []
    for seed in range(20):
        task = await write_task(world, seed=seed)
        played = await play_demonstration(
            world, task, services(seed), habits=TrialHabits(hasty=1.0)
        )
        assert 1 == played.trials
        rewards.append(played.reward)
    assert {0.0, 1.0} == set(rewards)
    assert 0.05 < sum(rewards) / len(rewards) < 0.6


async def test_teacher_that_skips_the_trial_is_seen_to() -> None:
    """No trial call at all costs the form."""
    world = trial()
    task = await write_task(world)
    played = await play_demonstration(world, task, services(), habits=TrialHabits(skip=1.0))
    assert 0 == played.trials
    assert played.reward in (-0.05, 0.95)
