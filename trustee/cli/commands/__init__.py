"""What the command line can do: one file per command, imported in the order that help shows.

Each has `add`, which describes the command to the parser and names the function that acts. Nothing
heavy is imported before that function needs it.
"""

from trustee.cli.commands import (
    build,
    collect,
    config,
    doctor,
    evaluate,
    plan,
    run,
    sft,
    tools,
    view,
)

COMMANDS = (run, evaluate, plan, config, doctor, build, collect, sft, view, tools)
