"""What goes between a run and the process of a tracker: one JSON line each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trustee.decoding import decode_json
from trustee.errors import InputError
from trustee.types import Record


class Begin(Record, frozen=True, tag="begin"):
    """The first message: which run this is."""

    folder: str
    """The run folder, as a whole path."""
    id: str
    """Id of the run; a continued run has that of its beginning."""
    name: str
    config: Mapping[str, Any]
    """The run's settings, flat: by `section.key`."""


class Figures(Record, frozen=True, tag="figures"):
    """Figures of one step, by their names in a tracker."""

    step: int
    values: Mapping[str, float]


class Table(Record, frozen=True, tag="table"):
    """Held-out episodes that were played; the tracker's process reads them from their file."""

    step: int
    name: str
    file: str


class End(Record, frozen=True, tag="end"):
    """The last message."""

    code: int
    """Exit code of the run, 0 if it was not cut short."""


Message = Begin | Figures | Table | End


class Opened(Record, frozen=True, tag="opened"):
    """The tracker is ready."""

    where: str
    """Where its figures can be seen."""


class Failed(Record, frozen=True, tag="failed"):
    """The tracker takes nothing more."""

    why: str


Answer = Opened | Failed


def read_message(line: bytes) -> Message:
    """Read a message.

    Raises:
        InputError: if it is not one.
    """
    kind: Any = Message
    found: Message = decode_json(line, kind, error=InputError)
    return found


def read_answer(line: bytes) -> Answer:
    """Read an answer.

    Raises:
        InputError: if it is not one.
    """
    kind: Any = Answer
    found: Answer = decode_json(line, kind, error=InputError)
    return found
