"""Configuration: every file loads, every field is read, and errors say what to change."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from trustee.config import Config, apply_changes, decode_stored, is_struct, options_of, read_config
from trustee.errors import InputError

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.toml"))
TINY = ROOT / "configs" / "tiny.toml"
KNOWN = [
    "ftrl",
    "ftrl-paper",
    "ftrl-tiny",
    "qwen3-8b",
    "tiny",
    "toolmaster",
    "toolmaster-tiny",
    "trustee-paper",
]


def refusal(*changes: str) -> str:
    """Give the message with which the tiny config refuses changes, without the file's name."""
    with pytest.raises(InputError) as caught:
        read_config(TINY, changes)
    return str(caught.value).removeprefix(f"{TINY}: ")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_file_loads(path: Path) -> None:
    """Each config of the project is read as it is, and comes back from its own record."""
    config = read_config(path)
    assert config == decode_stored(msgspec.json.encode(config), Config)


def test_configs_are_those_that_users_know() -> None:
    """The files that the tests above read are those that users are told about."""
    assert KNOWN == sorted(path.stem for path in CONFIGS)


def test_changes_are_toml_or_else_text() -> None:
    """A value of a change is read as TOML, and as a string where it is none."""
    config = read_config(
        TINY,
        [
            "run.steps=7",
            "learn.betas=[0.5, 0.75]",
            "model.path=/models/x y",
            "model.thinking=true",
            "env.tools='a.json'",
            "eval_env=same",
            "learn.loss.kind=grpo",
        ],
    )
    assert (7, (0.5, 0.75), "/models/x y", True, "a.json", None, "grpo") == (
        config.run.steps,
        config.learn.betas,
        config.model.path,
        config.model.thinking,
        config.env.tools if hasattr(config.env, "tools") else None,
        config.eval_env,
        config.learn.loss.kind,
    )


def test_changes_of_a_finished_config() -> None:
    """A stored config is changed and checked as a file is."""
    config = read_config(TINY)
    assert 9 == apply_changes(config, ["eval.tasks=9"]).eval.tasks
    assert config == apply_changes(config, [])
    with pytest.raises(
        InputError,
        match=r"^--set: eval\.tasks: Expected `int` >= 1; given -1; none switches it off$",
    ):
        apply_changes(config, ["eval.tasks=-1"])


OFF = (
    *("run.minutes", "run.tokens", "run.adapter", "rollout.parallel", "learn.mlp_tile"),
    *("learn.threads", "learn.loss.dual_clip", "engine.memory_gib", "collect.tasks", "eval.tasks"),
    *("gates.effect_patience", "gates.false_accepts", "gates.false_refuses", "gates.agreement"),
    *("gates.correlation", "gates.unread", "collect.filter.ids"),
)


@pytest.mark.parametrize("key", OFF)
def test_none_switches_a_key_off(tmp_path: Path, key: str) -> None:
    """The word means the same in a change and in a file, and comes back from a stored config."""
    *sections, name = key.split(".")
    changed = read_config(TINY, [f"{key}=none"])
    assert read_config(TINY, [f"{key}='none'"]) == changed == apply_changes(changed, [])
    file = tmp_path / "off.toml"
    file.write_text(f'[model]\npath = "tiny"\n[{".".join(sections)}]\n{name} = "none"\n')
    for value in (changed, read_config(file)):
        at: Any = value
        for part in (*sections, name):
            at = getattr(at, part)
        assert at is None


@pytest.mark.parametrize("key", [key for key in OFF if key != "run.adapter"])
def test_zero_is_not_off(key: str) -> None:
    """Where nothing can be wanted of 0, it is refused with the word that switches off."""
    if key in {"learn.loss.dual_clip"} or (key.startswith("gates.") and "patience" not in key):
        return
    assert refusal(f"{key}=0").endswith("; given 0; none switches it off")


