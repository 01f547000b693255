"""Compiles sources in a process of its own, which a source that costs too much ends.

Run by path, with nothing but the standard library: it reads a JSON object a line with `name` and
`source`, and answers with what is wrong, or an empty text. Nothing is executed.
"""

from __future__ import annotations

import ast
import json
import resource
import signal
import sys
import warnings
from contextlib import suppress


def main(seconds: float, memory: int) -> None:
    """Answer until the input ends; the process dies if a source takes more processor time."""
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    warnings.simplefilter("ignore")
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        answer = find_flaw(asked["name"], asked["source"])
        signal.setitimer(signal.ITIMER_PROF, 0)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def find_flaw(name: str, source: str) -> str:
    """Return why a source cannot be the tool's; an empty text if it can."""
    try:
        tree = ast.parse(source)
        compile(tree, name, "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        return f"does not compile: {str(error) or type(error).__name__}"
    return "" if name in find_names(tree) else "does not define it at its top level"


def find_names(tree: ast.Module) -> set[str]:
    """Return the names that a module has once it has run, also those set inside `if` and `try`."""
    names = set()
    nodes: list[ast.AST] = [*tree.body]
    while nodes:
        node = nodes.pop()
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
                continue
            case ast.Lambda() | ast.ListComp() | ast.SetComp() | ast.DictComp():
                continue
            case ast.Import() | ast.ImportFrom():
                names |= {alias.asname or alias.name for alias in node.names}
            case ast.Name(ctx=ast.Store()):
                names.add(node.id)
        nodes += ast.iter_child_nodes(node)
    return names


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
