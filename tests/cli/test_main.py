"""The command line: what it refuses in which words, its exit codes, and that it starts at once."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from command_line import write_adapter
from golden_errors import ErrorCheck
from scripted_program import SMALL, learnt, play_with
from trustee import __version__
from trustee.cli.commands.options import BAD_INPUT, DONE, FAILED, INTERRUPTED, STALLED
from trustee.cli.commands.run import load_config
from trustee.cli.main import main, make_parser
from trustee.config import PACKAGED, read_config
from trustee.errors import EngineDied, EngineError, InputError, RunError
from trustee.evaluation.evaluate import Gain, SuccessRate
from trustee.jobs import assemble, doctor, stages
from trustee.jobs.held_out import RunResult
from trustee.jobs.run_metadata import describe_run
from trustee.planning import card_fit, cards
from trustee.planning.cards import FoundCard, Holder
from trustee.planning.machine import Finding
from trustee.rl.timeline import TRACKS
from trustee.runs.store import EpisodeLine, Store, TaskLine
from trustee.types import GIB, Stop, Trajectory

ROOT = Path(__file__).parents[2]
TINY = str(ROOT / "configs" / "tiny.toml")
PYTHON = sys.executable
COMMANDS = (
    "run",
    "eval",
    "plan",
    "config",
    "doctor",
    "build",
    "collect",
    "merge",
    "serve",
    "sft",
    "view",
    "ui",
    "runs",
    "watch",
    "init",
    "report",
    "export",
    "tools",
)


@pytest.fixture
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work as on a machine without a card."""
    monkeypatch.setattr(cards, "count_cards", lambda: 0)


