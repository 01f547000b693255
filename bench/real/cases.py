"""Cases for the simulator's roles, drawn from scripted episodes whose truth is known."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from real.wording import say_plainly, say_turns_plainly, write_goal, write_plain_intent, write_query
from trustee.checks.canaries import Known
from trustee.environments.micro.tasks import draw_aspects, judge_truly, plan_task, sample_tools
from trustee.environments.micro.world import THINGS
from trustee.environments.simulated.roles import Criterion
from trustee.environments.simulated.scene import HiddenSimulated
from trustee.environments.simulated.speaking import UserWishes
from trustee.environments.simulated.spoken import name_sayable
from trustee.tiny.lessons import CARELESS, FAULTLESS, Habits, ScriptedEpisode
from trustee.tools.values import render_json
from trustee.types import Message, Record, Stop, Task, Tool, ToolCall


class ToolCase(Record, frozen=True):
    """A call in the middle of an episode, and what the true world answers."""

    tool: Tool
    arguments: dict[str, Any]
    state: dict[str, Any]
    seen: tuple[tuple[str, str], ...]
    intent: str
    result: dict[str, Any]
    changes: dict[str, Any]
    known: bool
    """Whether state or earlier results determine what a read must return."""
    before: tuple[Message, ...]
    """The dialogue before the message with the call, in which every known field was written."""
    tools: tuple[Tool, ...]
    persona: str


class UserCase(Record, frozen=True):
    """A dialogue up to the assistant's last message, and what a faithful user does."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    done: bool
    says: tuple[str, ...]
    """Words that the user's message must contain."""
    wanted: UserWishes
    told: int
    """Number of wishes that the user has said."""


class Stage(ScriptedEpisode):
    """A scripted episode that remembers the cases it passes through."""

    def __init__(self, rng: random.Random, *, habits: Habits) -> None:
        aspects = draw_aspects(rng)
        plan = plan_task(rng, sample_tools(rng, max(aspects.tools, 2), reserved=None), aspects)
        super().__init__(rng, plan, habits=habits)
        self.tool_cases: list[ToolCase] = []
        self.user_cases: list[UserCase] = []
        if rng.random() < 0.5:
            self.furnish()
        self.furnished = dict(self.state)
        self.play()

    @property
    def plain_intent(self) -> str:
        """The user's intent as a sentence."""
        return write_plain_intent(self.plan.goals)

    @property
    def plain_opening(self) -> tuple[Message, ...]:
        """The opening with the query as a sentence."""
        query = write_query(self.plan.goals[: self.plan.told], self.plan.hidden)
        return (self.opening[0], Message(role="user", content=query))

    @property
    def plain_dialogue(self) -> tuple[Message, ...]:
        """All that was said so far, in sentences."""
        said = (m for turn in self.turns for m in (turn.message, *turn.replies))
        return (*self.plain_opening, *map(say_plainly, said))

    def dialogue_with_writes(self) -> tuple[Message, ...]:
        """Return the dialogue with a call for each field that was known from the start."""
        query, *rest = self.plain_dialogue[1:]
        written = [m for key, value in self.furnished.items() for m in say_write(key, value)]
        return (self.plain_dialogue[0], query, *written, *rest)

    def run_call(self, call: ToolCall) -> Message:
        """Remember the call before it runs."""
        tool = next(tool for tool in self.plan.tools if tool.name == call.name)
        state, seen = dict(self.state), tuple(self.seen)
        reply = super().run_call(call)
        result, changes = self.world.call(call.name, call.arguments)
        line = self.seen[-1][0]
        key = f"{call.name.split('_', 1)[1]} {next(iter(call.arguments.values()))}"
        self.tool_cases.append(
            ToolCase(
                tool=tool,
                arguments=dict(call.arguments),
                state=state,
                seen=seen,
                intent=self.plain_intent,
                result=result,
                changes=changes,
                known=key in state or any(said == line for said, _ in seen),
                before=self.dialogue_with_writes(),
                tools=self.plan.tools,
                persona=PERSONS[self.plan.aspects.persona],
            )
        )
        return reply

    def say(self, text: str) -> None:
        """Remember the dialogue before the user answers."""
        message = Message(role="assistant", content=text)
        before = self.plain_dialogue
        told = self.user.still_open
        said = self.user._told
        super().say(text)
        replies = self.turns[-1].replies
        answer = replies[0].content if replies else ""
        asked = text.endswith("?") and not answer.startswith(("please", "hi", "set", "read"))
        if asked:
            says = tuple(answer.replace(" and ", " ").split()[1::2])
        else:
            words = told.replace(";", " ").split()
            says = tuple(w for w in words if w not in ("set", "read", "nothing")) if answer else ()
        self.user_cases.append(
            UserCase(
                messages=(*before, say_plainly(message)),
                tools=self.plan.tools,
                done=self.done,
                says=says,
                wanted=UserWishes(
                    persona=PERSONS[self.plan.aspects.persona],
                    intent=self.plain_intent,
                    wishes=tuple(write_goal(goal) for goal in self.plan.goals),
                    values=tuple(name_sayable(goal.call.arguments) for goal in self.plan.goals),
                ),
                told=said,
            )
        )

    def as_known(self, name: str) -> Known:
        """Return the episode with its true verdict, as the simulated world would hold it."""
        facts = self.facts()
        truth = judge_truly(self.opening, self.turns, self.executed, facts)
        hidden = HiddenSimulated(
            intent=self.plain_intent,
            persona=PERSONS[self.plan.aspects.persona],
            expected_calls=tuple(goal.call for goal in self.plan.goals),
            criteria=(Criterion.FULFILLED,),
        )
        task = Task(
            id=name,
            messages=self.plain_opening,
            tools=self.plan.tools,
            difficulty=1,
            hidden=msgspec.to_builtins(hidden),
        )
        return Known(
            name=name,
            task=task,
            turns=say_turns_plainly(self.turns),
            stop=Stop.DONE,
            good=truth.criteria[Criterion.FULFILLED],
        )


