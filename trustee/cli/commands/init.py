"""`trustee init`: a commented config to start from."""

from __future__ import annotations

import argparse
from pathlib import Path

from trustee.cli.commands.options import DONE, Commands
from trustee.cli.terminal import say
from trustee.errors import InputError


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    init = commands.add_parser("init", help="write a commented config to start from")
    init.add_argument("file", type=Path, metavar="FILE.toml", help="file to write; must not exist")
    init.add_argument(
        "--like",
        default="qwen3-8b",
        metavar="NAME",
        help="config of the package to copy, such as tiny, ftrl or toolmaster; default qwen3-8b",
    )
    init.set_defaults(act=init_command)


def init_command(options: argparse.Namespace) -> int:
    """Write the config."""
    from trustee.cli.settings import comment_config
    from trustee.config import PACKAGED
    from trustee.runs.files import write_file

    names = sorted(path.stem for path in PACKAGED.glob("*.toml"))
    name = str(options.like).removesuffix(".toml")
    if name not in names:
        raise InputError(f"--like {options.like}: the package has {', '.join(names)}")
    file: Path = options.file
    if file.exists():
        raise InputError(f"{file} is there already; name a new file")
    if not file.parent.is_dir():
        raise InputError(f"{file}: there is no folder {file.parent}")
    try:
        text = comment_config((PACKAGED / f"{name}.toml").read_text(encoding="utf-8"))
        write_file(file, text.encode())
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}") from error
    say(f"{file} is like {name}; change it, then: trustee run --config {file} --dry-run")
    return DONE