def refuse(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must be refused; give what it says, without the program's name."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert (BAD_INPUT, "") == (code, captured.out)
    assert captured.err.startswith("trustee: ")
    assert 1 == captured.err.count("\n"), "an error is one line"
    return captured.err.removeprefix("trustee: ").removesuffix("\n")


@pytest.mark.usefixtures("no_card")
def test_card_that_is_not_there(
    check_error: ErrorCheck, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asking for a card without one names the command that works here."""
    check_error(
        refuse(capsys, "run", "--gpu", "0"),
        "CUDA device 0",
        "no CUDA driver or no GPU",
        "configs/tiny.toml",
    )


@pytest.mark.parametrize("index", ["2", "-1"])
def test_card_of_another_number(
    check_error: ErrorCheck,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    index: str,
) -> None:
    """Cards count from 0 to one less than there are."""
    monkeypatch.setattr(cards, "count_cards", lambda: 2)
    check_error(
        refuse(capsys, "run", f"--gpu={index}"),
        f"CUDA device {index}",
        "shows 2",
        "configs/tiny.toml",
    )


@pytest.mark.parametrize(
    "command", [("run", "--config", TINY, "--out", "new"), ("doctor", "--config", TINY), ("eval",)]
)
def test_card_for_a_cpu_config(
    check_error: ErrorCheck,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    command: tuple[str, ...],
) -> None:
    """A card and a config for none contradict each other; nothing is chosen silently."""
    monkeypatch.setattr(cards, "count_cards", lambda: 1)
    monkeypatch.chdir(tmp_path)
    Path("run.json").write_bytes(msgspec.json.encode(describe_run(read_config(Path(TINY)))))
    place = ("." for name in command if name == "eval")
    check_error(
        refuse(capsys, *command, *place, "--gpu", "0"),
        "--gpu 0",
        "engine.device is cpu",
        "engine.device=cuda",
    )
    assert not Path("new").exists()


@pytest.mark.usefixtures("no_card")
def test_cuda_config_without_a_card(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A config that needs a card is refused where there is none, before anything is made."""
    folder = tmp_path / "new"
    config = ROOT / "configs" / "qwen3-8b.toml"
    assert refuse(capsys, "run", "--config", config, "--out", folder).startswith(
        "there is no CUDA device 0: "
    )
    assert not folder.exists()


def test_unknown_config_file(
    check_error: ErrorCheck,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A config that is not there is answered with those that are."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "a.toml").touch()
    monkeypatch.chdir(tmp_path)
    check_error(refuse(capsys, "run", "--config", "none.toml"), "none.toml", "configs/a.toml")


def test_unknown_key(check_error: ErrorCheck, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped key is answered with the nearest one."""
    check_error(
        refuse(capsys, "run", "--config", TINY, "--set", "run.stepps=3"),
        TINY,
        "run.stepps",
        "steps?",
        "keep_checkpoints",
    )


def test_unknown_model_folder(
    check_error: ErrorCheck, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A model that is not there is named with what is allowed, and no run folder is made."""
    folder = tmp_path / "new"
    check_error(
        refuse(
            capsys, "run", "--config", TINY, "--set", f"model.path={tmp_path}/none", "--out", folder
        ),
        "model.path",
        tmp_path / "none",
    )
    assert not folder.exists()


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        ([], "config.json"),
        (["config.json"], "*.safetensors"),
        (["config.json", "pytorch_model.bin"], "*.safetensors"),
    ],
)
def test_folder_of_no_model(
    check_error: ErrorCheck,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    names: list[str],
    missing: str,
) -> None:
    """A folder that holds no usable model says what is missing."""
    for name in names:
        (tmp_path / name).write_text("{}")
    told = refuse(capsys, "run", "--config", TINY, "--set", f"model.path={tmp_path}")
    check_error(told, "model.path", tmp_path, missing)


def test_unreadable_tools_file(
    check_error: ErrorCheck, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Tools that cannot be read are refused before anything heavy starts."""
    path = tmp_path / "none.json"
    folder = tmp_path / "new"
    check_error(refuse(capsys, "run", "--config", TINY, "--tools", path, "--out", folder), path)
    assert not folder.exists()


@pytest.mark.parametrize("rank", [None, 32])
def test_adapter_that_cannot_be_begun_with(
    check_error: ErrorCheck, capsys: pytest.CaptureFixture[str], tmp_path: Path, rank: int | None
) -> None:
    """A folder without an adapter, or with one of another rank, makes no run folder."""
    folder, start = tmp_path / "new", tmp_path / "start"
    named = ["adapter_config.json", "adapters/policy-*"]
    if rank is not None:
        write_adapter(start, rank=rank)
        named = ["rank 32", "learn.rank is 16", "learn.rank=32"]
    check_error(
        refuse(capsys, "run", "--config", TINY, "--adapter", start, "--out", folder), start, *named
    )
    assert not folder.exists()


@pytest.mark.parametrize(
    "world",
    [
        "env={kind='executable', path='none.jsonl'}",
        "eval_env={kind='executable', path='none.jsonl'}",
        "env={kind='anchored', hard={path='none.jsonl'}}",
        "env={kind='trial', inner={kind='executable', path='none.jsonl'}}",
    ],
)
def test_world_that_cannot_be_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, world: str
) -> None:
    """Environments that are not there are refused before anything heavy starts."""
    folder = tmp_path / "new"
    assert refuse(
        capsys, "run", "--config", TINY, "--set", world, "--set", "eval.tasks=3", "--out", folder
    ).startswith("none.jsonl: cannot be read (No such file or directory); give a folder of JSON")
    assert not folder.exists()


def test_run_folder_that_is_used(
    check_error: ErrorCheck, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A run never writes into another's folder."""
    (tmp_path / "run.json").write_text("{}")
    check_error(
        refuse(capsys, "run", "--config", TINY, "--out", tmp_path), tmp_path, f"--resume {tmp_path}"
    )


@pytest.mark.parametrize("command", [("run", "--resume"), ("eval",)])
def test_folder_of_no_run(
    check_error: ErrorCheck,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    command: tuple[str, ...],
) -> None:
    """Only run folders can be continued or measured."""
    check_error(refuse(capsys, *command, tmp_path), tmp_path, "run.json")


@pytest.mark.parametrize(
    "more",
    [
        ("--set", "run.steps=3"),
        ("--config", TINY),
        ("--tools", "x"),
        ("--adapter", "x"),
        ("--out", "x"),
        ("--model", "x"),
        ("--name", "x"),
        ("--seed", "1"),
    ],
)
def test_resume_takes_no_changes(
    check_error: ErrorCheck,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    more: tuple[str, ...],
) -> None:
    """A continued run is the same run."""
    check_error(refuse(capsys, "run", "--resume", tmp_path, *more), "--resume", "--set", more[0])


@pytest.mark.parametrize(
    ("given", "section", "changes"),
    [
        (("--unsafe-local-tools",), "sandbox", {"isolation": "none"}),
        (("--adapter", '/it\'s "here"'), "run", {"adapter": '/it\'s "here"'}),
        (("--tools", "it's.json"), "env", {"tools": "it's.json"}),
    ],
)
def test_options_of_a_run_are_changes_of_its_config(
    given: tuple[str, ...], section: str, changes: dict[str, str]
) -> None:
    """What has an option of its own is written into the config, whatever signs a path has."""
    options = make_parser().parse_args(["run", "--config", TINY, *given])
    before = read_config(Path(TINY))
    changed = msgspec.structs.replace(getattr(before, section), **changes)
    assert msgspec.structs.replace(before, **{section: changed}) == load_config(options)


@pytest.mark.parametrize(
    "filters", [["--failed-by", "nobody"], ["--reward", "high"]], ids=lambda filters: filters[0]
)
def test_view_filters_are_checked(
    check_error: ErrorCheck,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    filters: list[str],
) -> None:
    """A filter that can match nothing is refused, whatever the folder holds."""
    check_error(refuse(capsys, "view", tmp_path, *filters), filters[0], repr(filters[1]))


def test_view_of_no_run(
    check_error: ErrorCheck, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A folder without episodes is refused by name."""
    check_error(refuse(capsys, "view", tmp_path), tmp_path, "episodes.jsonl")


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """Make a run folder with three episodes."""
    store = Store(tmp_path)
    episodes = [
        EpisodeLine(
            group=0,
            member=member,
            trajectory=Trajectory(
                id=f"0/{member}",
                task_id="t",
                turns=(),
                stop=Stop.DONE,
                rewards={"verdict": reward},
            ),
        )
        for member, reward in enumerate((1.0, -1.0, 0.0))
    ]
    store.append("episodes.jsonl", episodes)
    store.append("tasks.jsonl", [TaskLine(group=0, version=0, task=None)])
    for file in store._files.values():
        file.close()
    return tmp_path


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], ["0/0", "0/1", "0/2"]),
        (["--limit", "1"], ["0/0"]),
        (["--reward", "-1"], ["0/1"]),
        (["--reward", ">=0"], ["0/0", "0/2"]),
        (["--failed-by", "policy"], ["0/1", "0/2"]),
        (["--step", "1", "--group", "0"], ["0/0", "0/1", "0/2"]),
        (["--group", "5"], []),
    ],
)
def test_view_filters(
    capsys: pytest.CaptureFixture[str], run_folder: Path, filters: list[str], expected: list[str]
) -> None:
    """Each option reaches its filter."""
    assert DONE == main(["view", str(run_folder), "--json", *filters])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert expected == [row["episode"]["trajectory"]["id"] for row in rows]


def test_view_for_people(capsys: pytest.CaptureFixture[str], run_folder: Path) -> None:
    """Without --json the same is printed to be read."""
    assert DONE == main(["view", str(run_folder), "--reward", "-1"])
    assert capsys.readouterr().out.startswith(
        "episode 0/1  reward -1  version 0  done  failed by pol"
    )


def test_tools_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """One line a tool, and their number; a category narrows the list."""
    assert DONE == main(["tools", "list", "--category", "weather"])
    lines = capsys.readouterr().out.splitlines()
    assert f"{len(lines) - 1} tools" == lines[-1]
    assert {"weather"} == {line.split()[0] for line in lines[:-1]}


def test_tools_of_no_category(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown category is answered with all there are."""
    told = refuse(capsys, "tools", "list", "--category", "space")
    assert told.startswith("no category 'space'; there are banking, calendar, ")


def test_tools_are_imported(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Imported tools are written as OpenAI JSON that can be imported again."""
    source, target = tmp_path / "a.py", tmp_path / "a.json"
    source.write_text('def find_book(title: str) -> str:\n    """Find a book."""\n')
    assert DONE == main(["tools", "import", str(source), "--out", str(target)])
    assert (
        f"1 tools written to {target}; train on them with: trustee run --tools {target}\n"
    ) == capsys.readouterr().out
    assert DONE == main(["tools", "import", str(target)])
    line, count = capsys.readouterr().out.splitlines()
    assert (["read", "find_book(title)"], "1 tools") == (line.split()[-2:], count)


SHARE = SuccessRate(value=0.5, low=0.4, high=0.6, count=10, failed=1)


def train_as(monkeypatch: pytest.MonkeyPatch, job: Callable[[Path], Any]) -> None:
    """Have `trustee run` do this instead of training a model."""

    async def run_stages_of(config: Any, folder: Path, **more: Any) -> Any:
        return job(folder)

    monkeypatch.setattr(assemble, "prepare_model", lambda config: None)
    monkeypatch.setattr(stages, "run_stages_of", run_stages_of)


def test_finished_run(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A run that ends well exits with 0 and says what came of it and what to do next."""
    gain = Gain(points=12.5, low=-1.0, high=26.0, better=7, worse=2)
    train_as(
        monkeypatch,
        lambda folder: RunResult(
            folder=folder, steps=3, version=3, before=SHARE, after=SHARE, gain=gain, seconds=90
        ),
    )
    assert DONE == main(["run", "--config", TINY, "--out", str(tmp_path / "new")])
    captured = capfd.readouterr()
    share = "50.0% (95 % interval 40.0% to 60.0%, 10 tasks, 1 failed)"
    assert "" == captured.err
    assert [
        "trained 3 steps in 1.5 minutes",
        f"held-out success before  {share}",
        f"held-out success after   {share}",
        "gain +12.5 points (95 % interval -1.0 to +26.0); 7 tasks won, 2 lost",
        f"run folder  {tmp_path / 'new'}",
        f"next  trustee view {tmp_path / 'new'} --reward -1",
    ] == captured.out.splitlines()


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (RunError("the disk is full"), FAILED, "trustee: the disk is full"),
        (EngineError("the engine died"), FAILED, "trustee: the engine died"),
        (InputError("bad template"), BAD_INPUT, "trustee: bad template"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_failed_run(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    error: Exception,
    code: int,
    text: str,
    nested: bool,
) -> None:
    """Errors on purpose are one line on stderr and an exit code, also out of nested groups."""

    def fail(folder: Path) -> None:
        if nested:
            raise ExceptionGroup("outer", [ExceptionGroup("inner", [error])])
        raise error

    train_as(monkeypatch, fail)
    folder = tmp_path / "new"
    assert code == main(["run", "--config", TINY, "--out", str(folder)])
    captured = capfd.readouterr()
    assert ("", f"{text}\n") == (captured.out, captured.err)


def test_engine_that_died_twice(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The run can be continued, and how is said on the screen and in the log."""

    def fail(folder: Path) -> None:
        (folder / "run.json").touch()
        raise ExceptionGroup("outer", [EngineDied("the engine died")])

    train_as(monkeypatch, fail)
    folder = tmp_path / "new"
    assert STALLED == main(["run", "--config", TINY, "--out", str(folder)])
    text = f"trustee: the engine died; continue with: trustee run --resume {folder}"
    assert f"{text}\n" == capfd.readouterr().err
    assert text in (folder / "log.jsonl").read_text()


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_run(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kind: signal.Signals,
) -> None:
    """Ctrl-C, a polite kill and a closed terminal end the run at once, and it says how to go on."""
    stopped: list[str] = []

    async def run_stages_of(config: Any, folder: Path, **more: Any) -> None:
        try:
            (folder / "run.json").touch()
            await anyio.sleep(0.05)
            os.kill(os.getpid(), kind)
            await anyio.sleep(30)
        finally:
            stopped.append("cleanly")

    monkeypatch.setattr(assemble, "prepare_model", lambda config: None)
    monkeypatch.setattr(stages, "run_stages_of", run_stages_of)
    assert INTERRUPTED == main(["run", "--config", TINY, "--out", str(tmp_path)])
    captured = capfd.readouterr()
    assert ["cleanly"] == stopped
    text = f"interrupted; continue with: trustee run --resume {tmp_path}"
    assert f"{text}\n" == captured.err
    assert text in (tmp_path / "log.jsonl").read_text()


def test_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A bug keeps its traceback."""

    def fail(folder: Path) -> None:
        raise ZeroDivisionError

    train_as(monkeypatch, fail)
    with pytest.raises(ExceptionGroup) as caught:
        main(["run", "--config", TINY, "--out", str(tmp_path / "new")])
    assert [ZeroDivisionError] == [type(error) for error in caught.value.exceptions]


def test_noise_goes_to_a_file(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What libraries print while a run trains is kept from the screen, and kept."""

    def shout(folder: Path) -> Any:
        os.write(1, b"a library speaks\n")
        os.write(2, b"and warns\n")
        return RunResult(
            folder=folder, steps=1, version=1, before=None, after=None, gain=None, seconds=1
        )

    train_as(monkeypatch, shout)
    assert DONE == main(["run", "--config", TINY, "--out", str(tmp_path)])
    captured = capfd.readouterr()
    assert "" == captured.err
    assert "library" not in captured.out
    assert "a library speaks\nand warns\n" == (tmp_path / "engine.log").read_text()


QWEN = str(ROOT / "configs" / "qwen3-8b.toml")


def show_card(monkeypatch: pytest.MonkeyPatch, found: FoundCard | None) -> list[int]:
    """Work as on a machine with a card of which the driver says this; give which one is used."""
    used: list[int] = []
    monkeypatch.setattr(cards, "count_cards", lambda: 1)
    monkeypatch.setattr(cards, "use_card", used.append)
    for module in (cards, card_fit):
        monkeypatch.setattr(module, "read_card", lambda index: found)
    return used


def card_with(free: float, *holders: Holder, name: str = "NVIDIA GeForce RTX 3090") -> FoundCard:
    """Give a card of 24 GiB of which so many are free."""
    return FoundCard(
        name=name, total=24 * GIB, free=int(free * GIB), driver="580.1", holders=holders
    )


OUTCOME = RunResult(
    folder=Path("new"), steps=1, version=1, before=None, after=None, gain=None, seconds=1
)


def note_starts(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Have `trustee run` do no more than to be started; give the folders it was started in."""
    started: list[Path] = []

    def start(folder: Path) -> RunResult:
        started.append(folder)
        return OUTCOME

    train_as(monkeypatch, start)
    return started


@pytest.mark.parametrize("free", [11.5, 15.5])
def test_run_on_a_card_that_is_too_full(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    free: float,
) -> None:
    """A run that cannot fit is refused with figures, with who holds memory and with what fits."""
    folder = tmp_path / "new"
    started = note_starts(monkeypatch)
    show_card(monkeypatch, card_with(free, Holder(process=41, bytes=8 * GIB)))
    fixed = "engine.kv_bytes=12348030976"
    told = refuse(capfd, "run", "--config", QWEN, "--out", folder, "--set", fixed)
    figures, _, advice = told.partition("; it fits with: ")
    assert re.fullmatch(
        rf"this run needs 2\d\.\d GiB and NVIDIA GeForce RTX 3090 has {free} GiB free "
        r"\(process 41 holds 8\.0 GiB\)",
        figures,
    )
    command, _, rest = advice.partition("; ")
    assert "trustee plan shows where the memory goes, --force starts the run anyway" == rest
    assert ([], False) == (started, folder.exists())
    changes = re.findall(r"--set (\S+)", command)
    assert changes[0].startswith("model.path=")
    again = [word for change in changes for word in ("--set", change.strip("'"))]
    assert DONE == main(["run", "--config", QWEN, "--out", str(folder), *again])
    assert [folder] == started


def test_run_that_does_not_fit_is_forced(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With --force a run starts whatever the plan says, on the card that is meant."""
    started = note_starts(monkeypatch)
    used = show_card(monkeypatch, card_with(4.0))
    folder = tmp_path / "new"
    assert DONE == main(["run", "--config", QWEN, "--out", str(folder), "--force"])
    assert ([folder], [0], "") == (started, used, capfd.readouterr().err)


def test_run_on_a_card_that_has_no_room(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where so little is free that no model fits, no command is offered but room is asked for."""
    show_card(monkeypatch, card_with(4.0))
    told = refuse(capfd, "run", "--config", QWEN, "--out", tmp_path / "new")
    assert (
        "; no setting makes it fit the free memory: close other programs that use the GPU; tr"
        in told
    )
    assert "it fits with" not in told


@pytest.mark.parametrize("found", [None, card_with(23.5)])
def test_run_that_fits_needs_no_force(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, found: FoundCard | None
) -> None:
    """A free card is used; one that the driver tells nothing of is tried."""
    started = note_starts(monkeypatch)
    show_card(monkeypatch, found)
    assert DONE == main(["run", "--config", QWEN, "--out", str(tmp_path / "new")])
    assert [tmp_path / "new"] == started


def test_resumed_run_must_fit_as_well(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What fitted yesterday may not fit beside what uses the card today."""
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(describe_run(read_config(Path(QWEN)))))
    started = note_starts(monkeypatch)
    show_card(monkeypatch, card_with(4.0))
    assert refuse(capfd, "run", "--resume", tmp_path).startswith("this run needs ")
    assert DONE == main(["run", "--resume", str(tmp_path), "--force"])
    assert [tmp_path] == started


def test_run_on_a_card_that_is_too_old(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where nothing helps, no command is offered."""
    show_card(monkeypatch, card_with(10.5, name="NVIDIA GeForce RTX 2080 Ti"))
    told = refuse(capfd, "run", "--config", QWEN, "--out", tmp_path / "new")
    assert "; no setting makes it fit: use a smaller model, or a larger GPU of comp" in told
    assert "it fits with" not in told


def read_tracks(path: Path) -> list[str]:
    """Give the tracks of a timeline, each as often as it has boxes."""
    events = json.loads(path.read_text())
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    assert set(TRACKS) <= set(names.values())
    return [names[event["pid"]] for event in events if event["ph"] == "X"]


def test_profiled_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """--profile draws a run into its folder; a resumed run draws beside, a finished one nothing."""
    play_with(monkeypatch, learnt)
    changes = [word for change in SMALL for word in ("--set", change)]
    folder = tmp_path / "new"
    assert DONE == main(["run", "--config", TINY, "--out", str(folder), *changes, "--profile"])
    first = folder / "timeline-0.json"
    drawn = read_tracks(first)
    own = {"feed", "write", "groups", "episodes", "record", "learn", "train"}
    assert own == set(drawn), "a scripted engine measures no requests"
    episodes = (folder / "episodes.jsonl").read_text().count("\n")
    assert episodes == drawn.count("episodes")
    text = first.read_bytes()
    assert DONE == main(["run", "--resume", str(folder), "--steps", "3", "--profile"])
    assert {"train"} <= set(read_tracks(folder / "timeline-1.json"))
    assert text == first.read_bytes()
    assert DONE == main(["run", "--resume", str(folder), "--profile"])
    assert 2 == len(list(folder.glob("timeline-*.json")))


@pytest.mark.parametrize(
    ("options", "code", "verdict"),
    [
        (["--vram", "24"], DONE, "Qwen/Qwen3-8B fits RTX 3090: "),
        (["--card", "RTX 4090"], DONE, "Qwen/Qwen3-8B fits RTX 4090: "),
        (["--vram", "12"], DONE, "Qwen/Qwen3-8B fits RTX 3060 12GB: "),
        (["--vram", "8"], FAILED, "Qwen/Qwen3-8B does not fit RTX 4060 8GB: "),
        (["--vram", "24", "--model", "tiny"], DONE, "tiny fits RTX 3090: "),
        (["--vram", "24", "--set", "model.path=tiny"], DONE, "tiny fits RTX 3090: "),
        ([TINY, "--vram", "8"], DONE, "tiny fits RTX 4060 8GB: "),
    ],
)
def test_plan(
    capsys: pytest.CaptureFixture[str], options: list[str], code: int, verdict: str
) -> None:
    """A plan is printed whether it fits or not; the exit code says which."""
    assert code == main(["plan", *options])
    captured = capsys.readouterr()
    assert (True, "") == (captured.out.startswith(verdict), captured.err)
    assert (code == FAILED) == ("it fits with these changes" in captured.out)
    assert code == main(["plan", "--json", *options])
    plan = json.loads(capsys.readouterr().out)
    verb = "fits" if plan["fits"] else "does not fit"
    assert f"{plan['model']} {verb} {plan['card']}: " == verdict
    assert (code == FAILED) == (plan["after"] is not None)
    assert bool(plan["settings"]) == ("chosen for this card: " in captured.out)


def test_plan_for_the_card_that_is_here(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without options the plan is for this machine's card."""
    monkeypatch.setattr(cards, "read_card", lambda index: card_with(23.5))
    assert DONE == main(["plan"])
    out = capsys.readouterr().out
    assert out.startswith("Qwen/Qwen3-8B fits RTX 3090: ")
    assert "- found NVIDIA GeForce RTX 3090, 24.00 GiB, driver 580.1" in out


@pytest.mark.parametrize(
    ("options", "start"),
    [
        (
            ["--card", "Voodoo 2"],
            "'Voodoo 2' is not a known GPU; give one of RTX 2080 Ti, RTX 3060",
        ),
        (["--vram", "5"], "a GPU with 5 GiB is too small; at least 8 GiB are needed (--vram)"),
        (["--vram", "24", "--model", "owner/none"], "no config of model 'owner/none' was found"),
        (
            ["--vram", "24", "--set", "engine.contxt=9"],
            f"{PACKAGED / 'qwen3-8b.toml'}: unknown key engine.contxt; did ",
        ),
        (["--vram", "24", "none.toml"], "none.toml: cannot be read (No such file"),
        ([], "no GPU was found in this machine; name one to plan for with --card 'RTX 3090', or"),
    ],
)
def test_plan_of_what_is_not_known(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    start: str,
) -> None:
    """What cannot be planned is bad input, in one line."""
    monkeypatch.setattr(cards, "read_card", lambda index: None)
    monkeypatch.chdir("/")
    assert start == refuse(capsys, "plan", *options)[: len(start)]


def test_plan_of_a_config_with_an_unknown_key(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A mistyped key in the file itself is refused with the nearest one."""
    path = tmp_path / "mine.toml"
    path.write_text(Path(TINY).read_text().replace("context = 640", "contexts = 640"))
    assert refuse(capsys, "plan", path, "--vram", "24").startswith(
        f"{path}: unknown key engine.contexts; did you mean context? allowed are: "
    )


@pytest.mark.parametrize("options", [["--vram", "24"], ["--vram", "12", "--json"]])
def test_plan_loads_nothing_heavy(options: list[str]) -> None:
    """A plan is arithmetic: no torch, no vLLM, no transformers."""
    code = (
        f"import sys; from trustee.cli.main import main; main(['plan', *{options!r}]); "
        "print(sorted({'torch', 'vllm', 'transformers'} & set(sys.modules)))"
    )
    ran = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "[]" == ran.stdout.splitlines()[-1]


WELL = Finding(name="disk", state="ok", why="50 GiB")
ILL = Finding(name="judge", state="fail", why="it obeys", fix="a stronger base")


def find_things(
    monkeypatch: pytest.MonkeyPatch, *findings: Finding, noise: bytes = b""
) -> list[tuple[Any, int]]:
    """Have the doctor find these things and no others; give what it is asked to examine."""
    asked: list[tuple[Any, int]] = []

    async def examine(config: Any, *, extra: Any, soak: int, emit: Any) -> doctor.Examination:
        asked.append((config, soak))
        os.write(2, noise)
        for finding in (*extra, *findings):
            emit(finding)
        return doctor.Examination(findings=(*extra, *findings))

    monkeypatch.setattr(doctor, "examine", examine)
    return asked


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give the place of temporary files."""
    place = tmp_path / "scratch"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    return place


NO_CARD = "ok    card               not used (engine.device = cpu)"


@pytest.mark.usefixtures("no_card")
def test_doctor_says_that_all_is_well(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, scratch: Path
) -> None:
    """Without a card the built-in model is tried; findings are lines, and nothing is left."""
    asked = find_things(monkeypatch, WELL, noise=b"a library speaks")
    assert DONE == main(["doctor", "--soak", "3", "--unsafe-local-tools"])
    captured = capfd.readouterr()
    assert "" == captured.err
    lines = [NO_CARD, "ok    disk               50 GiB", "all checks passed"]
    assert lines == captured.out.splitlines()
    assert [(read_config(Path(TINY), ["sandbox.isolation=none"]), 3)] == asked
    assert [] == list(scratch.iterdir())


@pytest.mark.usefixtures("no_card", "scratch")
@pytest.mark.parametrize(("findings", "code"), [((WELL,), DONE), ((WELL, ILL), FAILED)])
def test_doctor_for_programs(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    findings: tuple[Finding, ...],
    code: int,
) -> None:
    """With --json there is one document, and the exit code says the same."""
    find_things(monkeypatch, *findings)
    assert code == main(["doctor", "--json"])
    captured = capfd.readouterr()
    assert "" == captured.err
    written = json.loads(captured.out)
    assert ["healthy", "findings"] == list(written)
    assert (code == DONE) is written["healthy"]
    assert ["card", *(f.name for f in findings)] == [f["name"] for f in written["findings"]]


@pytest.mark.usefixtures("no_card")
def test_doctor_keeps_the_words_of_an_engine_that_failed(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, scratch: Path
) -> None:
    """Where something failed the engine's log is left, and the last line says where."""
    find_things(monkeypatch, ILL, noise=b"CUDA error: out of memory")
    assert FAILED == main(["doctor"])
    captured = capfd.readouterr()
    (log,) = scratch.glob("*/engine.log")
    assert "CUDA error: out of memory" == log.read_text()
    assert f"the engine's output is in {log}\n" == captured.err
    assert "something failed; see above" == captured.out.splitlines()[-1]


@pytest.mark.usefixtures("no_card")
def test_doctor_leaves_no_empty_log(monkeypatch: pytest.MonkeyPatch, scratch: Path) -> None:
    """Where no engine spoke there is nothing to keep."""
    find_things(monkeypatch, ILL)
    assert FAILED == main(["doctor"])
    assert [] == list(scratch.iterdir())


@pytest.mark.usefixtures("scratch")
def test_doctor_on_a_card(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a card the default run is tried, and the plan is held against what is free."""
    asked = find_things(monkeypatch, WELL)
    used = show_card(monkeypatch, card_with(4.0, Holder(process=41, bytes=19 * GIB)))
    assert FAILED == main(["doctor", "--set", "run.seed=9"])
    lines = capfd.readouterr().out.splitlines()
    assert [
        "warn  card               NVIDIA GeForce RTX 3090, driver 580.1, 4.0 of 24.0 GiB free "
        "(process 41 holds 19.0 GiB)",
        "-> close other programs that use the GPU",
    ] == [line.strip() for line in lines[:2]]
    assert lines[2].startswith("fail  plan               2")
    assert [(read_config(Path(QWEN), ["run.seed=9"]), 0)] == asked
    assert [0] == used


@pytest.mark.usefixtures("no_card")
@pytest.mark.parametrize(
    ("options", "start"),
    [
        (["--gpu", "1"], "there is no CUDA device 1: no CUDA driver or no GPU was found; "),
        (["--config", QWEN], "there is no CUDA device 0: no CUDA driver or no GPU was found; "),
        (
            ["--set", "run.stepps=3"],
            f"{PACKAGED / 'tiny.toml'}: unknown key run.stepps; did you mean steps? ",
        ),
    ],
)
def test_doctor_of_what_is_not_there(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    scratch: Path,
    options: list[str],
    start: str,
) -> None:
    """Bad input is no illness: it is refused before anything is examined."""
    monkeypatch.chdir(scratch)
    assert start == refuse(capsys, "doctor", *options)[: len(start)]


def test_failed_comparison(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`trustee eval` of a run without an adapter is refused in one line as well."""
    record = describe_run(read_config(Path(TINY)))
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(record))
    assert BAD_INPUT == main(["eval", str(tmp_path)])
    assert (
        f"trustee: {tmp_path} contains no adapter: neither adapter_config.json nor "
        "adapters/policy-*; give a PEFT folder, or the folder of a run that has trained at least "
        "one step\n"
    ) == capfd.readouterr().err


def run_program(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run the program as a user does."""
    return subprocess.run(
        [PYTHON, "-m", "trustee", *arguments], capture_output=True, text=True, cwd=ROOT, **more
    )


def test_program_says_its_version() -> None:
    """The module is the program."""
    ran = run_program("--version")
    assert (0, f"trustee {__version__}\n", "") == (ran.returncode, ran.stdout, ran.stderr)


@pytest.mark.parametrize("arguments", [[], ["fly"], ["run", "--gpu", "one"], ["view"]])
def test_usage_errors(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What argparse refuses exits with 2 as well, with the usage."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert BAD_INPUT == caught.value.code
    assert capsys.readouterr().err.startswith("usage: trustee")


def test_closed_pipe_is_no_error() -> None:
    """`trustee tools list | head` ends quietly."""
    ran = subprocess.run(
        ["bash", "-c", f"{PYTHON} -m trustee tools list | true; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert ("0\n", "") == (ran.stdout, ran.stderr)


def cpu_seconds(*command: str) -> float:
    """Measure the CPU time of a child; the least of three is the one that nobody disturbed."""
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([PYTHON, *command], capture_output=True, check=True, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(taken)


@pytest.mark.parametrize("command", [("-m", "trustee", "--help"), ("-c", "import trustee")])
def test_start_is_quick(command: tuple[str, ...]) -> None:
    """Help and import take less than 0.3 s of CPU time."""
    assert cpu_seconds(*command) < 0.3


@pytest.mark.parametrize(
    "code",
    ["import trustee", "import trustee.cli.main; trustee.cli.main.make_parser().format_help()"],
)
def test_start_loads_nothing_heavy(code: str) -> None:
    """Help and import load neither torch nor vLLM nor transformers, nor this program's loop."""
    names = "{'torch', 'vllm', 'transformers', 'anyio', 'rich', 'trustee.config'}"
    ran = subprocess.run(
        [PYTHON, "-c", f"import sys; {code}; print(sorted({names} & set(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert "[]\n" == ran.stdout


def test_help_of_no_command_loads_anything_heavy() -> None:
    """Every command can be looked up at once."""
    code = f"""
import sys
from trustee.cli.main import main
for name in {COMMANDS}:
    try:
        main([name, "--help"])
    except SystemExit:
        pass
print(sorted({{"torch", "vllm", "transformers", "anyio", "trustee.config"}} & set(sys.modules)))
"""
    ran = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert len(COMMANDS) == ran.stdout.count("usage: trustee")
    assert "[]" == ran.stdout.splitlines()[-1]


def test_reading_a_run_loads_no_torch(run_folder: Path) -> None:
    """`trustee view` is for looking, at once."""
    code = (
        "import sys; from trustee.cli.main import main; "
        f"main(['view', {str(run_folder)!r}, '--json']); "
        "print(sorted({'torch', 'vllm', 'transformers'} & set(sys.modules)))"
    )
    ran = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True)
    assert "[]" == ran.stdout.splitlines()[-1]


def test_every_command_has_help() -> None:
    """Each command says what it does, in the help that users read."""
    help_text = make_parser().format_help()
    told = re.findall(r"^    ([a-z]\w*) +\w", help_text, re.M)
    assert sorted(COMMANDS) == sorted(told)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_each_command(capsys: pytest.CaptureFixture[str], name: str) -> None:
    """Each command explains its own options."""
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    captured = capsys.readouterr()
    assert (DONE, "") == (caught.value.code, captured.err)
    assert captured.out.startswith(f"usage: trustee {name} ")
