"""The vocabulary: one frozen type per stage of the flow, and nothing else.

`Task -> Trajectory -> Group -> Sample -> Batch -> Adapter`. A stage never fills in fields of an
earlier one; it makes the next type. `Batch` holds tensors and therefore lives in `batch.py`.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

GIB = 1 << 30
MIB = 1 << 20
Share = Annotated[float, Meta(ge=0, le=1)]
"""A part of a whole, in a config or a report."""


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Anything that is stored or sent."""


class ToolCall(Record, frozen=True, tag="call"):
    """A call that the parser could read. Whether it fits the tool's schema is decided later."""

    id: str
    """Unique within its trajectory; the reply's `call_id` repeats it."""
    name: str
    arguments: dict[str, Any]


class BadCall(Record, frozen=True, tag="bad"):
    """A call that the parser could not read: scored, answered readably, never repaired."""

    id: str
    text: str
    """What the policy wrote between the call marks."""
    reason: str
    """One sentence for the policy, naming what was expected."""


Call = ToolCall | BadCall


class Message(Record, frozen=True):
    """One message in message space; environments see only these."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    thinking: str = ""
    calls: tuple[Call, ...] = ()
    call_id: str = ""
    """For role `tool`: the call this answers."""


class Tool(Record, frozen=True):
    """What the policy may call."""

    name: str
    description: str
    parameters: dict[str, Any]
    """JSON Schema of type object."""
    effect: Literal["read", "write"] = "write"
    """A read tool never changes the world's state."""
    category: str = ""

    @property
    def schema(self) -> dict[str, Any]:
        """The OpenAI function schema that chat templates expect."""
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": self.description,
                "parameters": self.parameters,
            },
        }

    @property
    def signature(self) -> str:
        """The call shape on one line, `name(a, b?)`; a question mark means optional."""
        required = self.parameters.get("required", [])
        names = (
            name if name in required else f"{name}?"
            for name in self.parameters.get("properties", {})
        )
        return f"{self.name}({', '.join(names)})"


class ExpectedCall(Record, frozen=True):
    """A call that solves part of a task. The policy never sees it."""

    name: str
    arguments: dict[str, Any]


class Task(Record, frozen=True):
    """One problem: what the policy sees first, and what only its environment may see."""

    id: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    difficulty: int
    """1 to 100."""
    hidden: dict[str, Any] = {}
    """Intent, expected calls, seeds: read by the task's environment alone."""


class Completion(Record, frozen=True):
    """What an engine sampled for one request."""

    ids: tuple[int, ...]
    """[C] sampled ids, the stop token included."""
    logprobs: tuple[float, ...]
    """[C] raw logprob of each id under the version that sampled it."""
    stop: Literal["stop", "length"]
    version: int
    """0 is the base."""
    cached: int = 0
    """Prompt tokens that the prefix cache already held."""


class Turn(Record, frozen=True):
    """One policy message and the environment's replies."""

    rendered_ids: tuple[int, ...]
    """[P] ids rendered since the last completion; the first turn's hold the whole prompt."""
    completion: Completion
    message: Message
    replies: tuple[Message, ...] = ()


class Stop(StrEnum):
    """Why an episode ended."""

    DONE = "done"
    """The environment ended it."""
    TURNS = "turns"
    """The limit of turns was reached."""
    TOKENS = "tokens"
    """A policy message reached its token limit."""
    CONTEXT = "context"
    """The next turn would not fit the context."""
    TIME = "time"
    """The episode's deadline passed."""
    FAILED = "failed"
    """Something other than the policy spoiled it; see `Trajectory.failure`."""


class Role(StrEnum):
    """Who spoiled an episode."""

    POLICY = "policy"
    USER = "user"
    TOOL = "tool"
    JUDGE = "judge"
    WRITER = "writer"
    BUILDER = "builder"
    ENGINE = "engine"


class Failure(Record, frozen=True):
    """Why a trajectory carries no reward."""

    source: Role
    kind: str
    message: str


class CalledTool(Record, frozen=True):
    """One call of a tool that really runs, and what came of it."""

    id: str
    name: str
    """Empty where the call could not be read."""
    ok: bool
    solved: str | None
    """The sub-answer that it removed from what was unsolved."""
    breach: str = ""
    """The limit of the sandbox that it broke."""


class SolveFacts(Record, frozen=True):
    """How much of a task with known sub-answers an episode solved."""

    calls: int
    solved: int
    needed: int
    precision: float
    """Solve-P."""
    recall: float
    """Solve-R."""
    f1: float
    """Solve-F1."""
    answered: bool
    """Whether the episode ended with the right answer."""
    called: tuple[CalledTool, ...] = ()


class Phase(StrEnum):
    """Where in an episode with a trial a policy message stands."""

    TRIAL = "trial"
    NOTE = "note"
    EXECUTION = "execution"