def test_none_is_a_word_where_nothing_is_switched_off() -> None:
    """Isolation that is none is a choice of its own, and a number without an end cannot be none."""
    changed = read_config(TINY, ["sandbox.isolation=none", "model.path=none"])
    assert ("none", "none") == (changed.sandbox.isolation, changed.model.path)
    assert "run.steps: Expected `int`, got `str`; given 'none'" == refusal("run.steps=none")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "rollout.group_sze=4",
            "unknown key rollout.group_sze; did you mean group_size? allowed are: group_size, "
            "groups_per_step, limits, max_off_policy_steps, parallel, temperature, write_ahead",
        ),
        (
            "rollot.group_size=4",
            "unknown key rollot; did you mean rollout? allowed are: build, collect, engine, "
            "env, eval, eval_env, gates, learn, model, rollout, run, sandbox, sft, "
            "simulator, watch, watchdog",
        ),
        (
            "simulator.judge.heat=1",
            "unknown key simulator.judge.heat; allowed are: max_tokens, temperature",
        ),
        (
            "eval_env.dificulty=3",
            "unknown key eval_env.dificulty; did you mean difficulty? allowed are: curriculum, "
            "difficulty",
        ),
    ],
)
def test_unknown_key(change: str, message: str) -> None:
    """An unknown key is refused with its nearest relative and all that is allowed there."""
    assert message == refusal(change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("run.steps=many", "run.steps: Expected `int`, got `str`; given 'many'"),
        ("run.steps=1.5", "run.steps: Expected `int`, got `float`; given 1.5"),
        ("model.path=3", "model.path: Expected `str`, got `int`; given 3"),
        ("learn.shuffle_rewards=1", "learn.shuffle_rewards: Expected `bool`, got `int`; given 1"),
        ("env=3", "env: Expected `object`, got `int`; given 3"),
        (
            "env.curriculum.tools=[1, 'x']",
            "env.curriculum.tools[1]: Expected `int`, got `str`; given 'x'",
        ),
        (
            "env.curriculum.tools=[1]",
            "env.curriculum.tools: Expected `array` of length 2, got 1; given [1]",
        ),
    ],
)
def test_wrong_type(change: str, message: str) -> None:
    """A value of another type is refused with what was expected and what was given."""
    assert message == refusal(change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("run.steps=0", "run.steps: Expected `int` >= 1; given 0"),
        ("run.minutes=-1", "run.minutes: Expected `float` > 0.0; given -1; none switches it off"),
        ("run.keep_checkpoints=0", "run.keep_checkpoints: Expected `int` >= 1; given 0"),
        ("rollout.group_size=1", "rollout.group_size: Expected `int` >= 2; given 1"),
        ("rollout.groups_per_step=0", "rollout.groups_per_step: Expected `int` >= 1; given 0"),
        (
            "rollout.max_off_policy_steps=-1",
            "rollout.max_off_policy_steps: Expected `int` >= 0; given -1",
        ),
        ("rollout.temperature=0", "rollout.temperature: Expected `float` > 0.0; given 0"),
        ("rollout.limits.turns=0", "rollout.limits.turns: Expected `int` >= 1; given 0"),
        ("rollout.limits.tokens=0", "rollout.limits.tokens: Expected `int` >= 1; given 0"),
        ("rollout.limits.seconds=0", "rollout.limits.seconds: Expected `float` > 0.0; given 0"),
        ("simulator.tries=0", "simulator.tries: Expected `int` >= 1; given 0"),
        (
            "simulator.user.max_tokens=0",
            "simulator.user.max_tokens: Expected `int` >= 1; given 0",
        ),
        ("learn.learning_rate=0", "learn.learning_rate: Expected `float` > 0.0; given 0"),
        ("learn.decay=1.5", "learn.decay: Expected `float` <= 1.0; given 1.5"),
        ("eval.temperature=-0.1", "eval.temperature: Expected `float` >= 0.0; given -0.1"),
        ("env.curriculum.start=101", "env.curriculum.start: Expected `int` <= 100; given 101"),
    ],
)
def test_out_of_range(change: str, message: str) -> None:
    """A value out of its bounds is refused with the bound."""
    assert message == refusal(change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "engine.device=tpu",
            "engine.device: Invalid enum value 'tpu'; given 'tpu'; allowed are: cpu, cuda",
        ),
        (
            "learn.rank=12",
            "learn.rank: Invalid enum value 12; given 12; allowed are: 8, 16, 32, 64, 128",
        ),
        (
            "env.kind=moon",
            "env.kind: Invalid value 'moon'; given 'moon'; allowed are: simulated, executable, "
            "trial, anchored, microworld, package.module:Class",
        ),
        (
            "eval_env=other",
            "eval_env: Expected `object`, got `str`; given 'other'; allowed are: same",
        ),
    ],
)
def test_unknown_word(change: str, message: str) -> None:
    """A word that is none of the allowed ones is refused with all of them."""
    assert message == refusal(change)


