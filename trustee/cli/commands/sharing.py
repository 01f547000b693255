"""`--shard K/N`, which several commands take: a part of a job, to be joined by `trustee merge`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trustee.cli.commands.options import show_job
from trustee.errors import InputError

if TYPE_CHECKING:
    from trustee.config import Config
    from trustee.runs.shards import Share


def add_share(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the option that does a part of a job, which `trustee merge` joins with the others."""
    parser.add_argument(
        "--shard",
        metavar="K/N",
        help=f"do part K of N of the {what}; trustee merge joins the parts",
    )


def find_share(options: argparse.Namespace, count: int) -> Share | None:
    """Return the share that a call names; None for the whole job.

    Raises:
        InputError: if it is not a share, or there are more shares than there is to share out.
    """
    from trustee.runs.shards import check_share, read_share

    if options.shard is None:
        return None
    share = read_share(options.shard)
    check_share(share, count)
    return share


def play_part(
    options: argparse.Namespace, config: Config, run: Path, *, adapters: Sequence[Path]
) -> None:
    """Play a share of the held-out tasks into a folder of its own."""
    from trustee.jobs.eval_shard import play_shard, shard_text
    from trustee.runs.shards import read_share

    share = read_share(options.shard)
    show_job(
        options,
        options.out,
        lambda emit: play_shard(
            config,
            run,
            options.out,
            share=share,
            adapters=adapters,
            repeats=options.repeats or 1,
            emit=emit,
        ),
        text=shard_text,
    )


def check_shard(options: argparse.Namespace) -> None:
    """Refuse to share out what is not a comparison on held-out tasks.

    Raises:
        InputError: naming the options that do not go together.
    """
    if not options.shard:
        return
    if options.suite is not None or options.retention or options.where:
        raise InputError(
            "--shard shares out the held-out tasks of a run; leave out --suite, --retention and "
            "--where, or --shard"
        )
    if options.out is None:
        raise InputError("--shard needs --out DIR, the folder of this shard alone")
