"""ToolMaster's world: try unknown tools first, note what was learned, then do the task.

It wraps any other world. Its tools are shown perturbed; calls of the trial phase go to a copy of
the inner environment whose effects never reach the execution phase, which starts fresh. Both phases
form one trajectory, and the inner world only scores the execution phase.
Source: ToolMaster, arXiv 2601.12762; its tags, budgets and rewards are not public, so these differ.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from trustee.environments.hints import Hints, hint_calls
from trustee.environments.prompts import fill_prompt, read_prompt
from trustee.environments.protocol import (
    Environment,
    Opening,
    Reply,
    Services,
    TaskSource,
    TaskSpec,
    World,
    WorldConfig,
)
from trustee.environments.scores import check_score
from trustee.environments.simulated.environment import Simulated
from trustee.environments.simulated.rules import Rules
from trustee.environments.trial.metrics import brings_nothing, figures_of, label_attempts
from trustee.environments.trial.transforms import Transform
from trustee.environments.trial.transforms.drawing import draw_chain
from trustee.environments.trial.transforms.names import Permute
from trustee.environments.trial.transforms.perturbation import (
    Perturbation,
    show_answer,
    shown_tools,
    tell_truths,
    to_real_call,
    to_shown_call,
)
from trustee.environments.trial.transforms.supply import Break
from trustee.errors import InputError
from trustee.tools.arguments import check_name
from trustee.tools.values import render_json
from trustee.types import (
    Attempt,
    BadCall,
    Call,
    ExpectedCall,
    Group,
    Message,
    Phase,
    Record,
    Score,
    Share,
    Stop,
    Task,
    TrialFacts,
    Turn,
)

INNER_TASK_DRAWS = 200
"""Maximum draws of an inner task whose tools fit the split by category."""


class HiddenTrial(Record, frozen=True):
    """Data of a task that only the world sees."""

    inner: Task
    chain: tuple[Perturbation, ...]
    """Perturbations of the tools, the innermost first."""
    calls: int
    """Number of calls that the reference solution needs."""
    refused: tuple[str, ...] = ()
    """Transforms that were drawn but not applied, with the reason."""


class Trial(WorldConfig, frozen=True, tag="trial", tag_field="kind"):
    """Settings of a world whose tools are unknown until they are tried."""

    inner: World = Simulated()
    """The environment whose tools are to be tried."""
    transforms: tuple[Transform, ...] = ()
    """Transforms of the tools; the first is nearest to the inner world."""
    prompts: str = "simulated"
    """Prompt set: `simulated` for 4B models and larger, `tiny` for the built-in one."""
    trial_turns: int = 6
    """Policy messages of the trial phase, not counting the note."""
    trial_calls: int = 8
    """Tool calls of the trial phase."""
    execution_turns: int = 10
    """Policy messages of the execution phase."""
    execution_calls: int = 6
    """Calls of the execution phase; raised to the length of a longer reference solution."""
    unseen: tuple[str, ...] = ()
    """Categories of tools kept for evaluation; no training task has a tool of these."""
    strip_trial: bool = False
    """Whether to start with the execution phase, to measure the benefit of the trial."""
    format_weight: Share = 0.1
    """Penalty for a malformed trial: half if no tool was tried, half if the note names none."""

    def __post_init__(self) -> None:
        """Refuse an empty budget, and an inner world without episodes.

        Raises:
            InputError: naming the setting.
        """
        reason = self.inner.refuse_trial()
        if reason is not None:
            raise InputError(f"env.inner.{reason}")
        for name in ("trial_turns", "trial_calls", "execution_turns", "execution_calls"):
            if getattr(self, name) < 1:
                instead = (
                    "; to leave the trial phase out, set env.strip_trial = true"
                    if name.startswith("trial")
                    else ""
                )
                raise InputError(
                    f"env.{name} must be 1 or more, got {getattr(self, name)}{instead}"
                )

    def source(self, *, seed: int, held_out: bool = False) -> TrialSource:
        """Return the source of training tasks, or of tasks with tools that training never shows."""
        inner = self.inner.source(seed=seed, held_out=held_out)
        return TrialSource(self, inner, held_out=held_out)

    def environment(self, task: Task, services: Services) -> TrialEnvironment:
        """Return the environment of one episode."""
        return TrialEnvironment(self, task, services)

    def check(self, *, seed: int, held_out: bool = False) -> tuple[str, ...]:
        """Check the inner world."""
        read_prompt(self.prompts, "agent_trial")
        return self.inner.check(seed=seed, held_out=held_out)

    def judge_rules(self) -> Rules | None:
        """Return the inner world's rules, because the inner world scores the execution."""
        return self.inner.judge_rules()

    def asks_simulator(self) -> bool:
        """Whether the inner world asks one."""
        return self.inner.asks_simulator()

    def prompt_sets(self) -> tuple[str, ...]:
        """Return the prompt sets of the phases and of the inner world."""
        return tuple(dict.fromkeys((self.prompts, *self.inner.prompt_sets())))

    def needs_sandbox(self) -> bool:
        """Whether the inner world's tools are code."""
        return self.inner.needs_sandbox()

    def reference_calls(self, task: Task) -> tuple[ExpectedCall, ...]:
        """Return the inner solution expressed with the shown tools."""
        hidden = msgspec.convert(task.hidden, HiddenTrial)
        calls = self.inner.reference_calls(hidden.inner)
        shown = (to_shown_call(hidden.chain, call) for call in calls)
        return tuple(call for call in shown if call is not None)

    def count_expected_calls(self, task: Task) -> int:
        """Return the inner world's count."""
        return self.inner.count_expected_calls(msgspec.convert(task.hidden, HiddenTrial).inner)

    def hints(self, task: Task) -> Hints:
        """Return hints with the solution in terms of the shown tools, and what each really is."""
        hidden = msgspec.convert(task.hidden, HiddenTrial)
        told = self.inner.hints(hidden.inner)
        # If the inner hints consist of calls only, they can be told in terms of the shown tools.
        if told == hint_calls(self.inner.reference_calls(hidden.inner)):
            told = hint_calls(self.reference_calls(task))
        truths = tell_truths(task.tools, hidden.inner.tools, hidden.chain)
        return Hints(lines=(*truths, *told.lines), secrets=told.secrets)

    def refuse_trial(self) -> str:
        """Refuse a trial inside a trial."""
        return 'kind must be a world without a trial phase inside a trial, got "trial"'

    def plays_script(self, *, in_trial: bool = False) -> bool:
        """Whether the script knows the inner world's tasks."""
        return self.inner.plays_script(in_trial=True)

    def falsify(self, *, strip_trial: bool, permute_names: bool, break_tool: bool) -> Trial:
        """Return the world without its trial phase, with names exchanged, or with a broken tool."""
        more = ((Permute(), permute_names), (Break(), break_tool))
        transforms = (*self.transforms, *(change for change, wanted in more if wanted))
        strip_trial = self.strip_trial or strip_trial
        return msgspec.structs.replace(self, strip_trial=strip_trial, transforms=transforms)


