"""Lessons for the built-in model: what each role should say, from scripted episodes.

Writer, user, tool and judge are played without mistakes. The policy is played carelessly on
purpose: it guesses instead of asking, skips calls, and reports without calling. So the model learns
the skills of all roles but bad habits as a policy, which reinforcement learning can then fix.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from trustee.decoding import decode_json
from trustee.environments.micro.tasks import (
    BY_NAME,
    PROMPT_SET,
    TaskPlan,
    draw_aspects,
    draw_goal,
    judge_truly,
    opening_messages,
    plan_task,
    sample_tools,
)
from trustee.environments.micro.world import (
    PLACES,
    THINGS,
    TOOLS,
    VALUES,
    Goal,
    MicroWorld,
    ScriptedUser,
    fact,
    question,
    state_key,
    write_intent,
)
from trustee.environments.simulated.facts import Executed, Facts, fact_lines, gather_facts
from trustee.environments.simulated.roles import (
    Criterion,
    judge_prompt,
    tool_prompt,
    transcript_lines,
    user_prompt,
    writer_prompt,
)
from trustee.tools.values import call_line, render_json
from trustee.types import BadCall, Call, Completion, Message, Record, Tool, ToolCall, Turn

NO_COMPLETION = Completion(ids=(), logprobs=(), stop="stop", version=0)


class Habits(Record, frozen=True):
    """Probabilities of the careless policy's mistakes."""

    guess: float = 0.6
    """Guesses a missing argument instead of asking."""
    skip: float = 0.6
    """Makes only the first of several calls."""
    wrong_value: float = 0.12
    wrong_tool: float = 0.08
    claim: float = 0.1
    """Reports without having called."""
    misreport: float = 0.08
    repeat: float = 0.08
    needless: float = 0.05
    """Asks for something that it was told."""
    malformed: float = 0.03


CARELESS = Habits()
FAULTLESS = Habits(
    guess=0,
    skip=0,
    wrong_value=0,
    wrong_tool=0,
    claim=0,
    misreport=0,
    repeat=0,
    needless=0,
    malformed=0,
)


class Lesson(Record, frozen=True):
    """One conversation; the model learns the messages of the role `assistant`."""

    role: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()


