"""`trustee ui`: look at runs in a browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from trustee.cli.commands.options import DONE, Commands
from trustee.cli.terminal import complain, say
from trustee.errors import InputError


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    ui = commands.add_parser("ui", help="look at runs in a browser, also while they are under way")
    ui.add_argument(
        "folders",
        nargs="*",
        type=Path,
        metavar="FOLDER",
        help="folders of runs, or run folders; default: runs",
    )
    ui.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on; default 127.0.0.1, so only this machine can look",
    )
    ui.add_argument("--port", type=int, metavar="N", help="default: the first free one from 7860")
    ui.set_defaults(act=ui_command)


def ui_command(options: argparse.Namespace) -> int:
    """Show runs until Ctrl-C."""
    import anyio

    from trustee.cli.interrupt import until_interrupted
    from trustee.endpoint.listening import is_private
    from trustee.pages.serving import serve

    folders: list[Path] = options.folders or [Path("runs")]
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder; name a folder of runs, or a run folder")
    if not is_private(options.host):
        complain(
            f"--host {options.host}: whoever reaches this address can read these runs; there is "
            "no password"
        )

    def tell(address: str) -> None:
        say(f"{address}  shows {', '.join(map(str, folders))}; Ctrl-C ends it")

    try:
        anyio.run(
            until_interrupted,
            lambda: serve(folders, host=options.host, port=options.port, told=tell),
        )
    except KeyboardInterrupt:
        return DONE
    return DONE
