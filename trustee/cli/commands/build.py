"""`trustee build`: build executable tool environments with the base as author."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from trustee.cli.commands.fitting import fill_engine
from trustee.cli.commands.options import (
    DONE,
    FAILED,
    Commands,
    add_shared,
    allow_unsafe,
    choose_device,
    find_config,
    show_job,
    warn_unconfined,
)
from trustee.cli.commands.sharing import add_share, find_share
from trustee.environments.executable.blueprint import Scenario
from trustee.errors import InputError

if TYPE_CHECKING:
    from trustee.config import Config


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    build = commands.add_parser("build", help="build executable tool environments")
    build.add_argument("--out", type=Path, required=True, metavar="DIR")
    build.add_argument("--count", type=int, required=True, metavar="N", help="number to build")
    build.add_argument("--config", type=Path, metavar="FILE", help="default: configs/ftrl.toml")
    build.add_argument("--seed", type=int, default=0, metavar="N", help="default 0")
    build.add_argument("--scenario", choices=get_args(Scenario), help="build only this scenario")
    build.add_argument("--resume", action="store_true", help="continue the build in DIR")
    build.add_argument("--gpu", type=int, metavar="N", help="CUDA device to use; default 0")
    add_share(build, "environments")
    add_shared(build)
    build.set_defaults(act=build_command)


def build_command(options: argparse.Namespace) -> int:
    """Build environments; return exit code 1 if fewer than requested were built."""
    from trustee.config import read_config
    from trustee.environments.executable.building.report import report_text
    from trustee.jobs.build import run_build

    if options.count < 1:
        raise InputError(f"--count must be 1 or more, got {options.count}")
    share = find_share(options, options.count)
    config = read_config(find_config(options.config, "ftrl.toml"), allow_unsafe(options))
    choose_device(config, options.gpu)
    config = fill_engine(config, options.gpu or 0)
    warn_unconfined(config)
    check_folder(options, config)
    report = show_job(
        options,
        options.out,
        lambda emit: run_build(
            config,
            options.out,
            count=options.count,
            seed=options.seed,
            scenario=options.scenario,
            resume=options.resume,
            emit=emit,
            share=share,
        ),
        again="run the same command again with --resume",
        text=lambda report: f"{report_text(report)}\nenvironments  {options.out / 'blueprints'}",
    )
    return DONE if report.accepted >= report.wanted else FAILED


def check_folder(options: argparse.Namespace, config: Config) -> None:
    """Refuse the folder of another build before anything heavy starts.

    Raises:
        InputError: as in `build`.
    """
    from trustee.environments.executable.building.folder import Folder, make_recipe

    if (options.out / "build.json").exists():
        recipe = make_recipe(config.build, seed=options.seed, scenario=options.scenario)
        Folder(options.out, recipe, wanted=options.count).check(resume=options.resume)
