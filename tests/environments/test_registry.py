"""Worlds outside the package: how they are named, what is refused, and who may load them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from command_line import refuse
from dice import Dice
from scripted_program import tiny_config
from trustee.cli.main import main
from trustee.config import Config, apply_changes, decode_stored, read_config
from trustee.environments import registry
from trustee.environments.registry import load_world
from trustee.environments.trial.environment import Trial
from trustee.errors import InputError, UntrustedWorld
from trustee.jobs.run_metadata import describe_run, read_metadata

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "dice.toml"
WORLD = """
from pathlib import Path
from trustee.environments import WorldConfig

Path(__file__).with_name("imported").touch()


class Coin(WorldConfig, frozen=True):
    sides: int = 2


class Purse:
    pass
"""


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let each test load its worlds anew, and leave Python's paths as they were."""
    monkeypatch.setattr(registry, "_loaded", {})
    monkeypatch.setattr(registry, "_allowed", set())
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in ("coin_world", "broken_world", "needy_world"):
        sys.modules.pop(name, None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a world, and a config that names it, into a folder of its own."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "coin_world.py").write_text(WORLD)
    (home / "broken_world.py").write_text("def")
    (home / "needy_world.py").write_text("import no_such_package_at_all")
    (home / "coin.toml").write_text('[model]\npath = "tiny"\n[env]\nkind = "coin_world:Coin"\n')
    return home


def refusal(folder: Path, *changes: str) -> str:
    """Return the message with which the config of a coin refuses changes."""
    with pytest.raises(InputError) as caught:
        read_config(folder / "coin.toml", changes)
    return str(caught.value).removeprefix(f"{folder / 'coin.toml'}: ")


def test_world_is_found_next_to_its_config(folder: Path) -> None:
    """The module needs to be on no path of Python's, and the rest of the section are its fields."""
    world = read_config(folder / "coin.toml", ["env.sides=3"]).env
    assert {"kind": "coin_world:Coin", "sides": 3} == msgspec.to_builtins(world)


def test_world_is_found_in_the_working_directory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any config may name it from there."""
    monkeypatch.chdir(folder)
    config = read_config(ROOT / "configs" / "tiny.toml", ["env={kind='coin_world:Coin'}"])
    assert "Coin" == type(config.env).__name__


def test_world_keeps_its_class(folder: Path) -> None:
    """What is loaded is the class itself with a name, so its methods and its own kind hold."""
    loaded = load_world("dice:Dice")
    world = loaded(dice=3)
    assert isinstance(world, Dice)
    assert world == loaded(dice=3)
    assert loaded is load_world("dice:Dice")


def test_trial_and_evaluation_take_such_worlds() -> None:
    """A world outside the package may be wrapped, and may hold the held-out tasks."""
    changes = [
        "env={kind='trial', inner={kind='dice:Dice', dice=1}}",
        "eval_env={kind='dice:Dice', dice=4}",
    ]
    config = read_config(EXAMPLE, changes)
    assert isinstance(config.env, Trial)
    assert {"dice": 1, "kind": "dice:Dice"} == msgspec.to_builtins(config.env.inner)
    assert {"dice": 4, "kind": "dice:Dice"} == msgspec.to_builtins(config.eval_env)
    assert config == apply_changes(config, [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("env.sidez=3", "unknown key env.sidez; did you mean sides? allowed are: sides"),
        ("env.sides=x", "env.sides: Expected `int`, got `str`; given 'x'"),
        (
            "env={kind='trial', inner={kind='coin_world:Coin', sidez=3}}",
            "unknown key env.inner.sidez; did you mean sides? allowed are: sides",
        ),
        (
            "env.kind=coin_world:Purse",
            "env.kind: coin_world:Purse is not a world: derive the class from "
            "trustee.environments.protocol.WorldConfig, or name another; the worlds of "
            "{folder}/coin_world.py are: Coin; given 'coin_world:Purse'",
        ),
        (
            "env.kind=coin_world:Coyn",
            "env.kind: module coin_world has no class Coyn; did you mean coin_world:Coin? the "
            "worlds of {folder}/coin_world.py are: Coin; given 'coin_world:Coyn'",
        ),
        (
            "env.kind=coin_word:Coin",
            "env.kind: there is no module coin_word in {folder}, {here} or on PYTHONPATH; put its "
            "file there, or add its folder to PYTHONPATH; given 'coin_word:Coin'",
        ),
        (
            "env.kind=a:b:c",
            "env.kind: 'a:b:c' does not name a world outside the package; give "
            "package.module:Class; "
            "given 'a:b:c'",
        ),
        (
            "env.kind=broken_world:Coin",
            "env.kind: module broken_world cannot be imported: invalid syntax (broken_world.py, "
            "line 1); correct it; given 'broken_world:Coin'",
        ),
        (
            "env.kind=needy_world:Coin",
            "env.kind: module needy_world cannot be imported: No module named "
            "'no_such_package_at_all'; install it; given 'needy_world:Coin'",
        ),
    ],
)
def test_what_is_refused(folder: Path, change: str, message: str) -> None:
    """What was given, what there is and what to do are told as they are of the package's worlds."""
    assert message.format(folder=folder, here=Path.cwd()) == refusal(folder, change)


def test_record_is_read_where_its_world_is_loaded() -> None:
    """A run's own process reads its record again."""
    record = describe_run(read_config(EXAMPLE))
    assert record == decode_stored(msgspec.json.encode(record), type(record))


def write_run(folder: Path, config: Config) -> Path:
    """Write the record of a run, and forget its world as another process does not know it."""
    run = folder / "run"
    run.mkdir()
    (run / "run.json").write_bytes(msgspec.json.encode(describe_run(config)))
    registry._loaded.clear()
    sys.modules.pop("coin_world", None)
    (folder / "imported").unlink()
    return run


@pytest.mark.parametrize("inside", [False, True])
def test_record_alone_loads_no_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch, inside: bool
) -> None:
    """A stranger's run folder cannot have anything imported, in whatever place it names it."""
    change = ["env={kind='trial', inner={kind='coin_world:Coin'}}"] if inside else []
    run = write_run(folder, read_config(folder / "coin.toml", change))
    monkeypatch.chdir(folder)
    with pytest.raises(UntrustedWorld, match=r"--allow-world coin_world:Coin$"):
        read_metadata(run)
    assert ("coin_world" in sys.modules, (folder / "imported").exists()) == (False, False)
    load_world("coin_world:Coin", folders=(Path(),))
    assert "coin_world:Coin" in msgspec.json.encode(read_metadata(run).config.env).decode()


