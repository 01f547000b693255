"""No run folder weakens a protection: every key of the sections that protect, one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from golden_errors import ErrorCheck
from scripted_program import tiny_config
from trustee.config import Config
from trustee.errors import InputError
from trustee.jobs.protections import DEFAULTS, WEAKER, own_value, show_value, show_weakened
from trustee.jobs.run_metadata import describe_run, read_metadata, read_trusted

ELSEWHERE = {"sandbox.isolation"}
"""Protects too; a recorded `none` is read as `auto`, whatever the call says."""
HARMLESS = {"watch.keep_adapters"}
"""Protects nothing: disk space against old adapters."""


def write_record(folder: Path, config: Config) -> None:
    """Write the record of a run, as it comes from a stranger."""
    (folder / "run.json").write_bytes(msgspec.json.encode(describe_run(config)))


def read_value(config: Config, key: str) -> Any:
    """Return the value at a key."""
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


def test_every_key_is_known() -> None:
    """A new key of a section that protects must be sorted in here, or the test fails."""
    keys = {
        f"{section}.{field.name}"
        for section, record in DEFAULTS.items()
        for field in msgspec.structs.fields(record)
    }
    assert keys == WEAKER.keys() | ELSEWHERE | HARMLESS


def weaker_values(key: str) -> list[str]:
    """Return values that protect less than the program's own; none if that is off."""
    own = own_value(key)
    if own is None:
        return []
    values = [show_value(own * 2 if WEAKER[key] == "more" else own / 2)]
    optional = key.startswith("gates.")
    return [*values, "none"] if optional else values


CASES = [(key, value) for key in sorted(WEAKER) for value in weaker_values(key)]


@pytest.mark.parametrize(("key", "value"), CASES)
def test_record_weakens_nothing(tmp_path: Path, key: str, value: str) -> None:
    """Each key is refused from a record, by name and with the words that allow it."""
    config = tiny_config(f"{key}={value}")
    write_record(tmp_path, config)
    with pytest.raises(InputError) as caught:
        read_trusted(tmp_path)
    shown = f"--set {key}={show_value(read_value(config, key))}"
    assert f"add {shown} if" in str(caught.value)
    assert f" {shown}" == show_weakened(config)
    assert config == read_trusted(tmp_path, [f"{key}={value}"])
    own = own_value(key)
    assert own == read_value(read_trusted(tmp_path, [f"{key}={own}"]), key)


@pytest.mark.parametrize("key", sorted(WEAKER))
def test_record_may_be_stricter(tmp_path: Path, key: str) -> None:
    """What protects more than the program's own value is taken."""
    own = own_value(key) or 1.0
    stricter = (1 + own) / 2 if WEAKER[key] == "less" else own / 2
    if isinstance(own, int):
        stricter = max(1, int(stricter))
    config = tiny_config(f"{key}={stricter}")
    write_record(tmp_path, config)
    assert config == read_trusted(tmp_path)


def test_several_are_named_at_once(tmp_path: Path, check_error: ErrorCheck) -> None:
    """One message has all the words that the next call needs."""
    write_record(tmp_path, tiny_config("sandbox.seconds=60", "gates.unread=none"))
    with pytest.raises(InputError) as caught:
        read_trusted(tmp_path, ["watch.patience=2"])
    check_error(
        caught, tmp_path / "run.json", "--set sandbox.seconds=60.0", "--set gates.unread=none"
    )


def test_reading_for_comparison_refuses_nothing(tmp_path: Path) -> None:
    """A record that nobody acts on may say what it likes."""
    config = tiny_config("sandbox.seconds=60")
    write_record(tmp_path, config)
    assert config == read_metadata(tmp_path).config


def test_isolation_is_never_taken_from_a_record(tmp_path: Path) -> None:
    """A recorded `none` is read as `auto`; the call at hand may say otherwise."""
    write_record(tmp_path, tiny_config("sandbox.isolation=none"))
    assert "auto" == read_trusted(tmp_path).sandbox.isolation
    assert "none" == read_trusted(tmp_path, ["sandbox.isolation=none"]).sandbox.isolation
