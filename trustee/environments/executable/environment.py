"""FTRL's world: tool environments with executable tools and a verifiable reward.

Each call runs in the sandbox, which never sees what decides the reward. Its result is recorded and
matched once; the score is computed from that record. One task is a whole episode, or one policy
message from a state of an earlier one (`unit = "turn"`). Source: FTRL, arXiv 2508.08791.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from trustee.environments.executable.blueprint import Blueprint, TurnState
from trustee.environments.executable.blueprint_files import (
    RefusedBlueprint,
    read_blueprints,
    read_states,
    show_refused_blueprints,
)
from trustee.environments.executable.echoes import EchoCheck
from trustee.environments.executable.published_rows import as_published
from trustee.environments.executable.rewards import (
    Observation,
    Variant,
    count_unsolved,
    is_right,
    match,
    pay_episode,
    pay_turn,
    solve,
)
from trustee.environments.executable.solutions import (
    HiddenExecutable,
    Unit,
    blueprints_by_id,
    build_task,
    calls_of,
    hints_of,
    pack,
)
from trustee.environments.executable.states import open_state, states_of
from trustee.environments.hints import Hints
from trustee.environments.prompts import fill_prompt, read_prompt
from trustee.environments.protocol import (
    CountedSource,
    Opening,
    Package,
    Reply,
    Services,
    TaskSpec,
    WorldConfig,
)
from trustee.environments.splits import is_held_out
from trustee.errors import InputError
from trustee.runs.inputs import InputPath
from trustee.sandbox.calls import CallResult, Worker
from trustee.tools.arguments import check_call
from trustee.tools.values import render_json
from trustee.types import (
    BadCall,
    Call,
    CalledTool,
    ExpectedCall,
    Group,
    Message,
    Outcome,
    Role,
    Score,
    SolveFacts,
    Stop,
    Task,
    ToolCall,
    Trajectory,
    Turn,
)


class Executable(WorldConfig, frozen=True, tag="executable", tag_field="kind"):
    """Settings of the world of executable environments."""

    path: InputPath
    """Environments: a folder of JSON files, JSON lines, or published rows (`blueprint_files`)."""
    variant: Variant = "f1"
    """Rule by which calls are paid."""
    published: bool = False
    """Whether to run, compare and pay exactly as FTRL does, loopholes included."""
    unit: Unit = "episode"
    """Unit of training; evaluation always plays whole episodes."""
    states: InputPath | None = None
    """For `turn`: JSON lines of states as `trustee collect` writes them, or published rows; none
    uses the rows of `path`."""
    reserve_one_in: Annotated[int, Meta(ge=1)] = 10
    """One environment in this many is reserved for evaluation; 1 reserves all."""
    prompts: str = "simulated"
    """Prompt set of the policy's system prompt; a published episode has none."""

    def source(self, *, seed: int, held_out: bool = False) -> ExecutableSource:
        """Load the environments and return the source of those for training or for evaluation.

        Raises:
            InputError: if the path has no environments of that kind.
        """
        loaded = read_blueprints(Path(self.path))
        blueprints = {
            blueprint.id: blueprint
            for blueprint in loaded.blueprints
            if is_held_out(blueprint.id, one_in=self.reserve_one_in) == held_out
        }
        if not blueprints:
            raise InputError(
                f"{self.path}: none of its {len(loaded.blueprints)} environments is "
                f"{'kept for evaluation' if held_out else 'left for training'} with "
                f"env.reserve_one_in = {self.reserve_one_in}; add environments or change it"
            )
        if self.unit == "episode" or held_out:
            states = tuple(open_state(b, published=self.published) for b in blueprints.values())
        else:
            given = read_states(Path(self.states), loaded) if self.states else loaded.states
            states = tuple(state for state in given if state.blueprint in blueprints)
        if not states:
            raise InputError(
                f"no state of an environment for training in {self.states or self.path}; write "
                "some with trustee collect and name the file in env.states"
            )
        return ExecutableSource(
            self, blueprints, states, seed=seed, held_out=held_out, refused=loaded.refused
        )

    def environment(self, task: Task, services: Services) -> ExecutableEnvironment:
        """Return the environment of one episode."""
        return ExecutableEnvironment(task, services, config=self)

    def check(self, *, seed: int, held_out: bool = False) -> tuple[str, ...]:
        """Read the environments and return which rows are refused and why."""
        read_prompt(self.prompts, "agent_ftrl")
        refused = self.source(seed=seed, held_out=held_out).refused
        if not refused:
            return ()
        return (f"{len(refused)} rows are not used: {show_refused_blueprints(refused)}",)

    def prompt_sets(self) -> tuple[str, ...]:
        """Return the prompt set with the policy's guidance."""
        return (self.prompts,)

    def needs_sandbox(self) -> bool:
        """Whether tools are code: always true here."""
        return True

    def asks_simulator(self) -> bool:
        """Return that code answers and pays."""
        return False

    def trains_turns(self) -> bool:
        """Whether single turns are trained on, from stored states."""
        return self.unit == "turn"

    def reference_calls(self, task: Task) -> tuple[ExpectedCall, ...]:
        """Return the gold calls, or a call without arguments for each missing sub-answer."""
        return calls_of(msgspec.convert(task.hidden, HiddenExecutable))

    def count_expected_calls(self, task: Task) -> int:
        """Return the number of sub-answers to find."""
        return count_unsolved(task.hidden["unsolved"])

    def hints(self, task: Task) -> Hints:
        """Return hints with the solution, what each call returns, and the final answer."""
        hidden = msgspec.convert(task.hidden, HiddenExecutable)
        return hints_of(hidden, self._blueprint_of(hidden).gold)

    def cut_states(self, task: Task, trajectory: Trajectory) -> tuple[TurnState, ...]:
        """Return the state at the beginning and after each turn that was answered."""
        blueprint = self._blueprint_of(msgspec.convert(task.hidden, HiddenExecutable))
        return states_of(trajectory, blueprint, published=self.published)

    def package(self, *, seed: int) -> Package | None:
        """Return whole episodes with the rules of their rewards; None for single turns."""
        rules = {"variant": self.variant, "published": self.published}
        return pack(self.source, seed=seed, rules=rules) if self.unit == "episode" else None

    def refuse_trial(self) -> str | None:
        """Refuse single turns, because a trial plays whole episodes."""
        wrong = f'unit must be "episode" inside a trial, got "{self.unit}"'
        return None if self.unit == "episode" else wrong

    def _blueprint_of(self, hidden: HiddenExecutable) -> Blueprint:
        return blueprints_by_id(Path(self.path).resolve())[hidden.blueprint]