@pytest.mark.parametrize("command", [["eval"], ["run", "--resume"], ["sft", "--resume"]])
def test_commands_ask_for_leave(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    command: list[str],
) -> None:
    """Each command that reads a record names the option, and goes on once it is given."""
    run = write_run(folder, read_config(folder / "coin.toml"))
    monkeypatch.chdir(folder)
    told = refuse(capfd, *command, run)
    assert f"{run}/run.json: its world is coin_world:Coin, code outside this package" in told
    assert not (folder / "imported").exists()
    for name in ("evaluate", "run", "sft"):
        monkeypatch.setattr(f"trustee.cli.commands.{name}.choose_device", stop)
    record = SftMetadataStub()
    monkeypatch.setattr("trustee.jobs.sft.read_sft_metadata", lambda folder: record)
    with pytest.raises(Reached):
        main([*command, str(run), "--allow-world", "coin_world:Coin"])
    assert (folder / "imported").exists()


class SftMetadataStub:
    """The record of an imitation."""

    file = "none"


class Reached(BaseException):
    """The command has read the record."""


def stop(*arguments: object) -> None:
    """End a command."""
    raise Reached


def test_an_allowed_world_must_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The option is refused as a config would be."""
    monkeypatch.chdir(tmp_path)
    told = refuse(capfd, "eval", tmp_path, "--allow-world", "coin_world:Coin")
    assert told.startswith(f"there is no module coin_world in {tmp_path} or on PYTHONPATH")


def test_worlds_of_the_package_need_no_leave(tmp_path: Path) -> None:
    """A record that names them is read by itself."""
    record = describe_run(tiny_config())
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(record))
    assert record == read_metadata(tmp_path)


SERVED = """
[model]
path = "tiny"
[env]
kind = "mcp"
command = ["touch", "started"]
variables = {A = "b c"}
tasks = "tasks.jsonl"
"""


@pytest.mark.parametrize("inside", ["env", "eval_env"])
def test_record_alone_starts_no_server(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], inside: str
) -> None:
    """A stranger's run folder cannot have a command run; the user's own config can."""
    path = folder / "served.toml"
    path.write_text(SERVED.replace("[env]", f"[{inside}]"))
    config = read_config(path)
    assert ("mcp:A='b c' touch started",) == registry.outside_worlds()
    run = folder / "run"
    run.mkdir()
    (run / "run.json").write_bytes(msgspec.json.encode(describe_run(config)))
    assert read_metadata(run).config == config, "the run's own process reads its record"
    registry._allowed.clear()
    monkeypatch.chdir(folder)
    words = """--allow-world 'mcp:A='"'"'b c'"'"' touch started'"""
    assert words in refuse(capfd, "eval", run)
    assert not (folder / "started").exists()
    registry.allow_world("mcp:touch started")
    with pytest.raises(UntrustedWorld, match="allow-world"):
        read_metadata(run)
    registry.allow_world("mcp:A='b c' touch started")
    assert read_metadata(run).config == config
