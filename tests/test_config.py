"""Configuration: every file loads, every field is read, and errors say what to change."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from golden_errors import ErrorCheck
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
    "small-cpu",
    "tiny",
    "toolmaster",
    "toolmaster-tiny",
    "trustee-paper",
    "trustee-paper-lora",
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


def test_paper_files_differ_in_the_rate_alone() -> None:
    """The file for a LoRA has another learning rate than the authors', and nothing else."""
    paper = read_config(ROOT / "configs" / "trustee-paper.toml")
    lora = read_config(ROOT / "configs" / "trustee-paper-lora.toml")
    assert (paper.learn.learning_rate, lora.learn.learning_rate) == (1e-6, 2e-5)
    assert apply_changes(lora, ["learn.learning_rate=1e-6"]) == paper


def test_paper_file_has_the_published_optimiser() -> None:
    """What the authors' code has for the loss, AdamW and the order of steps stands in the file."""
    config = read_config(ROOT / "configs" / "trustee-paper.toml")
    loss, learn, rollout = config.learn.loss, config.learn, config.rollout
    assert (loss.kind, loss.clip_low, loss.clip_high) == ("grpo", 0.2, 0.2)
    assert (loss.dual_clip, loss.kl_coef) == (3.0, 0.001)
    assert (learn.betas, learn.weight_decay, learn.optimizer) == ((0.9, 0.999), 0.01, "adamw")
    assert (learn.warmup, learn.decay, learn.max_norm, learn.scale) == (0, 0, 1.0, "group")
    assert (rollout.groups_per_step, rollout.group_size, config.run.steps) == (16, 8, 200)
    assert (rollout.max_off_policy_steps, rollout.write_ahead, rollout.temperature) == (0, 0, 1.0)
    assert rollout.limits.turns == 6
    assert config.watch.clip_ratio == 1.0


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
    ("change", "named"),
    [
        ("rollout.group_sze=4", ["mean group_size?", "groups_per_step", "write_ahead"]),
        ("rollot.group_size=4", ["mean rollout?", "build", "watchdog"]),
        ("simulator.judge.heat=1", ["max_tokens", "temperature"]),
        ("eval_env.dificulty=3", ["mean difficulty?", "curriculum"]),
    ],
    ids=["value", "section", "role", "environment"],
)
def test_unknown_key(check_error: ErrorCheck, change: str, named: list[str]) -> None:
    """An unknown key is refused with its nearest relative and all that is allowed there."""
    key = "rollot" if change.startswith("rollot.") else change.partition("=")[0]
    check_error(refusal(change), f"unknown key {key};", *named)


@pytest.mark.parametrize(
    ("change", "key", "expected", "given"),
    [
        ("run.steps=many", "run.steps", "`int`", "'many'"),
        ("run.steps=1.5", "run.steps", "`int`", "1.5"),
        ("model.path=3", "model.path", "`str`", "3"),
        ("learn.shuffle_rewards=1", "learn.shuffle_rewards", "`bool`", "1"),
        ("env=3", "env", "`object`", "3"),
        ("env.curriculum.tools=[1, 'x']", "env.curriculum.tools[1]", "`int`", "'x'"),
        ("env.curriculum.tools=[1]", "env.curriculum.tools", "`array` of length 2", "[1]"),
    ],
)
def test_wrong_type(
    check_error: ErrorCheck, change: str, key: str, expected: str, given: str
) -> None:
    """A value of another type is refused with what was expected and what was given."""
    check_error(refusal(change), f"{key}: Expected {expected}", f"given {given}")


@pytest.mark.parametrize(
    ("change", "bound"),
    [
        ("run.steps=0", "`int` >= 1"),
        ("run.minutes=-1", "`float` > 0.0"),
        ("run.keep_checkpoints=0", "`int` >= 1"),
        ("rollout.group_size=1", "`int` >= 2"),
        ("rollout.groups_per_step=0", "`int` >= 1"),
        ("rollout.max_off_policy_steps=-1", "`int` >= 0"),
        ("rollout.temperature=0", "`float` > 0.0"),
        ("rollout.limits.turns=0", "`int` >= 1"),
        ("rollout.limits.tokens=0", "`int` >= 1"),
        ("rollout.limits.seconds=0", "`float` > 0.0"),
        ("simulator.tries=0", "`int` >= 1"),
        ("simulator.user.max_tokens=0", "`int` >= 1"),
        ("learn.learning_rate=0", "`float` > 0.0"),
        ("learn.decay=1.5", "`float` <= 1.0"),
        ("eval.temperature=-0.1", "`float` >= 0.0"),
        ("env.curriculum.start=101", "`int` <= 100"),
    ],
)
def test_out_of_range(check_error: ErrorCheck, change: str, bound: str) -> None:
    """A value out of its bounds is refused with the bound."""
    key, _, value = change.partition("=")
    check_error(refusal(change), f"{key}: Expected {bound};", f"given {value}")


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ("engine.device=tpu", "cpu, cuda"),
        ("learn.rank=12", "8, 16, 32, 64, 128"),
        (
            "env.kind=moon",
            "simulated, executable, trial, anchored, microworld, mcp, openenv, verifiers",
        ),
        ("eval_env=other", "same"),
    ],
)
def test_unknown_word(check_error: ErrorCheck, change: str, allowed: str) -> None:
    """A word that is none of the allowed ones is refused with all of them."""
    key, _, value = change.partition("=")
    given = value if value.isdigit() else repr(value)
    check_error(refusal(change), f"{key}: ", f"given {given};", f"allowed are: {allowed}")


