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

from trustee import __version__, launch, models
from trustee.cli import main, make_parser
from trustee.commands import BAD_INPUT, DONE, FAILED, INTERRUPTED
from trustee.config import read_config
from trustee.errors import EngineError, InputError, RunError
from trustee.evaluate import Gain, Share
from trustee.outcome import Outcome
from trustee.record import describe_run
from trustee.store import EpisodeLine, Store, TaskLine
from trustee.types import Stop, Trajectory

ROOT = Path(__file__).parents[1]
TINY = str(ROOT / "configs" / "tiny.toml")
PYTHON = sys.executable


@pytest.fixture
def no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work as on a machine without a card."""
    monkeypatch.setattr(models, "count_cards", lambda: 0)


def refuse(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must be refused; give what it says, without the program's name."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert (BAD_INPUT, "") == (code, captured.out)
    assert captured.err.startswith("trustee: ")
    assert 1 == captured.err.count("\n"), "an error is one line"
    return captured.err.removeprefix("trustee: ").removesuffix("\n")


@pytest.mark.usefixtures("no_card")
def test_card_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Asking for a card without one names the command that works here."""
    assert (
        "there is no CUDA device 0: no CUDA driver or no card was found; this works here: "
        "trustee run --config configs/tiny.toml"
    ) == refuse(capsys, "run", "--gpu", "0")


@pytest.mark.parametrize("index", ["2", "-1"])
def test_card_of_another_number(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, index: str
) -> None:
    """Cards count from 0 to one less than there are."""
    monkeypatch.setattr(models, "count_cards", lambda: 2)
    assert (
        f"there is no CUDA device {index}: the driver shows 2; this works here: "
        "trustee run --config configs/tiny.toml"
    ) == refuse(capsys, "run", f"--gpu={index}")


def test_card_for_a_cpu_config(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A card and a config for none contradict each other; nothing is chosen silently."""
    monkeypatch.setattr(models, "count_cards", lambda: 1)
    assert (
        "--gpu 0 was given but engine.device is cpu in the config; add --set engine.device=cuda or "
        "leave out --gpu"
    ) == refuse(capsys, "run", "--config", TINY, "--gpu", "0", "--out", tmp_path / "new")


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
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A config that is not there is answered with those that are."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "a.toml").touch()
    monkeypatch.chdir(tmp_path)
    assert (
        "none.toml: cannot be read ([Errno 2] No such file or directory: 'none.toml'); configs "
        "are: configs/a.toml"
    ) == refuse(capsys, "run", "--config", "none.toml")


def test_unknown_key(capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped key is answered with the nearest one."""
    assert (
        f"{TINY}: unknown key run.stepps; did you mean steps? allowed are: folder, "
        "keep_checkpoints, minutes, seed, steps"
    ) == refuse(capsys, "run", "--config", TINY, "--set", "run.stepps=3")


def test_unknown_model_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A model that is not there is named with what is allowed, and no run folder is made."""
    folder = tmp_path / "new"
    assert (
        f"model.path '{tmp_path}/none' is no folder; give a Hugging Face model folder, a hub id "
        "such as Qwen/Qwen3-8B, or tiny for the model in the package"
    ) == refuse(
        capsys, "run", "--config", TINY, "--set", f"model.path={tmp_path}/none", "--out", folder
    )
    assert not folder.exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds no config.json; it is not a model folder"),
        (["config.json"], "holds no *.safetensors; pickled weights are refused"),
        (
            ["config.json", "pytorch_model.bin"],
            "holds no *.safetensors; pickled weights are refused",
        ),
    ],
)
def test_folder_of_no_model(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, names: list[str], message: str
) -> None:
    """A folder that holds no usable model says what is missing."""
    for name in names:
        (tmp_path / name).write_text("{}")
    told = refuse(capsys, "run", "--config", TINY, "--set", f"model.path={tmp_path}")
    assert f"model.path {tmp_path} {message}" == told


def test_unreadable_tools_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Tools that cannot be read are refused before anything heavy starts."""
    path = tmp_path / "none.json"
    folder = tmp_path / "new"
    assert (
        f"{path}: cannot be read (No such file or directory); give a JSON, JSONL or Python file"
    ) == refuse(capsys, "run", "--config", TINY, "--tools", path, "--out", folder)
    assert not folder.exists()


def test_run_folder_that_is_used(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A run never writes into another's folder."""
    (tmp_path / "run.json").write_text("{}")
    assert (
        f"{tmp_path} holds a run already; continue it with --resume {tmp_path} or name another"
    ) == refuse(capsys, "run", "--config", TINY, "--out", tmp_path)


@pytest.mark.parametrize("command", [("run", "--resume"), ("eval",)])
def test_folder_of_no_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: tuple[str, ...]
) -> None:
    """Only run folders can be continued or measured."""
    assert f"{tmp_path} is no run folder: run.json cannot be read" == refuse(
        capsys, *command, tmp_path
    )


@pytest.mark.parametrize(
    "more", [("--set", "run.steps=3"), ("--config", TINY), ("--tools", "x"), ("--out", "x")]
)
def test_resume_takes_no_changes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, more: tuple[str, str]
) -> None:
    """A continued run is the same run."""
    assert (
        "--resume continues a run with its own config; leave out --config, --tools, --out and --set"
    ) == refuse(capsys, "run", "--resume", tmp_path, *more)


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (
            ["--blame", "nobody"],
            "--blame 'nobody': give one of policy, user, tool, judge, writer, engine",
        ),
        (
            ["--reward", "high"],
            "--reward 'high': give a number or a comparison, such as 1 or '>0'",
        ),
    ],
)
def test_view_filters_are_checked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, filters: list[str], message: str
) -> None:
    """A filter that can match nothing is refused, whatever the folder holds."""
    assert message == refuse(capsys, "view", tmp_path, *filters)


