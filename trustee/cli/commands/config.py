"""`trustee config`: list the keys of a config, what they may be set to and what they mean."""

from __future__ import annotations

import argparse

from trustee.cli.commands.options import DONE, Commands
from trustee.cli.terminal import say, say_json


def add(commands: Commands) -> None:
    """Describe the command."""
    config = commands.add_parser(
        "config", help="list every key of a config with its default and meaning"
    )
    config.add_argument(
        "section", nargs="?", metavar="SECTION", help="such as rollout, or one key; default: all"
    )
    config.add_argument("--json", action="store_true", help="one JSON object per key")
    config.set_defaults(act=config_command)


def config_command(options: argparse.Namespace) -> int:
    """List the keys."""
    import msgspec

    from trustee.cli.settings import list_settings, settings_text

    settings = list_settings(options.section)
    if options.json:
        for setting in settings:
            say_json(msgspec.json.encode(setting))
    else:
        say(settings_text(settings))
    return DONE