@pytest.mark.parametrize("change", ["run.steps", "", "=4", " =4"])
def test_change_without_key_or_value(check_error: ErrorCheck, change: str) -> None:
    """A change must have both."""
    check_error(refusal(change), f"--set {change!r}", "key=value")


def test_change_below_a_value(check_error: ErrorCheck) -> None:
    """A value has no keys."""
    check_error(refusal("run.steps.deep=4"), "run.steps.deep=4", "steps is a value")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("engine.context=96", ["rollout.limits.tokens (96)", "engine.context (96)"]),
        ("engine.versions=1", ["engine.versions", "at least 2"]),
        ("learn.loss.dual_clip=1.1", ["learn.loss", "dual_clip", "clip_high", "1.28", "1.1"]),
        ("learn.loss.kind=dr_grpo", ["learn.loss", "dr_grpo", "completion_limit"]),
        ("rollout.limits.response=95", ["rollout.limits", "tokens (96)", "response (95)"]),
        ("rollout.limits.response=9999", ["rollout.limits.response (9999)", "engine.context"]),
        (
            "simulator.judge.max_tokens=640",
            ["simulator.judge.max_tokens (640)", "engine.context (640)"],
        ),
        ("learn.updates=9999", ["learn.updates (9999)", "rollout.groups_per_step x"]),
        ("learn.keep_flat=true", ["learn.keep_flat", "learn.loss.kl_coef"]),
    ],
)
def test_contradiction(check_error: ErrorCheck, change: str, named: list[str]) -> None:
    """Values that are good alone but not together are refused by name."""
    check_error(refusal(change), *named)


def test_file_that_is_no_toml(check_error: ErrorCheck, tmp_path: Path) -> None:
    """A broken file is named with the place of the fault."""
    path = tmp_path / "x.toml"
    path.write_text("[model]\npath = = 3\n")
    with pytest.raises(InputError) as caught:
        read_config(path)
    check_error(caught, path, "line 2, column 8")


@pytest.mark.parametrize(
    ("text", "missing"), [("", "model"), ("[model]\n", "path")], ids=["section", "key"]
)
def test_missing_key(check_error: ErrorCheck, tmp_path: Path, text: str, missing: str) -> None:
    """What must be given and is not, is named."""
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_config(path)
    check_error(caught, path, f"`{missing}`")


def test_file_of_another_editor(tmp_path: Path) -> None:
    """The mark of UTF-8 and the line ends of Windows change nothing."""
    path = tmp_path / "mine.toml"
    path.write_bytes(b'\xef\xbb\xbf[model]\r\npath = "tiny"\r\n')
    assert "tiny" == read_config(path).model.path


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff\xfe[\0m\0", "is not UTF-8"),
        (b"a = " + b"[" * 5000, "not TOML"),
        (b"", "`model`"),
    ],
)
def test_file_that_cannot_be_read(tmp_path: Path, data: bytes, reason: str) -> None:
    """Whatever the file holds, the error names it and says what is wrong."""
    path = tmp_path / "mine.toml"
    path.write_bytes(data)
    with pytest.raises(InputError, match=reason) as caught:
        read_config(path)
    assert str(path) in str(caught.value)


def test_unknown_file(
    check_error: ErrorCheck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is not there is answered with those that are."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.toml").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        read_config(Path("configs/yours.toml"))
    check_error(caught, "configs/yours.toml", "configs/mine.toml")


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


PATHS: dict[str, Callable[[Config], str | None]] = {
    "model.path": lambda config: config.model.path,
    "run.folder": lambda config: config.run.folder,
    "run.adapter": lambda config: config.run.adapter,
}


@pytest.mark.parametrize("key", PATHS)
def test_paths_are_expanded(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder and variables are what a shell would make of them, in every key of a path."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MODELS", "/data/models")
    for given, expected in (
        ("~/a", f"{tmp_path}/a"),
        ("$MODELS/a", "/data/models/a"),
        ("${MODELS}/a b", "/data/models/a b"),
        ("owner/a-1.5", "owner/a-1.5"),
        ("a~b/~", "a~b/~"),
    ):
        config = read_config(TINY, [f"{key}={given}"])
        assert expected == PATHS[key](config)
        assert config == apply_changes(config, [])


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ("env={kind='simulated', tools='$NOWHERE/a'}", "env.tools"),
        ("env={kind='executable', path='${NOWHERE}/a'}", "env.path"),
        ("env={kind='executable', path='a', states='$NOWHERE'}", "env.states"),
        ("eval_env={kind='executable', path='$NOWHERE'}", "eval_env.path"),
        ("env={kind='trial', inner={kind='simulated', tools='$NOWHERE'}}", "env.inner.tools"),
        ("model.path=$NOWHERE", "model.path"),
    ],
)
def test_variable_that_is_not_set(change: str, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key and the variable are named, also in a world inside another."""
    monkeypatch.delenv("NOWHERE", raising=False)
    with pytest.raises(InputError) as caught:
        read_config(TINY, [change])
    assert f": {key}: the environment variable $" in str(caught.value)
    assert "NOWHERE" in str(caught.value)


def test_path_that_exists_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may be called anything."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "$odd").mkdir()
    assert "$odd" == read_config(TINY, ["model.path=$odd"]).model.path