class TrialSource:
    """The inner source, with the tools of its tasks perturbed."""

    def __init__(self, config: Trial, inner: TaskSource, *, held_out: bool) -> None:
        self._config = config
        self._inner = inner
        self._held_out = held_out

    def draw(self) -> TaskSpec | None:
        """Return the inner source's next task spec."""
        return self._inner.draw()

    async def write(self, spec: TaskSpec, services: Services) -> Task:
        """Write the inner task and draw its perturbations."""
        inner = await self._write_inner(spec, services)
        reference = self._config.inner.reference_calls(inner)
        chain, refused = draw_chain(
            self._config.transforms,
            inner.tools,
            reference,
            seed=spec.seed,
            held_out=self._held_out,
        )
        hidden = HiddenTrial(inner=inner, chain=chain, calls=len(reference), refused=refused)
        return Task(
            id=inner.id,
            messages=first_messages(self._config, inner, calls=len(reference)),
            tools=shown_tools(inner.tools, chain),
            difficulty=inner.difficulty,
            hidden=msgspec.to_builtins(hidden),
        )

    async def _write_inner(self, spec: TaskSpec, services: Services) -> Task:
        """Return the first inner task whose tools are on the right side of the split."""
        seeds = random.Random(spec.seed)
        for _ in range(INNER_TASK_DRAWS):
            inner = await self._inner.write(spec, services)
            kept = any(tool.category in self._config.unseen for tool in inner.tools)
            if not self._config.unseen or kept == self._held_out:
                return inner
            spec = msgspec.structs.replace(spec, seed=seeds.randrange(1 << 31))
        raise InputError(
            f"no task {'with' if self._held_out else 'without'} tools of env.unseen = "
            f"{list(self._config.unseen)} in {INNER_TASK_DRAWS} draws; the last had categories "
            f"{sorted({tool.category for tool in inner.tools})}"
        )

    def observe(self, groups: Sequence[Group]) -> dict[str, float]:
        """Let the inner source learn, and return figures on the use of the trial phase."""
        valid = [trajectory for group in groups for trajectory in group.valid]
        return self._inner.observe(groups) | figures_of(valid)

    def state(self) -> Record:
        """Return the inner source's state."""
        return self._inner.state()

    def restore(self, stored: msgspec.Raw) -> None:
        """Continue from a stored state."""
        self._inner.restore(stored)