class ExecutableSource(CountedSource):
    """Deals environments or states, reshuffled each epoch; those for evaluation are dealt once."""

    def __init__(
        self,
        config: Executable,
        blueprints: dict[str, Blueprint],
        states: Sequence[TurnState],
        *,
        seed: int,
        held_out: bool,
        refused: tuple[RefusedBlueprint, ...] = (),
    ) -> None:
        super().__init__(seed=seed)
        self.refused = refused
        """Rows of the path that are not used."""
        self._config = config
        self._blueprints = blueprints
        self._states = states
        self._held_out = held_out

    def make_spec(self, index: int) -> TaskSpec | None:
        """Return a task spec, or None when every environment for evaluation was drawn."""
        epoch, place = divmod(index, len(self._states))
        if self._held_out and epoch:
            return None
        rng = random.Random(f"{self._seed} executable {epoch}")
        number = rng.sample(range(len(self._states)), len(self._states))[place]
        state = self._states[number]
        return TaskSpec(
            id=f"{state.blueprint}@{epoch}.{number}",
            seed=random.Random(f"{self._seed} {state.blueprint}").randrange(1 << 31),
            difficulty=min(100, max(1, count_unsolved(state.unsolved))),
            data={"state": number},
        )

    async def write(self, spec: TaskSpec, services: Services) -> Task:
        """Build a task from a state, without a model."""
        return self.build(spec)

    def build(self, spec: TaskSpec) -> Task:
        """Build a task from a state."""
        config, state = self._config, self._states[spec.data["state"]]
        return build_task(
            self._blueprints[state.blueprint],
            state,
            spec,
            unit="episode" if self._held_out else config.unit,
            guidance="" if config.published else fill_prompt(config.prompts, "agent_ftrl"),
        )

    def observe(self, groups: Sequence[Group]) -> dict[str, float]:
        """Keep the source unchanged; return the mean solve rates of a step's episodes."""
        facts = [t.outcome.solve for group in groups for t in group.valid if t.outcome.solve]
        if not facts:
            return {}
        return {
            "solve_precision": fmean(one.precision for one in facts),
            "solve_recall": fmean(one.recall for one in facts),
            "solve_f1": fmean(one.f1 for one in facts),
        }


