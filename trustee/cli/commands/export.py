"""`trustee export`: take a run's model away."""

from __future__ import annotations

import argparse
from pathlib import Path

from trustee.cli.commands.options import (
    DONE,
    Commands,
    add_allow_world,
    add_shared,
    allow_unsafe,
    allow_worlds,
    find_config,
    find_run,
    show_job,
)
from trustee.cli.terminal import say
from trustee.errors import InputError

QUANTS = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")


def add(commands: Commands) -> None:
    """Add the command to the parser."""
    export = commands.add_parser("export", help="write a run's model for other programs")
    export.add_argument(
        "run", type=Path, metavar="RUN|verifiers", help="run folder; or verifiers, with DIR"
    )
    export.add_argument(
        "place",
        nargs="?",
        type=Path,
        metavar="DIR",
        help="with verifiers: write the world of --config as a package for verifiers",
    )
    export.add_argument(
        "--config", type=Path, metavar="FILE", help="with verifiers: its config; default ftrl.toml"
    )
    export.add_argument(
        "--verifiers", type=Path, metavar="DIR", help="the run's world as a package for verifiers"
    )
    export.add_argument(
        "--merged", type=Path, metavar="DIR", help="base and adapter as one bf16 model folder"
    )
    export.add_argument("--gguf", type=Path, metavar="FILE", help="the same as one GGUF file")
    export.add_argument(
        "--quant", choices=QUANTS, help="format of the GGUF file's matrices; default bf16"
    )
    export.add_argument(
        "--gguf-adapter", type=Path, metavar="FILE", help="the adapter alone as a GGUF file"
    )
    export.add_argument(
        "--ollama", type=Path, metavar="DIR", help="a GGUF file and a Modelfile for Ollama"
    )
    export.add_argument(
        "--card", action="store_true", help="write a model card, README.md, into the folder"
    )
    export.add_argument(
        "--push",
        metavar="OWNER/NAME",
        help="upload what was written, or else the adapter, to a private place of the model hub",
    )
    export.add_argument("--public", action="store_true", help="with --push: a new place is public")
    export.add_argument("--adapter", type=Path, metavar="DIR", help="default: the run's newest")
    export.add_argument(
        "--tests",
        type=int,
        default=8,
        metavar="N",
        help="held-out tasks on which each file is tested; default 8, 0 for no test",
    )
    export.add_argument(
        "--play",
        type=int,
        default=0,
        metavar="N",
        help="held-out tasks that are played through each GGUF file; default 0",
    )
    add_allow_world(export)
    add_shared(export)
    export.set_defaults(act=export_command)


def export_command(options: argparse.Namespace) -> int:
    """Write what was asked for."""
    if options.place is not None or options.verifiers is not None:
        return export_package(options)
    if options.config is not None:
        raise InputError("--config is for trustee export verifiers DIR; a run has its own config")
    from trustee.config import apply_changes
    from trustee.jobs.export import export, export_text
    from trustee.jobs.export_subject import Wanted
    from trustee.jobs.run_metadata import read_unplayed

    for name in ("tests", "play"):
        if (number := getattr(options, name)) < 0:
            raise InputError(f"--{name} {number} is negative; give 0 for no test, or more")
    wanted = Wanted(
        merged=options.merged,
        gguf=options.gguf,
        quant=options.quant or "bf16",
        gguf_adapter=options.gguf_adapter,
        ollama=options.ollama,
        card=options.card,
        push=options.push,
        public=options.public,
        tests=options.tests,
        play=options.play,
    )
    places = (wanted.merged, wanted.gguf, wanted.gguf_adapter, wanted.ollama)
    if all(place is None for place in places) and wanted.push is None:
        raise InputError(
            "nothing to export; say what with --merged DIR, --gguf FILE, --gguf-adapter FILE, "
            "--ollama DIR, --verifiers DIR or --push OWNER/NAME"
        )
    if options.quant and wanted.gguf is None and wanted.ollama is None:
        raise InputError(
            f"--quant {options.quant} is the format of a GGUF file; add --gguf FILE or --ollama DIR"
        )
    allow_worlds(options)
    changes = allow_unsafe(options)
    run = find_run(options.run)
    config = apply_changes(read_unplayed(run), changes)
    show_job(
        options,
        run,
        lambda emit: export(config, run, wanted, adapter=options.adapter, emit=emit),
        text=export_text,
    )
    return DONE


def export_package(options: argparse.Namespace) -> int:
    """Write a world as a package, of a config or of a run."""
    from trustee.config import apply_changes, read_config
    from trustee.jobs.export_verifiers import export_verifiers, package_text
    from trustee.jobs.run_metadata import read_unplayed

    files = (options.merged, options.gguf, options.gguf_adapter, options.ollama, options.push)
    if any(one is not None for one in files):
        raise InputError("a package for verifiers holds no model; export the files in another call")
    changes = allow_unsafe(options)
    allow_worlds(options)
    if options.place is None:
        if options.config is not None:
            raise InputError("--config is for trustee export verifiers DIR; a run has its own")
        config = apply_changes(read_unplayed(find_run(options.run)), changes)
        place = options.verifiers
    elif str(options.run) == "verifiers" and options.verifiers is None:
        config = read_config(find_config(options.config, "ftrl.toml"), changes)
        place = options.place
    else:
        raise InputError(
            f"{options.run} {options.place}: give trustee export verifiers DIR --config FILE, or "
            "trustee export RUN --verifiers DIR"
        )
    say(package_text(export_verifiers(config, place)))
    return DONE