class ScriptedEpisode:
    """One scripted episode, which collects the lessons of all roles as it is played."""

    def __init__(self, rng: random.Random, plan: TaskPlan, *, habits: Habits) -> None:
        self.rng = rng
        self.plan = plan
        self.habits = habits
        self.world = MicroWorld(seed=rng.randrange(1 << 30))
        self.user = ScriptedUser(plan.goals, persona=plan.aspects.persona, told=plan.told)
        self.opening = opening_messages(plan.aspects.guidance, plan.query)
        self.turns: list[Turn] = []
        self.executed: list[Executed] = []
        self.lessons: list[Lesson] = []
        self.state: dict[str, Any] = {}
        self.seen: list[tuple[str, str]] = []
        self.malformed = 0
        self.done = False
        self._calls = 0

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation so far as the policy sees it."""
        said = (m for turn in self.turns for m in (turn.message, *turn.replies))
        return (*self.opening, *said)

    @property
    def intent(self) -> str:
        """The user's intent."""
        return write_intent(self.plan.goals)

    def learn(self, role: str, prompt: str, answer: dict[str, Any]) -> None:
        """Add a lesson of one of the simulator's roles."""
        asked = Message(role="user", content=prompt)
        told = Message(role="assistant", content=render_json(answer))
        self.lessons.append(Lesson(role=role, messages=(asked, told)))

    def furnish(self) -> None:
        """Start with some known fields, as in the middle of an episode."""
        for _ in range(self.rng.choice((0, 0, 1, 2, 3))):
            goal = draw_goal(self.rng, self.rng.choice([t for t in TOOLS if t.effect == "write"]))
            near = self.rng.choice(self.plan.goals)
            if self.rng.random() < 0.6:
                goal = Goal(
                    thing=near.thing,
                    place=near.place if self.rng.random() < 0.6 else goal.place,
                    value=self.rng.choice(VALUES[THINGS[near.thing].kind]),
                )
            if goal.place in PLACES[THINGS[goal.thing].place] and goal.value is not None:
                key = state_key(goal.thing, goal.place)
                self.state[key] = self.world.written[key] = goal.value

    def run_call(self, call: ToolCall) -> Message:
        """Run a call and add a lesson of the tool's answer."""
        tool = BY_NAME[call.name]
        prompt = tool_prompt(
            PROMPT_SET, tool, call.arguments, state=self.state, seen=self.seen, intent=self.intent
        )
        result, changes = self.world.call(call.name, call.arguments)
        self.learn("tool", prompt, {"result": result, "changes": changes})
        self.state |= changes
        text = render_json(result)
        self.seen.append((call_line(call.name, call.arguments), text))
        self.executed.append(Executed(call=call, result=text, ok=True))
        return Message(role="tool", content=text, call_id=call.id)

    def say(self, text: str) -> None:
        """Send a message of the policy to the user, and add a lesson of the user's answer."""
        message = Message(role="assistant", content=text)
        prompt = user_prompt(
            PROMPT_SET,
            (*self.messages, message),
            intent=self.intent,
            persona=self.plan.aspects.persona,
        )
        still_open = self.user.still_open
        reply, self.done = self.user.reply(text)
        self.learn("user", prompt, {"still_open": still_open, "message": reply, "done": self.done})
        replies = () if self.done else (Message(role="user", content=reply),)
        self.turns.append(
            Turn(rendered_ids=(), completion=NO_COMPLETION, message=message, replies=replies)
        )

    def make_calls(self, calls: Sequence[Call]) -> None:
        """Make calls of the policy in one message."""
        message = Message(role="assistant", calls=tuple(calls))
        replies = []
        for call in calls:
            if isinstance(call, BadCall):
                self.malformed += 1
                text = render_json({"error": call.reason})
                replies.append(Message(role="tool", content=text, call_id=call.id))
            else:
                replies.append(self.run_call(call))
        self.turns.append(
            Turn(
                rendered_ids=(),
                completion=NO_COMPLETION,
                message=message,
                replies=tuple(replies),
            )
        )

    def call_for(self, goal: Goal) -> ToolCall:
        """Return the policy's call for a goal, with its mistakes."""
        rng, habits = self.rng, self.habits
        name, arguments = goal.call.name, dict(goal.call.arguments)
        thing = THINGS[goal.thing]
        if rng.random() < habits.wrong_value:
            key = rng.choice(list(arguments))
            arguments[key] = rng.choice(PLACES[key] if key in PLACES else VALUES[thing.kind])
        others = [tool for tool in self.plan.tools if tool.name != name]
        if others and rng.random() < habits.wrong_tool:
            wrong = draw_goal(rng, rng.choice(others)).call
            name, arguments = wrong.name, wrong.arguments
        self._calls += 1
        return ToolCall(id=f"call-{self._calls}", name=name, arguments=arguments)

    def serve(self, goals: Sequence[Goal], hidden: Sequence[str]) -> None:
        """Play the policy for the goals of one query, up to its report."""
        rng, habits = self.rng, self.habits
        goals = list(goals)
        guessed = False
        if hidden:
            guessed = rng.random() < habits.guess
            if guessed:
                goals[0] = self.guess(goals[0], hidden)
            else:
                self.say(question(hidden))
        elif rng.random() < habits.needless:
            self.say(question((THINGS[goals[0].thing].place,)))
        if self.done:
            return
        if len(goals) > 1 and rng.random() < habits.skip:
            goals = goals[:1]
        reported: list[str] = []
        if rng.random() < habits.claim:
            for goal in goals:
                value = goal.value or rng.choice(VALUES[THINGS[goal.thing].kind])
                reported.append(fact(goal.thing, goal.place, value))
        else:
            calls = [self.call_for(goal) for goal in goals]
            if rng.random() < habits.malformed:
                self.make_calls([broken_call(calls[0])])
            self.make_calls(calls)
            if rng.random() < habits.repeat:
                self.make_calls([self.again(call) for call in calls])
            reported = [self.report(call) for call in calls]
        self.say("ok , " + " ; ".join(reported))

    def again(self, call: ToolCall) -> ToolCall:
        """Return the same call with a new id."""
        self._calls += 1
        return ToolCall(id=f"call-{self._calls}", name=call.name, arguments=call.arguments)

    def guess(self, goal: Goal, hidden: Sequence[str]) -> Goal:
        """Return a goal with random values for hidden arguments."""
        thing = THINGS[goal.thing]
        place = self.rng.choice(PLACES[thing.place]) if thing.place in hidden else goal.place
        value = self.rng.choice(VALUES[thing.kind]) if thing.kind in hidden else goal.value
        return Goal(thing=goal.thing, place=place, value=value)

    def report(self, call: ToolCall) -> str:
        """Return the policy's report of a call's result."""
        thing = THINGS[call.name.split("_", 1)[1]]
        result = decode_json(
            next(e.result for e in self.executed if e.call.id == call.id), error=ValueError
        )
        value = result.get(thing.kind, call.arguments.get(thing.kind))
        if self.rng.random() < self.habits.misreport:
            value = self.rng.choice(VALUES[thing.kind])
        return fact(thing.name, call.arguments[thing.place], value)

    def play(self) -> None:
        """Play the whole episode."""
        plan = self.plan
        self.serve(plan.goals[: plan.told], plan.hidden)
        if not self.done:
            self.serve(plan.goals[plan.told :], ())
        if not self.done:
            self.say("ok")

    def facts(self) -> Facts:
        """Return the facts that code can check."""
        expected = [goal.call for goal in self.plan.goals]
        writes = frozenset(tool.name for tool in self.plan.tools if tool.effect == "write")
        return gather_facts(self.executed, expected, malformed=self.malformed, writes=writes)


