"""The errors that this program raises on purpose.

    TrusteeError
    ├── InputError(ValueError)      the user gave something unusable; exit code 2
    │   ├── PromptError             a prompt file and its slots disagree
    │   └── UntrustedWorld          a stored record names code that this call does not allow
    ├── RunError                    the run cannot go on; exit code 1
    │   ├── EngineDied              the engine's process is gone or silent; it is started once more
    │   └── OutOfMemory             a training step does not fit; the ladder makes it smaller
    └── EpisodeError                this episode has failed, the run goes on
        ├── EngineError
        │   └── ContextError        the prompt does not fit the engine's context
        └── SimulatorError          a role gave no usable answer within its tries

`EpisodeError` is caught in one place, `rollout.EpisodePlayer`, which writes tasks and plays
episodes. Any other exception is a bug and ends the run. To add one: place it in the tree above, say
in one sentence when it is raised, let it carry facts only.
"""

from __future__ import annotations

from trustee.types import Role


class TrusteeError(Exception):
    """Any error that this program raises on purpose."""


class InputError(TrusteeError, ValueError):
    """What the user gave cannot be used: the message names file, key, given and allowed."""


class PromptError(InputError):
    """A prompt file and the values given for its slots disagree."""


class UntrustedWorld(InputError):
    """A stored record names a world outside the package that this call does not allow."""


class RunError(TrusteeError):
    """The run cannot go on; what was finished is on disk."""


class EngineDied(RunError):
    """The engine's process is gone, or it has stopped answering."""


class OutOfMemory(RunError):
    """A training step did not fit into the card's memory."""


class EpisodeError(TrusteeError):
    """One episode has failed by somebody other than the policy."""

    source: Role = Role.ENGINE


class EngineError(EpisodeError):
    """The engine gave no completion."""


class ContextError(EngineError):
    """The prompt leaves no room for a completion in the engine's context."""


class SimulatorError(EpisodeError):
    """A role of the simulator gave no usable answer within its tries."""

    def __init__(self, message: str, *, source: Role) -> None:
        super().__init__(message)
        self.source = source
