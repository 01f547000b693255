"""`trustee collect`: play episodes and store them as states or a teacher's demonstrations."""

from __future__ import annotations

import argparse
from pathlib import Path

from trustee.cli.commands.fitting import fill_engine
from trustee.cli.commands.options import (
    DONE,
    Commands,
    add_shared,
    allow_unsafe,
    choose_device,
    find_config,
    show_job,
    warn_unconfined,
)
from trustee.cli.commands.sharing import add_share, find_share


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    collect = commands.add_parser(
        "collect", help="play episodes and store their states or a teacher's demonstrations"
    )
    collect.add_argument("config", type=Path, metavar="CONFIG")
    collect.add_argument("--out", type=Path, required=True, metavar="DIR")
    collect.add_argument("--count", type=int, required=True, metavar="N", help="tasks to play")
    collect.add_argument("--adapter", metavar="DIR", help="play with this adapter; default: base")
    collect.add_argument(
        "--teacher", action="store_true", help="the base plays with hints; the best is kept"
    )
    collect.add_argument(
        "--teacher-url",
        default="",
        metavar="URL",
        help="an OpenAI-compatible endpoint plays; its key is read from TRUSTEE_TEACHER_KEY",
    )
    collect.add_argument(
        "--teacher-model", default="", metavar="NAME", help="model of the endpoint"
    )
    collect.add_argument("--gpu", type=int, metavar="N", help="CUDA device to use; default 0")
    add_share(collect, "tasks")
    add_shared(collect)
    collect.set_defaults(act=collect_command)


def collect_command(options: argparse.Namespace) -> int:
    """Play and store episodes."""
    from trustee.config import read_config
    from trustee.jobs.collect import PlayerConfig, counts_text, run_collection

    config = read_config(find_config(options.config, "ftrl.toml"), allow_unsafe(options))
    player = PlayerConfig(
        teacher=options.teacher,
        url=options.teacher_url,
        model=options.teacher_model,
        adapter=options.adapter or "",
    )
    share = find_share(options, options.count)
    choose_device(config, options.gpu)
    config = fill_engine(config, options.gpu or 0)
    warn_unconfined(config)
    show_job(
        options,
        options.out,
        lambda emit: run_collection(
            config,
            config.collect,
            options.out,
            count=options.count,
            player=player,
            emit=emit,
            share=share,
        ),
        text=lambda counts: counts_text(counts, options.out),
    )
    return DONE
