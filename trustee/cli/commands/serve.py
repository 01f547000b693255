"""`trustee serve`: a run's model for other programs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from trustee.cli.commands.fitting import fill_engine
from trustee.cli.commands.options import (
    DONE,
    Commands,
    add_allow_world,
    add_shared,
    allow_unsafe,
    allow_worlds,
    choose_device,
    find_config,
    find_run,
    show_job,
)
from trustee.errors import InputError

if TYPE_CHECKING:
    from trustee.config import Config


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    serve = commands.add_parser(
        "serve", help="offer a run's model to other programs, by OpenAI's API"
    )
    serve.add_argument(
        "subject",
        metavar="RUN|MODEL",
        help="run folder, whose base and adapters are offered; or a model: folder, hub id or tiny",
    )
    serve.add_argument(
        "--adapter",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="offer this adapter too, a PEFT or run folder; may be given several times",
    )
    serve.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="engine settings for a model; default: qwen3-8b.toml on a GPU, else small-cpu.toml",
    )
    serve.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on; default 127.0.0.1. Any other needs a key in TRUSTEE_SERVE_KEY",
    )
    serve.add_argument(
        "--port", type=int, metavar="N", help="default: the first free one from 8000"
    )
    serve.add_argument(
        "--requests", type=int, default=64, metavar="N", help="requests at once; default 64"
    )
    serve.add_argument(
        "--seconds", type=float, default=600.0, metavar="S", help="time for an answer; default 600"
    )
    serve.add_argument("--out", type=Path, metavar="DIR", help="where the logs go")
    serve.add_argument("--gpu", type=int, metavar="N")
    add_allow_world(serve)
    add_shared(serve)
    serve.set_defaults(act=serve_command)


def serve_command(options: argparse.Namespace) -> int:
    """Serve until Ctrl-C, which is not a failure."""
    from trustee.endpoint.guard import EndpointLimits, read_serve_key
    from trustee.jobs.run_metadata import name_folder
    from trustee.jobs.serve import Serving, serve

    if options.requests < 1 or options.seconds <= 0:
        raise InputError(
            f"--requests {options.requests} --seconds {options.seconds:g}: both must be above 0"
        )
    key = read_serve_key()
    config, run = read_subject(options)
    choose_device(config, options.gpu)
    config = fill_engine(config, options.gpu or 0)
    logs = name_folder(config)
    folder = options.out or logs.with_name(f"serve-{logs.name}")
    serving = Serving(
        run=run,
        adapters=tuple(options.adapter),
        host=options.host,
        port=options.port,
        limits=EndpointLimits(requests=options.requests, seconds=options.seconds),
    )
    try:
        show_job(
            options,
            folder,
            lambda emit: serve(config, serving, key=key, folder=folder, emit=emit),
            text=lambda nothing: "",
        )
    except KeyboardInterrupt:
        return DONE
    return DONE


def read_subject(options: argparse.Namespace) -> tuple[Config, Path | None]:
    """Return the config to serve with, and the run folder if one is served.

    Raises:
        InputError: if neither a run nor a model is named.
    """
    from trustee.config import apply_changes, read_config
    from trustee.jobs.run_metadata import read_unplayed
    from trustee.planning.cards import count_cards

    changes = allow_unsafe(options)
    run = find_run(Path(options.subject))
    if (run / "run.json").is_file():
        if options.config is not None:
            raise InputError("--config cannot be used with a run, which has its own; use --set")
        allow_worlds(options)
        return apply_changes(read_unplayed(run), changes), run
    if options.subject != "tiny" and not run.is_dir() and options.subject.count("/") != 1:
        raise InputError(
            f"{options.subject} is neither a run folder nor a model; give the folder of a run or "
            "a model, latest, a hub id such as Qwen/Qwen3-8B, or tiny for the model in the package"
        )
    default = "qwen3-8b.toml" if count_cards() else "small-cpu.toml"
    if options.subject == "tiny":
        default = "tiny.toml"
    config = read_config(
        find_config(options.config, default), (f"model.path={options.subject}", *changes)
    )
    return config, None
