"""The commands of the command line: one module each, imported in the order that help shows.

Each has `add`, which registers the command with the parser and sets the function that runs it.
Heavy modules are only imported inside that function.
"""

from trustee.cli.commands import (
    build,
    collect,
    config,
    doctor,
    evaluate,
    export,
    init,
    merge,
    plan,
    report,
    run,
    runs,
    serve,
    sft,
    tools,
    ui,
    view,
    watch,
)

COMMANDS = (
    init,
    run,
    runs,
    evaluate,
    export,
    serve,
    plan,
    config,
    doctor,
    build,
    collect,
    merge,
    sft,
    view,
    watch,
    ui,
    report,
    tools,
)
