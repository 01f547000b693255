"""What the results of a job that is shared out depend on, as each of its shards records it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from trustee import __version__
from trustee.config import Config
from trustee.environments.prompts import hash_prompts
from trustee.jobs.held_out import evaluation_world
from trustee.runs.adapters import CONFIG, WEIGHTS, fingerprint_base
from trustee.runs.inputs import hash_input, pin_inputs
from trustee.runs.shards import JobName, Origin, ShardRecord, Share, check_share

ALWAYS = ("model", "engine", "simulator", "sandbox")
SECTIONS: Mapping[JobName, tuple[str, ...]] = {
    "build": (*ALWAYS, "build"),
    "collect": (*ALWAYS, "rollout", "env", "collect"),
    "eval": (*ALWAYS, "rollout", "env", "eval_env", "eval"),
}
"""Sections of a config that decide what a job makes."""
IDLE: Mapping[str, frozenset[str]] = {
    "model": frozenset({"path"}),
    "engine": frozenset(
        {
            "kv_bytes",
            "max_sequences",
            "batched_tokens",
            "versions",
            "prefix_caching",
            "eager",
            "threads",
            "host_embedding",
            "memory_gib",
            "start_seconds",
        }
    ),
    "sandbox": frozenset({"total_mib", "workers"}),
    "build": frozenset({"parallel"}),
    "collect": frozenset({"tasks"}),
    "eval": frozenset({"tasks", "parallel", "every", "patience"}),
    "rollout": frozenset(
        {"group_size", "groups_per_step", "max_off_policy_steps", "write_ahead", "parallel"}
    ),
}
"""Keys of these sections that decide only how fast it goes, or that are recorded otherwise; shards
on unlike machines may differ in them."""


def describe_shard(
    config: Config,
    job: JobName,
    *,
    share: Share | None,
    count: int,
    model: Path,
    adapters: Mapping[str, Path] | None = None,
    more: Mapping[str, Any] | None = None,
) -> ShardRecord | None:
    """Return the record of a shard; None for a job that is not shared out.

    Args:
        config: settings of the job.
        job: which job it is.
        share: the share of this shard; None is the whole job.
        count: number of places or tasks of the whole job.
        model: folder of the base.
        adapters: PEFT folders of the adapters that play, by label.
        more: what else the results depend on, by name.

    Raises:
        InputError: if there are more shards than places or tasks, or a file cannot be read.
    """
    if share is None:
        return None
    check_share(share, count)
    table = msgspec.to_builtins(pin_inputs(config), enc_hook=str)
    settings = {
        section: {
            key: value for key, value in kept.items() if key not in IDLE.get(section, frozenset())
        }
        for section in SECTIONS[job]
        if (kept := table[section]) is not None
    }
    sets = (config.build.prompts,) if job == "build" else list_prompt_sets(config)
    prompts = {name: hash_prompts(name) for name in sets}
    return ShardRecord(
        job=job,
        share=share,
        count=count,
        trustee=__version__,
        base=Origin(path=str(model.absolute()), sha256=hash_base(model)),
        adapters={
            label: Origin(path=str(folder.absolute()), sha256=hash_adapter(folder))
            for label, folder in (adapters or {}).items()
        },
        settings={**settings, "prompts": prompts, **(more or {})},
    )


def list_prompt_sets(config: Config) -> list[str]:
    """Return the prompt sets of a config's worlds."""
    return sorted({*config.env.prompt_sets(), *evaluation_world(config).prompt_sets()})


def hash_base(model: Path) -> str:
    """Return the fingerprint of a base; empty where the engine reads no weights."""
    return fingerprint_base(model) if any(model.glob("*.safetensors")) else ""


def hash_adapter(folder: Path) -> str:
    """Return the hash of an adapter's weights and settings, whatever lies beside them.

    Raises:
        InputError: if one of its files cannot be read.
    """
    files = (folder / CONFIG, folder / WEIGHTS)
    return hashlib.sha256("".join(map(hash_input, files)).encode()).hexdigest()
