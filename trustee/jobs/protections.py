"""Settings that protect, and what a run folder may say of them.

A run folder may come from a stranger, so no record weakens a protection: only the call at hand
does, with `--set`. A recorded value that is stricter than the program's own, or equal to it,
counts. One more key of this kind needs a line here; the tests know every key of these sections.

The rest follows the same rule elsewhere: `sandbox.isolation = "none"` (`read_metadata`), code of a
world or a script (`config.decode_stored`, `check_script`). The address of a teacher and its key are
read from the command line and the environment alone; no record has them read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from trustee.checks.alarms import WatchConfig
from trustee.checks.config import GateConfig
from trustee.config import Config, apply_changes
from trustee.engine.watchdog import WatchdogConfig
from trustee.errors import InputError
from trustee.sandbox.calls import SandboxConfig
from trustee.types import Record

Weaker = Literal["more", "less"]

DEFAULTS: Mapping[str, Record] = {
    "sandbox": SandboxConfig(),
    "gates": GateConfig(),
    "watch": WatchConfig(),
    "watchdog": WatchdogConfig(),
}
"""The program's own values, which no record goes beyond."""

WEAKER: Mapping[str, Weaker] = {
    "sandbox.seconds": "more",
    "sandbox.cpu_seconds": "more",
    "sandbox.memory_mib": "more",
    "sandbox.total_mib": "more",
    "sandbox.output_bytes": "more",
    "sandbox.workers": "more",
    "gates.effect_patience": "more",
    "gates.false_accepts": "more",
    "gates.false_refuses": "more",
    "gates.agreement": "less",
    "gates.correlation": "less",
    "gates.unread": "more",
    "gates.forgetting": "more",
    "watch.clip_ratio": "more",
    "watch.patience": "more",
    "watch.mismatch": "more",
    "watch.mismatch_kl": "more",
    "watchdog.request_seconds": "more",
    "watchdog.call_seconds": "more",
    "watchdog.step_seconds": "more",
    "watchdog.loop_seconds": "more",
}
"""In which direction a value protects less; `none`, where a key takes it, protects least."""


def protect(config: Config, changes: Sequence[str], *, source: Path) -> Config:
    """Return a recorded config with the changes of this call.

    Raises:
        InputError: if the record weakens a protection that this call does not name; the message has
            the words that the call needs.
    """
    named = names_of(changes)
    weakened = {key: value for key, value in find_weakened(config).items() if key not in named}
    if weakened:
        shown = ", ".join(
            f"{key} = {show_value(value)} (the program's own is {show_value(own_value(key))})"
            for key, value in weakened.items()
        )
        words = " ".join(f"--set {key}={show_value(value)}" for key, value in weakened.items())
        raise InputError(
            f"{source} weakens what protects: {shown}; a run folder may come from a stranger, so "
            f"only the call itself can do that: add {words} if you want it, or other values"
        )
    return apply_changes(config, changes)


def names_of(changes: Sequence[str]) -> set[str]:
    """Return the keys that changes of a config name."""
    return {change.partition("=")[0].strip() for change in changes}


def only_protections(changes: Sequence[str]) -> None:
    """Check that a call that resumes a run changes protections alone.

    Raises:
        InputError: naming the first other key.
    """
    foreign = sorted(names_of(changes) - WEAKER.keys() - {"sandbox.isolation"})
    if foreign:
        raise InputError(
            f"--set {foreign[0]}: --resume continues a run with its own config; only sandbox, "
            "gates, watch and watchdog can be changed, and with --steps and --minutes the length "
            "of trustee run"
        )


def find_weakened(config: Config) -> dict[str, Any]:
    """Return the protections of a config that are weaker than the program's own, by key."""
    return {
        key: value
        for key, value in _values(config)
        if is_weaker(value, own_value(key), weaker=WEAKER[key])
    }


def show_weakened(config: Config) -> str:
    """Return the options with which a run with this config can be resumed, or nothing."""
    found = find_weakened(config)
    return "".join(f" --set {key}={show_value(value)}" for key, value in found.items())


def _values(config: Config) -> Iterator[tuple[str, Any]]:
    for key in WEAKER:
        section, _, name = key.partition(".")
        yield key, getattr(getattr(config, section), name)


def own_value(key: str) -> Any:
    """Return the program's own value of a protection."""
    section, _, name = key.partition(".")
    return getattr(DEFAULTS[section], name)


def is_weaker(value: Any, own: Any, *, weaker: Weaker) -> bool:
    """Whether a value protects less than another one; None protects least."""
    if value is None or own is None:
        return own is not None
    return bool(value > own if weaker == "more" else value < own)


def show_value(value: Any) -> str:
    """Write a value as `--set` takes it."""
    return "none" if value is None else msgspec.json.encode(value).decode()