class Label(StrEnum):
    """What a call of an episode with a trial was good for."""

    DIRECT = "direct"
    """Made to do the task: any first call of the execution phase with its arguments."""
    USEFUL = "useful"
    """A trial that showed something new: that a tool works, or a way in which it fails."""
    UNPRODUCTIVE = "unproductive"
    """A trial that showed what was known, or reached no tool."""
    REPEAT = "repeat"
    """The same tool and arguments as an earlier call of its phase."""


class Attempt(Record, frozen=True):
    """One call of an episode with a trial and its answer, as the policy saw them."""

    phase: Phase
    name: str
    """Empty for a call that could not be read, or whose tool does not exist."""
    arguments: dict[str, Any] = {}
    answer: str = ""
    failed: bool = False
    """Whether the call reached no tool, or its answer is an error or brings nothing."""


class TrialFacts(Record, frozen=True):
    """How an episode used its trial phase."""

    phases: tuple[Phase, ...]
    """The phase of each policy message that was answered."""
    note: str
    """The experience note; empty where there was none."""
    attempts: tuple[Attempt, ...]
    labels: tuple[Label, ...]
    """One for each attempt."""
    refused: tuple[str, ...] = ()
    """Transforms that the task was spared, with the reason."""

    @property
    def trials(self) -> int:
        """The number of calls in the trial phase."""
        return sum(attempt.phase is Phase.TRIAL for attempt in self.attempts)


class Outcome(Record, frozen=True, omit_defaults=True):
    """What an environment found out about a finished episode besides its rewards.

    The program decides by these fields, so each is typed; a world fills in those that it knows.
    """

    success: bool | None = None
    """Whether the task was solved; None where a positive reward says it."""
    criteria: dict[str, bool] = {}
    """Whether each criterion of a simulated task holds."""
    judged: float | None = None
    """What the judge would have paid, in an episode whose reward is proved."""
    solve: SolveFacts | None = None
    trial: TrialFacts | None = None


class Score(Record, frozen=True):
    """What an environment says about a finished episode."""

    rewards: dict[str, float]
    """Reward by part; the total is `Trajectory.reward`."""
    outcome: Outcome = Outcome()
    notes: dict[str, Any] = {}
    """What is only shown to readers, such as evidence; the program never reads it."""


class RejectReason(StrEnum):
    """Why an episode is not imitated, in the order in which the reasons are looked for."""

    FAILED = "failed, not by the policy"
    UNSOLVED = "no success"
    UNFINISHED = "cut off by a limit"
    UNREADABLE = "a call that cannot be read"
    NO_TRIAL = "no trial before execution"
    UNCORRECTED = "an error without a correction"
    LOOP = "the same call again"
    LEAK = "a hint said before anybody could know it"
    TOO_LONG = "too long"


class Trajectory(Record, frozen=True):
    """The record of a finished episode."""

    id: str
    """`<group>/<member>`."""
    task_id: str
    turns: tuple[Turn, ...]
    stop: Stop
    rewards: dict[str, float] = {}
    outcome: Outcome = Outcome()
    notes: dict[str, Any] = {}
    """What is only shown to readers; the program never reads it."""
    failure: Failure | None = None

    @property
    def failed_by(self) -> Role | None:
        """Who spoiled the episode, or the policy where it failed the task; None for a success."""
        if self.failure is not None:
            return self.failure.source
        return None if self.success else Role.POLICY

    @property
    def success(self) -> bool:
        """Whether the task was solved: as its environment says, else by a positive reward."""
        return self.reward > 0 if self.outcome.success is None else self.outcome.success

    @property
    def reward(self) -> float:
        """The total: the one place where parts are added."""
        return sum(self.rewards.values())

    @property
    def version(self) -> int:
        """The oldest version that spoke."""
        return min((turn.completion.version for turn in self.turns), default=0)


class Group(Record, frozen=True):
    """The trajectories of one task, in member order."""

    id: int
    """Counts the task specs of a run from 0, in the order they were drawn."""
    version: int
    """The version that was current when the group began."""
    task: Task | None
    """None where the writer gave no valid task."""
    trajectories: tuple[Trajectory, ...]
    failure: Failure | None = None
    """Why there is no task."""

    @property
    def valid(self) -> tuple[Trajectory, ...]:
        """The members that nobody else spoiled: they alone train and steer."""
        return tuple(t for t in self.trajectories if t.failure is None)


class Sample(Record, frozen=True):
    """One trainable token sequence cut from a trajectory."""

    ids: tuple[int, ...]
    """[L]"""
    mask: tuple[bool, ...]
    """[L] True exactly where the policy sampled the id."""
    logprobs: tuple[float, ...]
    """[L] the engine's logprob where `mask`, else 0."""
    advantage: float
    version: int
    trajectory_id: str


class Adapter(Record, frozen=True):
    """A published version of the policy."""

    version: int
    path: Path
    """PEFT folder; it exists before the engine hears of the version."""

    @property
    def name(self) -> str:
        """Never reused: engines key their prefix caches by it."""
        return f"policy-{self.version:06d}"