def broken_call(call: ToolCall) -> BadCall:
    """Return a call that cannot be read because its last brace is missing."""
    text = render_json({"name": call.name, "arguments": call.arguments})[:-1]
    return BadCall(id=f"{call.id}-bad", text=text, reason="the call is not valid JSON")


def teach(
    rng: random.Random,
    *,
    habits: Habits = CARELESS,
    furnished: float = 0.5,
    reserved: bool = False,
) -> list[Lesson]:
    """Play one episode and return the lessons of all roles, the policy's last.

    `furnished` is the share of episodes in which some fields are known from the start.
    """
    aspects = draw_aspects(rng)
    tools = sample_tools(rng, max(aspects.tools, 1 + reserved), reserved=reserved)
    plan = plan_task(rng, tools, aspects)
    stage = ScriptedEpisode(rng, plan, habits=habits)
    written = {
        "persona": aspects.persona,
        "intent": stage.intent,
        "expected_calls": [
            {"name": goal.call.name, "arguments": goal.call.arguments} for goal in plan.goals
        ],
        "query": plan.query,
    }
    stage.learn("writer", writer_prompt(PROMPT_SET, plan.tools, aspects), written)
    if rng.random() < furnished:
        stage.furnish()
    stage.play()
    facts = stage.facts()
    truth = judge_truly(stage.opening, stage.turns, stage.executed, facts)
    criteria = list(Criterion)[: aspects.strictness]
    prompt = judge_prompt(
        PROMPT_SET,
        transcript_lines(stage.opening, stage.turns),
        intent=stage.intent,
        persona=aspects.persona,
        facts=fact_lines(facts),
        criteria=criteria,
    )
    verdict: dict[str, Any] = {"evidence": truth.evidence}
    stage.learn("judge", prompt, verdict | {c.value: truth.criteria[c] for c in criteria})
    policy = Lesson(role="policy", messages=stage.messages, tools=plan.tools)
    return [*stage.lessons, policy]