@pytest.mark.parametrize("change", ["run.steps", "", "=4", " =4"])
def test_change_without_key_or_value(change: str) -> None:
    """A change must have both."""
    assert f"--set {change!r}: give key=value, such as rollout.group_size=8" == refusal(change)


def test_change_below_a_value() -> None:
    """A value has no keys."""
    expected = "--set 'run.steps.deep=4': steps is a value, not a section"
    assert expected == refusal("run.steps.deep=4")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            ["engine.context=96"],
            "rollout.limits.tokens (96) must be below engine.context (96)",
        ),
        (["engine.versions=1"], "engine.versions must be at least 2: one plays, one is new"),
        (
            ["learn.loss.dual_clip=1.1"],
            "learn.loss: dual_clip must be at least 1 + clip_high = 1.28, got 1.1; raise dual_clip "
            "or lower clip_high; given {'dual_clip': 1.1}",
        ),
        (
            ["learn.loss.kind=dr_grpo"],
            "learn.loss: kind dr_grpo needs completion_limit, got none; set it to 1 or more; given "
            "{'kind': 'dr_grpo'}",
        ),
    ],
)
def test_contradiction(changes: list[str], message: str) -> None:
    """Values that are good alone but not together are refused by name."""
    assert message == refusal(*changes)


def test_file_that_is_no_toml(tmp_path: Path) -> None:
    """A broken file is named with the place of the fault."""
    path = tmp_path / "x.toml"
    path.write_text("[model]\npath = = 3\n")
    with pytest.raises(InputError) as caught:
        read_config(path)
    assert f"{path}: not TOML: Invalid value (at line 2, column 8)" == str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Object missing required field `model`"),
        ("[model]\n", "model: Object missing required field `path`; given {}"),
    ],
)
def test_missing_key(tmp_path: Path, text: str, message: str) -> None:
    """What must be given and is not, is named."""
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_config(path)
    assert f"{path}: {message}" == str(caught.value)


def test_unknown_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is not there is answered with those that are."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.toml").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        read_config(Path("configs/yours.toml"))
    assert (
        "configs/yours.toml: cannot be read ([Errno 2] No such file or directory: "
        "'configs/yours.toml'); configs are: configs/mine.toml"
    ) == str(caught.value)


def sections(*kinds: Any, path: str = "config") -> Iterator[tuple[str, str]]:
    """Yield each field's section and name, of the innermost of kinds that hold each other."""
    for field in msgspec.structs.fields(kinds[-1]):
        yield path, field.name
        for option in options_of(field.type):
            # A world can hold any other; one outside the package reads its fields itself.
            own = is_struct(option) and option.__module__.startswith("trustee.")
            if own and option not in kinds:
                yield from sections(*kinds, option, path=f"{path}.{field.name}")


def names_read() -> set[str]:
    """Give the names of all attributes that the package's code reads."""
    return {
        node.attr
        for path in (ROOT / "trustee").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


def test_every_field_is_read() -> None:
    """A key that nothing reads would be a promise that nothing keeps."""
    read = names_read()
    assert [] == [f"{path}.{name}" for path, name in sections(Config) if name not in read]


def test_fields_are_many() -> None:
    """The walk above does see the nested sections."""
    paths = {path for path, _ in sections(Config)}
    assert {"config.rollout.limits", "config.env.curriculum", "config.simulator.judge"} < paths


def test_empty_bounds_of_an_aspect_are_refused() -> None:
    """A curriculum whose lower bound is above the upper names the key and both numbers."""
    with pytest.raises(InputError, match=r"got \[3, 1\] \(env\.curriculum\.calls\)"):
        read_config(ROOT / "configs" / "tiny.toml", ["env.curriculum.calls=[3, 1]"])
