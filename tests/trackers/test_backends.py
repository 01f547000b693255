"""The real trackers: a run that is continued, as each of them keeps it. Nothing leaves the machine.

trackio and TensorBoard are read back through their own readers, wandb's offline file through its
own messages.
"""

from __future__ import annotations

import json
import sqlite3
import struct
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import pytest

from tracked_steps import FIGURES, trained
from trustee.config import read_config
from trustee.events import Emit, Event, HeldOutPlayed, Note
from trustee.jobs.tracked import run_tracked
from trustee.runs.files import write_lines
from trustee.types import Completion, Message, Stop, Trajectory, Turn

ROOT = Path(__file__).parents[2]
NAMES = ("trackio", "wandb", "tensorboard")
SECRET = "sk-0123456789abcdef"

pytestmark = [
    pytest.mark.skipif(
        any(find_spec(name) is None for name in NAMES),
        reason="the trackers are not installed: pip install -e .[trackio,wandb,tensorboard]",
    ),
    pytest.mark.timeout(600),
]


class Tracked:
    """A run of three steps that was continued for two more, with all trackers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: list[str] = []
        self.id = ""

    def go_on(self, first: int, last: int) -> None:
        """Take some steps."""
        names = json.dumps(NAMES)
        config = read_config(ROOT / "configs" / "tiny.toml", [f"run.report_to={names}"])

        def emit(event: Event) -> None:
            if isinstance(event, Note):
                self.notes.append(event.text)

        async def job(tell: Emit) -> None:
            if first == 1:
                tell(played("before"))
            for number in range(first, last + 1):
                tell(trained(**{**FIGURES, "step": number, "reward": number / 4}))

        anyio.run(lambda: run_tracked(config, self.folder, job, emit=emit))
        self.id = json.loads((self.folder / "trackers.json").read_text())["id"]


def played(label: str) -> HeldOutPlayed:
    """Return the event of two held-out episodes."""
    return HeldOutPlayed(
        label=label, step=0, success=0.5, low=0.1, high=0.9, count=2, file=f"held-out-{label}.jsonl"
    )


def episode(number: int, text: str) -> Trajectory:
    """Return an episode that ends with a text."""
    turn = Turn(
        rendered_ids=(1,),
        completion=Completion(ids=(1, 2), logprobs=(0.0, 0.0), stop="stop", version=0),
        message=Message(role="assistant", content=text),
    )
    return Trajectory(
        id=f"before/{number}",
        task_id=f"task-{number}",
        turns=(turn,),
        stop=Stop.DONE,
        rewards={"verdict": float(number)},
    )


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracked]:
    """Track a run and its continuation once, without a network where that can be arranged."""
    from trustee.trackers import relay

    folder = tmp_path_factory.mktemp("tracked") / "my-run"
    folder.mkdir()
    write_lines(folder / "held-out-before.jsonl", [episode(0, "no | *lamp*"), episode(1, "on")])
    alone = ["unshare", "--map-root-user", "--net"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        alone = []
    plain = relay.command_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relay, "command_of", lambda name: [*alone, *plain(name)])
        patch.setattr(relay, "END_SECONDS", 200.0)
        patch.setenv("TRACKIO_DIR", str(folder.parent / "trackio"))
        patch.setenv("SOME_API_KEY", SECRET)
        for name in ("TRACKIO_PROJECT", "WANDB_MODE", "WANDB_PROJECT", "WANDB_API_KEY"):
            patch.delenv(name, raising=False)
        patch.setenv("NETRC", str(folder.parent / "none"))
        run = Tracked(folder)
        run.go_on(1, 3)
        run.go_on(4, 5)
        yield run


def test_each_says_where_its_figures_are(tracked: Tracked) -> None:
    """Once for the run and once for its continuation, and nothing else."""
    assert 6 == len(tracked.notes)
    assert ["tensorboard", "tensorboard", "trackio", "trackio", "wandb", "wandb"] == sorted(
        note.split()[1] for note in tracked.notes
    )
    assert all(" is open: " in note for note in tracked.notes)


def test_trackio_has_one_run_with_all_steps(tracked: Tracked) -> None:
    """Figures, config and table, under the run's name and id."""
    (file,) = (tracked.folder.parent / "trackio").glob("trustee*.db")
    with sqlite3.connect(file) as base:
        rows = base.execute("select run_name, step, metrics from metrics order by id").fetchall()
        configs = base.execute("select run_name, config from configs").fetchall()
    base.close()
    assert {f"my-run-{tracked.id[:6]}"} == {name for name, _, _ in rows}
    found = [(step, json.loads(metrics)) for _, step, metrics in rows]
    rewards = {step: m["train/reward"] for step, m in found if "train/reward" in m}
    assert {number: number / 4 for number in range(1, 6)} == rewards
    assert [0.5] == [m["eval/success"] for _, m in found if "eval/success" in m]
    (table,) = (m["eval/before"] for _, m in found if "eval/before" in m)
    assert ["no | *lamp*", "on"] == [row["last_message"] for row in table["_value"]]
    assert "tiny" == json.loads(configs[0][1])["model.path"]


def read_tensorboard(folder: Path) -> Any:
    """Read event files with TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_tensorboard_has_the_steps_of_both_parts(tracked: Tracked) -> None:
    """Scalars by step, config and table as text that cannot become markup."""
    found = read_tensorboard(tracked.folder / "tensorboard")
    rewards = {event.step: event.value for event in found.Scalars("train/reward")}
    assert {number: number / 4 for number in range(1, 6)} == rewards
    (table,) = found.Tensors("eval/before")
    text = table.tensor_proto.string_val[0].decode()
    assert "| task-0 | 0.0 | 0.0 | 1 | 2 | done |  | no \\| \\*lamp\\* |" in text
    config = found.Tensors("config")[0].tensor_proto.string_val[0].decode()
    assert "| model.path | tiny |" in config


def read_wandb(file: Path) -> Iterator[Any]:
    """Read the messages of an offline file: blocks of 32 KiB with records in parts, as LevelDB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if at % 32768 > 32768 - 7:
            at += 32768 - at % 32768
            continue
        size, kind = struct.unpack_from("<HB", data, at + 4)
        if not kind:
            return
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def test_wandb_offline_has_both_parts_under_one_id(tracked: Tracked) -> None:
    """`wandb sync` makes one run of what has one id."""
    files = sorted((tracked.folder / "wandb").glob(f"offline-run-*/run-{tracked.id}.wandb"))
    assert 2 == len(files)
    rewards: dict[int, float] = {}
    configs, tables, codes = [], [], []
    for file in files:
        for record in read_wandb(file):
            items = {
                "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }
            if "train/reward" in items:
                rewards[items["train/global_step"]] = items["train/reward"]
            tables += [items["eval/before/_type"]] if "eval/before/_type" in items else []
            if record.WhichOneof("record_type") == "run":
                assert tracked.id == record.run.run_id
                assert "trustee" == record.run.project
                configs.append({i.key: i.value_json for i in record.run.config.update})
            if record.WhichOneof("record_type") == "exit":
                codes.append(record.exit.exit_code)
    assert {number: number / 4 for number in range(1, 6)} == rewards
    assert ["table-file"] == tables
    assert '"tiny"' == configs[0]["model.path"]
    assert [0, 0] == codes


def test_no_secret_is_kept_anywhere(tracked: Tracked) -> None:
    """A key of the environment stands in no file of the run or of a tracker."""
    files = [path for path in tracked.folder.parent.rglob("*") if path.is_file()]
    assert 10 < len(files)
    assert [] == [path for path in files if SECRET.encode() in path.read_bytes()]