PERSONS = {
    "expert": "An engineer who knows the exact terms.",
    "beginner": "A careful person who knows what is wanted, but not the terms.",
    "novice": "A new owner who describes things loosely.",
}


def say_write(key: str, value: Any) -> tuple[Message, Message]:
    """Return the call that writes a field, and its answer."""
    name, place = key.split()
    thing = THINGS[name]
    call = ToolCall(
        id=f"write {key}", name=f"set_{name}", arguments={thing.place: place, thing.kind: value}
    )
    return (
        Message(role="assistant", calls=(call,)),
        Message(role="tool", content=render_json({"ok": True}), call_id=call.id),
    )


def play_stages(seed: str, *, careless: float) -> Iterator[Stage]:
    """Yield episodes without end; a share of them is played carelessly."""
    rng = random.Random(seed)
    while True:
        yield Stage(rng, habits=CARELESS if rng.random() < careless else FAULTLESS)


def draw_tool_cases(count: int, seed: str) -> list[ToolCase]:
    """Draw calls, one of each episode, half of them writes where that is possible."""
    cases: list[ToolCase] = []
    for stage in play_stages(seed, careless=0.5):
        wanted = "write" if len(cases) % 2 else "read"
        fitting = [case for case in stage.tool_cases if case.tool.effect == wanted]
        cases += fitting[-1:]
        if len(cases) >= count:
            return cases
    raise AssertionError


def draw_user_cases(count: int, seed: str) -> list[UserCase]:
    """Draw dialogues, a third of each kind: a question, an open part, the end."""
    kinds: tuple[Callable[[UserCase], bool], ...] = (
        lambda case: not case.done and case.messages[-1].content.endswith("?"),
        lambda case: not case.done and not case.messages[-1].content.endswith("?"),
        lambda case: case.done,
    )
    cases: list[UserCase] = []
    for stage in play_stages(seed, careless=0.0):
        wanted = kinds[len(cases) % len(kinds)]
        cases += [case for case in stage.user_cases if wanted(case)][:1]
        if len(cases) >= count:
            return cases
    raise AssertionError


def draw_known(count: int, seed: str) -> list[Known]:
    """Draw finished episodes, half of them good."""
    found: list[Known] = []
    for stage in play_stages(seed, careless=0.6):
        known = stage.as_known(f"episode-{len(found)}")
        if known.good == (len(found) % 2 == 0) and not stage.malformed:
            found.append(known)
        if len(found) >= count:
            return found
    raise AssertionError
