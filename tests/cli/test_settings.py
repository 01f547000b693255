"""The list of a config's keys: complete, true and readable, for all of it and for a part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from trustee.cli.settings import Setting, list_sections, list_settings, settings_text, show_type
from trustee.config import Config, ModelConfig, read_config
from trustee.environments.anchored import Anchored
from trustee.environments.executable.environment import Executable
from trustee.environments.mcp.environment import Mcp
from trustee.environments.micro.environment import Microworld
from trustee.environments.openenv.environment import OpenEnv
from trustee.environments.protocol import World, WorldConfig
from trustee.environments.trial.environment import Trial
from trustee.errors import InputError
from trustee.types import Share

TINY = Path(__file__).parents[2] / "configs" / "tiny.toml"


def find(key: str, *, kind: str = "") -> Setting:
    """Find one setting."""
    (setting,) = (one for one in list_settings() if (one.key, one.kind) == (key, kind))
    return setting


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Give the keys of nested tables with their values."""
    if not isinstance(value, dict):
        return {path: value}
    return {
        key: leaf
        for name, inner in value.items()
        for key, leaf in leaves(inner, f"{path}.{name}".removeprefix(".")).items()
    }


def test_every_key_has_a_meaning_and_says_what_it_may_be() -> None:
    """A field without a docstring would be listed as a bare name."""
    settings = list_settings()
    assert [] == [setting.key for setting in settings if not setting.meaning]
    assert [] == [setting.key for setting in settings if not setting.allowed]
    assert [] == [setting.key for setting in settings if "`" in setting.allowed]


def test_keys_and_defaults_are_those_of_a_config() -> None:
    """What is listed without a kind, or for the default kinds, is the default config."""
    config = leaves(msgspec.to_builtins(Config(model=ModelConfig(path="tiny"))))
    listed = {
        setting.key: setting.default
        for setting in list_settings()
        if setting.kind in ("", "simulated", "vllm")
    }
    assert listed.pop("model.path") is None
    assert config.pop("model.path") == "tiny"
    assert config == listed


@pytest.mark.parametrize(
    ("kind", "world"),
    [
        ("executable", Executable(path="")),
        ("trial", Trial()),
        ("anchored", Anchored(hard=Executable(path=""))),
        ("microworld", Microworld()),
        ("mcp", Mcp(tasks="", command=("server",))),
        ("openenv", OpenEnv(url="http://127.0.0.1:8000")),
    ],
)
def test_every_kind_has_its_own_keys(kind: str, world: WorldConfig) -> None:
    """A kind's keys are the fields of its struct, with the struct's defaults."""
    own = {s.key.split(".")[1]: s for s in list_settings("env") if s.kind == kind}
    assert set(type(world).__struct_fields__) == set(own)
    for name, setting in own.items():
        # No server is where a server has to be, so one command is given here.
        if name == "command":
            continue
        if not setting.required and "." not in setting.key.removeprefix("env."):
            assert msgspec.to_builtins(getattr(world, name)) == setting.default


def test_what_is_listed() -> None:
    """Bounds, words, and whether a key may be switched off."""
    assert Setting(
        key="rollout.group_size",
        default=8,
        allowed="int >= 2",
        meaning="Episodes per task; at least two, because rewards are compared within a group.",
    ) == find("rollout.group_size")
    assert find("model.path").required
    assert "cpu | cuda" == find("engine.device").allowed
    assert "8 | 16 | 32 | 64 | 128" == find("learn.rank").allowed
    assert "int >= 1 | none" == find("learn.mlp_tile").allowed
    assert "environment | none" == find("eval_env").allowed
    kinds = "simulated | executable | trial | anchored | microworld | mcp | openenv | verifiers"
    assert kinds == find("env.kind").allowed
    assert "executable: Settings of the world of" in find("env.kind").meaning
    assert ["engine.script"] == [s.key for s in list_settings("engine") if s.kind == "scripted"]


def test_listed_defaults_are_accepted(tmp_path: Path) -> None:
    """Each default, written as it is shown, is a value of its key."""
    changes = [
        line.partition("  [")[0].replace(" = ", "=", 1)
        for setting in list_settings()
        if setting.kind in ("", "vllm") and not setting.required and setting.key != "eval_env"
        for line in settings_text((setting,)).splitlines()[:1]
    ]
    assert len(changes) > 100
    file = tmp_path / "bare.toml"
    file.write_text('[model]\npath = "tiny"\n')
    assert Config(model=ModelConfig(path="tiny")) == read_config(file, changes)


def test_parts() -> None:
    """A section, one inside it, or one key; anything else is refused with what is near."""
    assert {"rollout"} == {s.key.split(".")[0] for s in list_settings("rollout")}
    limits = [s.key for s in list_settings("rollout") if s.key.startswith("rollout.limits.")]
    assert limits == [s.key for s in list_settings("rollout.limits")]
    assert ["run.steps"] == [s.key for s in list_settings("run.steps")]
    assert set(list_sections()) == {s.key.split(".")[0] for s in list_settings()}
    with pytest.raises(InputError) as caught:
        list_settings("rolout")
    assert str(caught.value).startswith(
        "no section or key rolout; did you mean rollout? sections are: model, run, engine, "
    )


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (int, "int"),
        (bool, "true | false"),
        (Share, "float >= 0 and <= 1"),
        (Annotated[int, Meta(gt=3)] | None, "int > 3 | none"),
        (Literal["a", "b"] | None, "a | b | none"),
        (tuple[int, int], "[int, int]"),
        (tuple[str, ...], "list of str"),
        (dict[str, float], "table of float"),
        (Microworld, "microworld"),
        (ModelConfig, "table"),
        (World | None, "environment | none"),
    ],
)
def test_types_in_words(kind: Any, text: str) -> None:
    """Types are written as a reader of TOML knows them."""
    assert text == show_type(kind)


def test_text() -> None:
    """A key on its line as `--set` takes it, its meaning below, and a blank line per section."""
    chosen = (find("run.steps"), find("run.minutes"), find("env.states", kind="executable"))
    assert (
        "run.steps = 200  [int >= 1]\n"
        "    Number of optimiser steps.\n"
        "run.minutes = none  [float > 0 | none]\n"
        "    Minutes of training after which the run ends; none: no limit.\n"
        "\n"
        "env.states = none  [str | none]  (kind executable)\n"
        "    For `turn`: JSON lines of states as `trustee collect` writes them, or published rows; "
        "none uses\n"
        "    the rows of `path`."
    ) == settings_text(chosen)
    assert "env.inner = simulated  [environment]" in settings_text(
        (find("env.inner", kind="trial"),)
    )
    assert "model.path = required  [str]" in settings_text((find("model.path"),))
