"""The shared vocabulary: one frozen type per stage of the data flow, and nothing else.

`Task -> Trajectory -> Group -> Sample -> Batch -> Adapter`. A stage never fills in fields of an
earlier type; it creates the next one. `Batch` holds tensors and is therefore in `batch.py`.
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
"""A fraction from 0 to 1, in a config or a report."""
PATH = "path"
"""Key in the `extra` of a field's `Meta`: the field is a path."""
PathText = Annotated[str, Meta(extra={PATH: True})]
"""A path in a config: `~` and environment variables in it are expanded when the config is read."""


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every type that is stored or sent."""


class ToolCall(Record, frozen=True, tag="call"):
    """A call that the parser could read; its arguments are checked against the schema later."""

    id: str
    """Unique within its trajectory; the reply's `call_id` repeats it."""
    name: str
    arguments: dict[str, Any]


class BadCall(Record, frozen=True, tag="bad"):
    """A call that the parser could not read; it is scored and answered, never repaired."""

    id: str
    text: str
    """Text that the policy wrote between the call markers."""
    reason: str
    """One sentence that tells the policy what was expected."""


Call = ToolCall | BadCall


class Message(Record, frozen=True):
    """One chat message; environments see messages and never token ids."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    thinking: str = ""
    calls: tuple[Call, ...] = ()
    call_id: str = ""
    """For role `tool`: id of the call that this message answers."""


class Tool(Record, frozen=True):
    """A tool that the policy may call."""

    name: str
    description: str
    parameters: dict[str, Any]
    """JSON Schema of type object."""
    effect: Literal["read", "write"] = "write"
    """Whether a call may change the world's state; a `read` tool never does."""
    category: str = ""
    toolset: str = ""
    """Within its category, the service that the tool is a part of."""

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
        """The call's shape on one line, `name(a, b?)`; a question mark means optional."""
        required = self.parameters.get("required", [])
        names = (
            name if name in required else f"{name}?"
            for name in self.parameters.get("properties", {})
        )
        return f"{self.name}({', '.join(names)})"


class ExpectedCall(Record, frozen=True):
    """A call that solves part of a task; the policy never sees it."""

    name: str
    arguments: dict[str, Any]


class Task(Record, frozen=True):
    """One problem: the opening for the policy, and hidden data for its environment alone."""

    id: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    difficulty: int
    """Difficulty from 1 to 100."""
    hidden: dict[str, Any] = {}
    """Intent, expected calls and seeds; only the task's environment reads them."""


class Completion(Record, frozen=True):
    """The tokens that an engine sampled for one request."""

    ids: tuple[int, ...]
    """[C] sampled ids, including the stop token."""
    logprobs: tuple[float, ...]
    """[C] raw logprob of each id, in nats, under the version that sampled it."""
    stop: Literal["stop", "length"]
    version: int
    """Version that sampled the ids; 0 is the base model."""
    cached: int = 0
    """Number of prompt tokens that were already in the prefix cache."""


class Turn(Record, frozen=True):
    """One policy message and the environment's replies."""

    rendered_ids: tuple[int, ...]
    """[P] ids rendered since the previous completion; in the first turn, the whole prompt."""
    completion: Completion
    message: Message
    replies: tuple[Message, ...] = ()
    anew: bool = False
    """Whether `rendered_ids` is a whole prompt, which does not go on from the turn before; so
    begins a branch of an episode whose loop the world owns."""


class Stop(StrEnum):
    """Why an episode ended."""

    DONE = "done"
    """The environment ended the episode."""
    TURNS = "turns"
    """The turn limit was reached."""
    TOKENS = "tokens"
    """A policy message reached its token limit."""
    CONTEXT = "context"
    """The next turn would not fit the context."""
    RESPONSE = "response"
    """All ids after the first prompt, replies included, reached their limit."""
    TIME = "time"
    """The episode's deadline passed."""
    FAILED = "failed"
    """A part other than the policy failed; see `Trajectory.failure`."""


class Role(StrEnum):
    """The part of the program that made an episode fail."""

    POLICY = "policy"
    USER = "user"
    TOOL = "tool"
    JUDGE = "judge"
    WRITER = "writer"
    BUILDER = "builder"
    ENGINE = "engine"
    WORLD = "world"
    """The environment's own code."""


class Failure(Record, frozen=True):
    """Why a trajectory carries no reward."""

    source: Role
    kind: str
    message: str


class CalledTool(Record, frozen=True):
    """One call of an executable tool and its result."""

    id: str
    name: str
    """Name of the tool; empty if the call could not be read."""
    ok: bool
    solved: str | None
    """The sub-answer that this call solved, if any."""
    breach: str = ""
    """The sandbox limit that the call exceeded; empty if none."""


class SolveFacts(Record, frozen=True):
    """How much of a task with known sub-answers an episode solved."""

    calls: int
    solved: int
    needed: int
    precision: float
    """Solve-P: solved sub-answers per call; 1 without a call."""
    recall: float
    """Solve-R: solved sub-answers per needed sub-answer."""
    f1: float
    """Solve-F1: harmonic mean of Solve-P and Solve-R."""
    answered: bool
    """Whether the episode ended with the correct answer."""
    called: tuple[CalledTool, ...] = ()