def test_view_of_no_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A folder without episodes is refused by name."""
    assert (
        f"{tmp_path} holds no episodes.jsonl that can be read (No such file or directory); give a "
        "run folder"
    ) == refuse(capsys, "view", tmp_path)


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
        (["--blame", "policy"], ["0/1", "0/2"]),
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
    assert capsys.readouterr().out.startswith("episode 0/1  reward -1  version 0  done  blame pol")


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


SHARE = Share(value=0.5, low=0.4, high=0.6, count=10, failed=1)


def train_as(monkeypatch: pytest.MonkeyPatch, job: Callable[[Path], Any]) -> None:
    """Have `trustee run` do this instead of training a model."""

    async def run_training(config: Any, folder: Path, **more: Any) -> Any:
        return job(folder)

    monkeypatch.setattr(launch, "prepare_model", lambda config: None)
    monkeypatch.setattr(launch, "run_training", run_training)


def test_finished_run(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A run that ends well exits with 0 and says what came of it and what to do next."""
    gain = Gain(points=12.5, low=-1.0, high=26.0, better=7, worse=2)
    train_as(
        monkeypatch,
        lambda folder: Outcome(
            folder=folder, steps=3, version=3, before=SHARE, after=SHARE, gain=gain, seconds=90
        ),
    )
    assert DONE == main(["run", "--config", TINY, "--out", str(tmp_path / "new")])
    captured = capfd.readouterr()
    share = "50.0% (95 % interval 40.0% to 60.0%, 10 tasks, 1 spoiled)"
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


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kind: signal.Signals,
) -> None:
    """An interrupt and a polite kill end the run at once, with 130 and the way to go on."""
    stopped: list[str] = []

    async def run_training(config: Any, folder: Path, **more: Any) -> None:
        try:
            await anyio.sleep(0.05)
            os.kill(os.getpid(), kind)
            await anyio.sleep(30)
        finally:
            stopped.append("cleanly")

    monkeypatch.setattr(launch, "prepare_model", lambda config: None)
    monkeypatch.setattr(launch, "run_training", run_training)
    assert INTERRUPTED == main(["run", "--config", TINY, "--out", str(tmp_path)])
    captured = capfd.readouterr()
    assert ["cleanly"] == stopped
    assert f"interrupted; continue with: trustee run --resume {tmp_path}\n" == captured.err


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
        return Outcome(
            folder=folder, steps=1, version=1, before=None, after=None, gain=None, seconds=1
        )

    train_as(monkeypatch, shout)
    assert DONE == main(["run", "--config", TINY, "--out", str(tmp_path)])
    captured = capfd.readouterr()
    assert "" == captured.err
    assert "library" not in captured.out
    assert "a library speaks\nand warns\n" == (tmp_path / "engine.log").read_text()


def test_failed_comparison(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`trustee eval` of a run without an adapter is refused in one line as well."""
    record = describe_run(read_config(Path(TINY)))
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(record))
    assert BAD_INPUT == main(["eval", str(tmp_path)])
    assert (
        f"trustee: {tmp_path} holds no adapter; train first, or name one with --adapter DIR\n"
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
    ["import trustee", "import trustee.cli; trustee.cli.make_parser().format_help()"],
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


def test_reading_a_run_loads_no_torch(run_folder: Path) -> None:
    """`trustee view` is for looking, at once."""
    code = (
        "import sys; from trustee.cli import main; "
        f"main(['view', {str(run_folder)!r}, '--json']); "
        "print(sorted({'torch', 'vllm', 'transformers'} & set(sys.modules)))"
    )
    ran = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True)
    assert "[]" == ran.stdout.splitlines()[-1]


def test_every_option_has_help() -> None:
    """Each option of `run` says what it does, in the help that users read."""
    help_text = make_parser().format_help()
    assert all(re.search(rf"^    {name} +\w", help_text, re.M) for name in ("run", "eval", "view"))
