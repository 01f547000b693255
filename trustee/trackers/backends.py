"""One class per tracker, used inside the tracker's own process only.

None of them looks at this machine, at the repository or at what is printed, and none is asked to
send anything that the run did not give it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from trustee.runs.config import TrackerName
from trustee.trackers.messages import Begin

PROJECT = "trustee"
STEP = "train/global_step"
"""Name of the axis in wandb, as transformers' trainers have it."""
Row = Sequence[str | float | None]


class Tracker(Protocol):
    """What a tracker can do."""

    where: str
    """Where its figures can be seen."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take figures of a step."""

    def add_table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Take a table."""

    def finish(self, code: int) -> None:
        """Write all that was taken, and close."""


class Trackio:
    """Trackio, always in its folder on this machine; `trackio sync` sends it elsewhere."""

    def __init__(self, begin: Begin) -> None:
        import trackio

        self._table = trackio.Table
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        # Its runs are known by their names alone.
        name = f"{begin.name}-{begin.id[:6]}"
        self._run = trackio.init(
            project=project,
            name=name,
            resume="allow",
            config=dict(begin.config),
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        self.where = f'run {name}, shown by: trackio show --project "{project}"'

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take figures of a step."""
        self._run.log(dict(values), step=step)

    def add_table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Take a table."""
        data: list[Any] = [dict(zip(columns, row, strict=True)) for row in rows]
        self._run.log({name: self._table(data=data)}, step=step)

    def finish(self, code: int) -> None:
        """Write all that was taken."""
        self._run.finish()


class Wandb:
    """Weights & Biases; offline where no key is found and `WANDB_MODE` does not say otherwise."""

    def __init__(self, begin: Begin) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        if "WANDB_MODE" not in os.environ and not _has_key():
            os.environ["WANDB_MODE"] = "offline"
        import wandb

        self._table = wandb.Table
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=begin.id,
            name=begin.name,
            resume="allow",
            config=dict(begin.config),
            dir=begin.folder,
            settings=wandb.Settings(
                console="off",
                disable_git=True,
                save_code=False,
                quiet=True,
                x_disable_machine_info=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )
        self._run.define_metric(STEP)
        self._run.define_metric("*", step_metric=STEP)
        folder = Path(self._run.dir).parent
        sent = None if self._run.offline else self._run.url
        self.where = sent or f"offline; wandb sync {folder} sends it"

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take figures of a step."""
        self._run.log({**values, STEP: step})

    def add_table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Take a table."""
        table = self._table(columns=list(columns), data=[list(row) for row in rows])
        self._run.log({name: table, STEP: step})

    def finish(self, code: int) -> None:
        """Send or write all that was taken."""
        self._run.finish(exit_code=code)


def _has_key() -> bool:
    """Whether wandb has a key to log in with, from the environment or from `wandb login`."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return netrc(os.environ.get("NETRC")).authenticators(host or "") is not None
    except (OSError, NetrcParseError):
        return False


class TensorBoard:
    """TensorBoard's event files, in the run folder."""

    def __init__(self, begin: Begin) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder = Path(begin.folder) / "tensorboard"
        self._writer = EventFileWriter(str(folder))
        self.where = f"tensorboard --logdir {folder}"
        rows = [(key, str(value)) for key, value in begin.config.items()]
        self.add_table(0, "config", ("key", "value"), rows)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take figures of a step."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        named = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._add(step, Summary(value=named))

    def add_table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
        """Take a table, as text in Markdown."""
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
        from tensorboard.plugins.text.metadata import create_summary_metadata

        lines = [columns, ["---"] * len(columns), *rows]
        text = "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)
        value = Summary.Value(
            tag=name,
            metadata=create_summary_metadata(display_name=name, description=""),
            tensor=TensorProto(
                dtype="DT_STRING",
                string_val=[text.encode()],
                tensor_shape=TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)]),
            ),
        )
        self._add(step, Summary(value=[value]))

    def _add(self, step: int, summary: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.add_event(Event(step=step, wall_time=time.time(), summary=summary))
        self._writer.flush()

    def finish(self, code: int) -> None:
        """Write all that was taken."""
        self._writer.close()


def _cell(value: object) -> str:
    """Return a value as a cell of a Markdown table, in which nothing is markup."""
    text = "" if value is None else str(value)
    for mark in "\\`*_|[]<>":
        text = text.replace(mark, f"\\{mark}" if mark not in "<>" else f"&#{ord(mark)};")
    return " ".join(text.split())


OPEN: dict[TrackerName, Callable[[Begin], Tracker]] = {
    "trackio": Trackio,
    "wandb": Wandb,
    "tensorboard": TensorBoard,
}
"""Which class is which tracker."""