def first_messages(config: Trial, inner: Task, *, calls: int) -> tuple[Message, ...]:
    """Return the inner task's messages with the first phase's instructions around the query."""
    *before, query = inner.messages
    if config.strip_trial:
        return (*before, execution_message(config, inner, calls=calls))
    content = fill_prompt(
        config.prompts,
        "agent_trial",
        query=query.content,
        calls=str(config.trial_calls),
        turns=str(config.trial_turns),
    )
    return (*before, Message(role="user", content=content))


def execution_message(config: Trial, inner: Task, *, calls: int) -> Message:
    """Return the message that opens the execution phase."""
    content = fill_prompt(
        config.prompts,
        "agent_execution",
        query=inner.messages[-1].content,
        calls=str(max(config.execution_calls, calls)),
    )
    return Message(role="user", content=content)


class TrialEnvironment:
    """One episode: a copy of the inner world for trying tools, then a fresh one."""

    def __init__(self, config: Trial, task: Task, services: Services) -> None:
        self._config = config
        self._task = task
        self._hidden = msgspec.convert(task.hidden, HiddenTrial)
        self._shown = {tool.name: tool for tool in task.tools}
        self._copy = config.inner.environment(self._hidden.inner, services)
        self._world = config.inner.environment(self._hidden.inner, services)
        self._phase = Phase.EXECUTION if config.strip_trial else Phase.TRIAL
        self._turns = config.trial_turns
        self._calls = config.trial_calls
        self._held: Environment | None = None
        """The open inner world; only one at a time, because a world may hold scarce resources."""
        self._ran_out = False
        self._note = ""
        self._phases: list[Phase] = []
        self._attempts: list[Attempt] = []
        self._played: dict[int, tuple[Message, tuple[Message, ...]]] = {}
        """By turn of the whole episode: the inner world's input and output in execution."""

    async def open(self) -> Opening:
        """Return the opening of the trial phase, or of execution if the trial is stripped."""
        if self._phase is Phase.TRIAL:
            self._held = self._copy
            await self._copy.open()
        else:
            await self._enter()
        return Opening(messages=self._task.messages, tools=self._task.tools)

    async def _enter(self) -> None:
        """Begin the execution phase."""
        self._phase = Phase.EXECUTION
        self._turns = self._config.execution_turns
        self._calls = max(self._config.execution_calls, self._hidden.calls)
        await self.aclose()
        self._held = self._world
        await self._world.open()

    async def reply(self, message: Message) -> Reply:
        """Answer a message according to the current phase."""
        phase = self._phase
        if phase is Phase.EXECUTION:
            self._phases.append(phase)
            return await self._execute(message)
        if phase is Phase.TRIAL and message.calls:
            self._phases.append(phase)
            return await self._try(message)
        self._phases.append(Phase.NOTE)
        refusals = tuple(
            _tool_message(call, _error("the trial is over; this call was not made"))
            for call in message.calls
        )
        if not message.calls and any(name in message.content for name in self._shown):
            self._note = message.content.strip()
        await self._enter()
        opening = execution_message(self._config, self._hidden.inner, calls=self._hidden.calls)
        return Reply(messages=(*refusals, opening), done=False)

    async def _try(self, message: Message) -> Reply:
        """Answer calls from the copy, and ask for the note when the budget is used up."""
        _, reply, shown = await self._run(self._copy, message)
        self._turns -= 1
        if reply.done or self._turns == 0 or self._calls == 0:
            self._phase = Phase.NOTE
            ask = fill_prompt(self._config.prompts, "agent_note")
            shown = (*shown, Message(role="user", content=ask))
        return Reply(messages=shown, done=False)

    async def _execute(self, message: Message) -> Reply:
        """Pass a message on to the inner world and count it."""
        if message.calls:
            heard, reply, shown = await self._run(self._world, message)
        else:
            heard, reply = message, await self._world.reply(message)
            shown = reply.messages
        self._played[len(self._phases) - 1] = (heard, reply.messages)
        self._turns -= 1
        self._ran_out = self._turns == 0 and not reply.done
        return Reply(messages=shown, done=reply.done or self._ran_out)

    async def _run(
        self, world: Environment, message: Message
    ) -> tuple[Message, Reply, tuple[Message, ...]]:
        """Run a message's calls; return the world's input, its reply, and what the policy sees."""
        answers: dict[str, str] = {}
        passed: list[Call] = []
        for call in message.calls:
            inner = self._to_real(call)
            if isinstance(inner, str):
                answers[call.id] = inner
            else:
                passed.append(inner)
        heard = msgspec.structs.replace(message, calls=tuple(passed))
        reply = await world.reply(heard) if passed else Reply(messages=(), done=False)
        beneath = {reply.call_id: reply.content for reply in reply.messages}
        shown: list[Message] = []
        for call in message.calls:
            if call.id in beneath:
                answers[call.id] = self._show(call, beneath[call.id])
            if call.id in answers:
                shown.append(_tool_message(call, answers[call.id]))
            self._attempts.append(self._attempt(call, answers.get(call.id, "")))
        shown += [other for other in reply.messages if other.role != "tool"]
        return heard, reply, tuple(shown)

    def _to_real(self, call: Call) -> Call | str:
        """Return the inner call of a shown one, or its answer if it must not reach the world."""
        if self._calls == 0:
            return _error("no calls are left")
        self._calls -= 1
        if isinstance(call, BadCall):
            return call
        reason = check_name(self._task.tools, call)
        if reason is not None:
            return BadCall(id=call.id, text=call.name, reason=reason)
        return to_real_call(self._hidden.chain, call)

    def _show(self, call: Call, content: str) -> str:
        if isinstance(call, BadCall) or call.name not in self._shown:
            return content
        return show_answer(self._hidden.chain, call, content)

    def _attempt(self, call: Call, answer: str) -> Attempt:
        if isinstance(call, BadCall) or call.name not in self._shown:
            return Attempt(phase=self._phase, name="", answer=answer, failed=True)
        return Attempt(
            phase=self._phase,
            name=call.name,
            arguments=call.arguments,
            answer=answer,
            failed=brings_nothing(answer),
        )

    async def score(self, turns: Sequence[Turn], stop: Stop) -> Score:
        """Let the inner world score the execution phase, and subtract the penalty of the trial."""
        entered = self._held is self._world
        executed = []
        for index, turn in enumerate(turns):
            if index in self._played or (entered and index >= len(self._phases)):
                heard, replies = self._played.get(index, (turn.message, ()))
                executed.append(msgspec.structs.replace(turn, message=heard, replies=replies))
        if not entered:
            await self._enter()
        inner = await self._world.score(executed, Stop.TURNS if self._ran_out else stop)
        facts = TrialFacts(
            phases=tuple(self._phases),
            note=self._note,
            attempts=tuple(self._attempts),
            labels=label_attempts(self._attempts),
            refused=self._hidden.refused,
        )
        rewards = dict(check_score(inner).rewards)
        if not self._config.strip_trial:
            lacking = (facts.trials == 0) + (not self._note)
            rewards["format"] = 0.0 - self._config.format_weight * lacking / 2
        outcome = msgspec.structs.replace(inner.outcome, trial=facts)
        return Score(rewards=rewards, outcome=outcome, notes=inner.notes)

    async def aclose(self) -> None:
        """Close the inner world if one is open."""
        held, self._held = self._held, None
        if held is not None:
            await held.aclose()


def _tool_message(call: Call, content: str) -> Message:
    return Message(role="tool", content=content, call_id=call.id)


def _error(reason: str) -> str:
    return render_json({"error": reason})
