"""`trustee sft`: imitate demonstrations; `trustee run --adapter` continues from there."""

from __future__ import annotations

import argparse
from pathlib import Path

from trustee.cli.commands.fitting import fill_engine
from trustee.cli.commands.options import (
    DONE,
    Commands,
    add_allow_world,
    add_shared,
    allow_unsafe,
    choose_device,
    read_resumed,
    show_job,
    warn_unconfined,
)
from trustee.errors import InputError


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    sft = commands.add_parser("sft", help="imitate demonstrations")
    sft.add_argument("config", type=Path, nargs="?", metavar="CONFIG")
    sft.add_argument(
        "file", type=Path, nargs="?", metavar="FILE", help="JSON lines, or a folder of collect"
    )
    sft.add_argument("--out", type=Path, metavar="RUN", help="folder of the new run")
    sft.add_argument("--resume", type=Path, metavar="RUN", help="continue a run folder")
    sft.add_argument("--gpu", type=int, metavar="N", help="CUDA device to use; default 0")
    add_allow_world(sft)
    add_shared(sft)
    sft.set_defaults(act=sft_command)


def sft_command(options: argparse.Namespace) -> int:
    """Imitate."""
    from trustee.config import read_config
    from trustee.jobs.run_metadata import name_folder
    from trustee.jobs.sft import read_sft_metadata, run_sft, sft_text
    from trustee.jobs.tracked import run_tracked

    if options.resume is not None:
        if options.config or options.file or options.out:
            raise InputError(
                "--resume continues a run with its own config and file; leave out CONFIG, FILE and "
                "--out; --set changes only what protects"
            )
        folder: Path = options.resume
        config = read_resumed(options, folder)
        file = Path(read_sft_metadata(folder).file)
    else:
        if options.config is None or options.file is None:
            raise InputError("name a config and a file: trustee sft CONFIG FILE")
        config = read_config(options.config, allow_unsafe(options))
        file = options.file
        folder = options.out or name_folder(config)
    choose_device(config, options.gpu)
    config = fill_engine(config, options.gpu or 0, trains=True)
    warn_unconfined(config)
    show_job(
        options,
        folder,
        lambda emit: run_tracked(
            config,
            folder,
            lambda tell: run_sft(
                config, config.sft, file, folder, emit=tell, resume=options.resume is not None
            ),
            emit=emit,
        ),
        text=sft_text,
        again=f"run: trustee sft --resume {folder}",
    )
    return DONE