class ExecutableEnvironment:
    """One episode, or one turn, in an executable environment."""

    def __init__(self, task: Task, services: Services, *, config: Executable) -> None:
        self._task = task
        self._services = services
        self._config = config
        self._hidden = msgspec.convert(task.hidden, HiddenExecutable)
        self._unsolved = self._hidden.unsolved
        self._held = AsyncExitStack()
        self._worker: Worker | None = None
        self._called: list[CalledTool] = []
        self._readable = 0
        self._echoes = EchoCheck(task.messages, task.tools, self._hidden.gold)

    async def open(self) -> Opening:
        """Reserve a sandbox worker, and return the opening messages and tools."""
        lent = self._services.sandbox.open(
            self._hidden.sources, seed=self._hidden.seed, published=self._config.published
        )
        self._worker = await self._held.enter_async_context(lent)
        return Opening(messages=self._task.messages, tools=self._task.tools)

    async def reply(self, message: Message) -> Reply:
        """Run the calls in order; a message without calls ends the episode."""
        replies = tuple([await self._answer(call) for call in message.calls])
        played_on = bool(message.calls)
        if self._config.published:
            played_on = any(not isinstance(call, BadCall) for call in message.calls)
        return Reply(messages=replies, done=not played_on or self._hidden.unit == "turn")

    async def _answer(self, call: Call) -> Message:
        text = await self._run(call)
        return Message(role="tool", content=text, call_id=call.id)

    async def _run(self, call: Call) -> str:
        if isinstance(call, BadCall):
            self._called.append(CalledTool(id=call.id, name="", ok=False, solved=None))
            return _error_text(call.reason)
        self._readable += 1
        outcome = self._refuse(call)
        if outcome is None:
            assert self._worker is not None, "open() was not called"
            outcome = await self._worker.call(call.name, call.arguments)
            if self._config.published:
                outcome = as_published(call.name, outcome)
        seen = Observation(
            name=call.name, arguments=call.arguments, text=outcome.text, ok=outcome.ok
        )
        matched = match(seen, self._unsolved, published=self._config.published)
        found = matched.found
        if found is not None and not self._config.published:
            assert self._worker is not None, "only a tool that ran has told an answer"
            if await self._echoes.follows(call, outcome.text, found, run=self._worker.call):
                found = None
        if found is not None:
            self._unsolved = matched.unsolved
        if outcome.ok:
            self._echoes.keep(call, outcome.text, found=found)
        self._called.append(
            CalledTool(
                id=call.id,
                name=call.name,
                ok=outcome.ok,
                solved=found,
                breach=outcome.breach,
            )
        )
        plain = outcome.ok or self._config.published
        return outcome.text if plain else _error_text(outcome.text)

    def _refuse(self, call: ToolCall) -> CallResult | None:
        """Return the error of a call that cannot run; published mode only refuses unknown tools."""
        if self._config.published:
            known = call.name in self._hidden.sources
            text = f"an error occured when call {call.name}: {call.name!r}"
            return None if known else CallResult(text=text, ok=False)
        error = check_call(self._task.tools, call)
        return None if error is None else CallResult(text=error, ok=False)

    async def score(self, turns: Sequence[Turn], stop: Stop) -> Score:
        """Return the reward of the recorded calls; see `rewards.pay_turn` and `pay_episode`."""
        config, hidden = self._config, self._hidden
        solved = sum(called.solved is not None for called in self._called)
        calls = self._readable if config.published else len(self._called)
        said = turns[-1].message if turns else Message(role="assistant")
        final = said if stop is Stop.DONE and not said.calls else None
        if hidden.unit == "turn":
            variant, published = config.variant, config.published
            paid = pay_turn(
                said, solved, hidden.unsolved, hidden.answer, variant=variant, published=published
            )
            rewards = {"turn": paid}
        else:
            rewards = pay_episode(
                final,
                solved=solved,
                readable=self._readable,
                unreadable=len(self._called) - self._readable,
                needed=count_unsolved(hidden.unsolved),
                answer=hidden.answer,
                variant=config.variant,
                published=config.published,
            )
        right = final is not None and is_right(final, hidden.answer, published=config.published)
        needed = count_unsolved(hidden.unsolved)
        success = solved == needed and right
        rates = solve(solved=solved, calls=calls, needed=needed)
        facts = SolveFacts(
            calls=calls,
            solved=solved,
            needed=needed,
            precision=rates.precision,
            recall=rates.recall,
            f1=rates.f1,
            answered=right,
            called=tuple(self._called),
        )
        return Score(
            rewards=rewards,
            outcome=Outcome(success=success, solve=facts),
            notes=self._describe(success=success),
        )

    def _describe(self, *, success: bool) -> dict[str, Any]:
        """Return which environment this was and, if it was not solved, who failed, for readers."""
        failed_by = Role.TOOL if any(called.breach for called in self._called) else Role.POLICY
        return {
            "blueprint": self._hidden.blueprint,
            "scenario": self._hidden.scenario,
            "failed_by": None if success else str(failed_by),
            "reruns": self._echoes.reruns,
        }

    async def aclose(self) -> None:
        """Return the worker to the pool."""
        await self._held.aclose()


def _error_text(reason: str) -> str:
    return render_json({"error": reason})