class Phase(StrEnum):
    """Phase of an episode with a trial to which a policy message belongs."""

    TRIAL = "trial"
    NOTE = "note"
    EXECUTION = "execution"


class Label(StrEnum):
    """What a call achieved in an episode with a trial."""

    DIRECT = "direct"
    """Made to do the task: a call of the execution phase that is not a repeat."""
    USEFUL = "useful"
    """A trial call that showed something new: that a tool works, or a new way in which it fails."""
    UNPRODUCTIVE = "unproductive"
    """A trial call that showed nothing new, or did not reach a tool."""
    REPEAT = "repeat"
    """A call with the same tool and arguments as an earlier call of its phase."""


class Attempt(Record, frozen=True):
    """One call of an episode with a trial, and its answer as the policy saw it."""

    phase: Phase
    name: str
    """Name of the tool; empty if the call could not be read or the tool does not exist."""
    arguments: dict[str, Any] = {}
    answer: str = ""
    failed: bool = False
    """Whether the call did not reach a tool, or its answer is an error or empty."""


class TrialFacts(Record, frozen=True):
    """How an episode used its trial phase."""

    phases: tuple[Phase, ...]
    """Phase of each policy message that got a reply."""
    note: str
    """The policy's note on its trial; empty if it wrote none."""
    attempts: tuple[Attempt, ...]
    labels: tuple[Label, ...]
    """One label per attempt."""
    refused: tuple[str, ...] = ()
    """Transforms that were not applied to the task, each with the reason."""

    @property
    def trials(self) -> int:
        """The number of calls in the trial phase."""
        return sum(attempt.phase is Phase.TRIAL for attempt in self.attempts)


class Outcome(Record, frozen=True, omit_defaults=True):
    """Facts about a finished episode, in addition to its rewards.

    The program makes decisions from these fields, so each is typed; a world fills in those that it
    knows.
    """

    success: bool | None = None
    """Whether the task was solved; None if a positive reward means success."""
    criteria: dict[str, bool] = {}
    """Whether each criterion of a simulated task holds."""
    asked_judge: bool = False
    """Whether the judge was asked; False where code settled everything."""
    judged: float | None = None
    """Reward that the judge would have given, in an episode whose reward is proved by tools."""
    solve: SolveFacts | None = None
    trial: TrialFacts | None = None


class Score(Record, frozen=True):
    """An environment's assessment of a finished episode."""

    rewards: dict[str, float]
    """Reward per component; `Trajectory.reward` is their sum."""
    outcome: Outcome = Outcome()
    notes: dict[str, Any] = {}
    """Information for human readers, such as evidence; the program never reads it."""


class RejectReason(StrEnum):
    """Why an episode is not imitated, in the order in which the reasons are checked."""

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
    """Information for human readers; the program never reads it."""
    failure: Failure | None = None

    @property
    def failed_by(self) -> Role | None:
        """The part that failed, or the policy if it did not solve the task; None for a success."""
        if self.failure is not None:
            return self.failure.source
        return None if self.success else Role.POLICY

    @property
    def success(self) -> bool:
        """Whether the task was solved: the environment's verdict, or else a positive reward."""
        return self.reward > 0 if self.outcome.success is None else self.outcome.success

    @property
    def reward(self) -> float:
        """The total reward; components are summed only here."""
        return sum(self.rewards.values())

    @property
    def version(self) -> int:
        """The oldest version that sampled a turn; 0 if there is no turn."""
        return min((turn.completion.version for turn in self.turns), default=0)


class Group(Record, frozen=True):
    """The trajectories of one task, in member order."""

    id: int
    """Index of the task spec in its run, from 0, in the order of drawing."""
    version: int
    """The version that was current when the group began."""
    task: Task | None
    """The task; None if the writer gave no valid one."""
    trajectories: tuple[Trajectory, ...]
    failure: Failure | None = None
    """The reason if there is no task."""

    @property
    def valid(self) -> tuple[Trajectory, ...]:
        """The trajectories without a failure; only these train the policy and steer the source."""
        return tuple(t for t in self.trajectories if t.failure is None)


class Sample(Record, frozen=True):
    """One trainable token sequence cut from a trajectory."""

    ids: tuple[int, ...]
    """[L] token ids."""
    mask: tuple[bool, ...]
    """[L] True exactly at the ids that the policy sampled."""
    logprobs: tuple[float, ...]
    """[L] the engine's logprob, in nats, where `mask` is True, else 0."""
    advantage: float
    version: int
    trajectory_id: str


class Adapter(Record, frozen=True):
    """A published version of the policy."""

    version: int
    path: Path
    """PEFT folder; it is written before the engine is told of the version."""

    @property
    def name(self) -> str:
        """Name in the engine; never reused, because engines key their prefix caches by it."""
        return f"policy-{self.version:06d}"
