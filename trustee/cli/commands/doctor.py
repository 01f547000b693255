"""`trustee doctor`: try every part of a run on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from trustee.cli.commands.fitting import take_settings
from trustee.cli.commands.options import (
    DONE,
    FAILED,
    Commands,
    add_shared,
    allow_unsafe,
    choose_device,
    find_config,
)
from trustee.cli.terminal import say, say_json


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    doctor = commands.add_parser("doctor", help="try every part of a run on this machine")
    doctor.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="default: configs/qwen3-8b.toml with a GPU, else configs/tiny.toml",
    )
    doctor.add_argument("--gpu", type=int, metavar="N", help="CUDA device to use; default 0")
    doctor.add_argument(
        "--soak", type=int, default=0, metavar="N", help="further rounds after the first"
    )
    add_shared(doctor)
    doctor.set_defaults(act=doctor_command)


def doctor_command(options: argparse.Namespace) -> int:
    """Run all checks; if one fails, return exit code 1 and keep the engine's log."""
    import anyio

    from trustee.cli.capture import divert_noise
    from trustee.cli.interrupt import until_interrupted
    from trustee.config import read_config
    from trustee.engine.scratch import open_scratch
    from trustee.jobs.doctor import examination_json, examine, finding_text
    from trustee.planning.card_fit import look_at_card
    from trustee.planning.cards import count_cards

    on_card = options.gpu is not None or count_cards() > 0
    name = "qwen3-8b.toml" if on_card else "tiny.toml"
    config = read_config(find_config(options.config, name), allow_unsafe(options))
    choose_device(config, options.gpu)
    looked = look_at_card(config, options.gpu or 0)
    if config.engine.on_gpu:
        config = take_settings(config, options.gpu or 0)
    with open_scratch() as folder, divert_noise(folder) as to:
        found = anyio.run(
            until_interrupted,
            lambda: examine(
                config,
                extra=looked,
                soak=options.soak,
                emit=lambda finding: (
                    None if options.json else say(finding_text(finding), to=to.out)
                ),
            ),
        )
        if options.json:
            say_json(examination_json(found), to=to.out)
        else:
            end = "all checks passed" if found.healthy else "something failed; see above"
            say(end, to=to.out)
        noise = folder / "engine.log"
        if not found.healthy and noise.stat().st_size > 0:
            say(f"the engine's output is in {keep_noise(noise)}", to=to.err)
    return DONE if found.healthy else FAILED


def keep_noise(noise: Path) -> Path:
    """Move the engine's output to a folder that stays; return where it is now."""
    from tempfile import mkdtemp

    return noise.rename(Path(mkdtemp(prefix="trustee-doctor-")) / noise.name)
