"""The errors that this program raises on purpose.

    TrusteeError
    ├── InputError(ValueError)      the user gave something unusable; exit code 2
    │   ├── PromptError             a prompt file and its slots disagree
    │   └── UntrustedWorld          a stored record names a world that this call does not allow
    ├── RunError                    the run cannot go on; exit code 1
    │   ├── EngineDied              the engine's process is gone or silent; it is started once more
    │   └── OutOfMemory             a training step does not fit; the ladder makes it smaller
    └── EpisodeError                this episode has failed; the run goes on
        ├── EngineError
        │   ├── RequestError        the engine cannot take the request as it is
        │   │   └── ContextError    the prompt does not fit the engine's context
        │   └── AnswerError         a teacher's endpoint gave no usable answer
        ├── ScoreError              the environment gave no usable score
        ├── ServerError             a server that the world plays in broke down
        └── SimulatorError          a role gave no usable answer in all its attempts

`rollout.EpisodePlayer`, which writes tasks and plays episodes, is the one place that catches
`EpisodeError`; callers may handle a subclass earlier. Any other exception is a bug and ends the
run. To add an error, place it in the tree above, say in one sentence when it is raised, and let it
carry facts only.
"""

from __future__ import annotations

from trustee.types import Role


class TrusteeError(Exception):
    """Any error that this program raises on purpose."""


class InputError(TrusteeError, ValueError):
    """The user's input cannot be used; the message names file, key, given and allowed values."""


class PromptError(InputError):
    """A prompt file and the values given for its slots do not match."""


class UntrustedWorld(InputError):
    """A stored record names a world outside the package that this call does not allow."""


class RunError(TrusteeError):
    """The run cannot go on; all finished work is on disk."""


class EngineDied(RunError):
    """The engine's process has ended or no longer answers."""


class OutOfMemory(RunError):
    """A training step did not fit into GPU memory."""


class EpisodeError(TrusteeError):
    """One episode has failed for a reason other than the policy."""

    source: Role = Role.ENGINE


class EngineError(EpisodeError):
    """The engine gave no completion."""


class RequestError(EngineError):
    """The engine cannot take a request, such as an id outside its vocabulary."""


class ContextError(RequestError):
    """The prompt leaves no room for a completion in the engine's context."""


class ScoreError(EpisodeError):
    """An environment's score cannot be used; the message names the reward and what it is."""

    source = Role.WORLD


class ServerError(EpisodeError):
    """A server in which a world plays did not start, ended, kept silent or broke a limit."""

    source = Role.WORLD


class AnswerError(EngineError):
    """A teacher's endpoint gave no usable answer."""


class SimulatorError(EpisodeError):
    """A role of the simulator gave no usable answer in all its attempts."""

    def __init__(self, message: str, *, source: Role) -> None:
        super().__init__(message)
        self.source = source
