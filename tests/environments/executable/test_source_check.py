"""Sources are compiled elsewhere: what a tool must define, and what ends at a limit."""

from __future__ import annotations

import time

import pytest

from trustee.environments.executable.source_check import SourceChecker
from trustee.errors import InputError

TRIED = """
try:
    import nothing
except ImportError:
    def look(at):
        return at
"""
CHOSEN = "if True:\n    def look(at): return at\nelse:\n    look = None"
OPENED = "with open('x') as look:\n    pass"
UNPACKED = "look, other = str, int"
ANNOTATED = "look: object = str"
LOOPED = "for look in [str]:\n    pass"


@pytest.mark.parametrize("source", [TRIED, CHOSEN, OPENED, UNPACKED, ANNOTATED, LOOPED])
def test_a_tool_may_be_defined_in_any_way(source: str) -> None:
    """Whatever binds the name when the module runs will do."""
    with SourceChecker() as checker:
        checker.check("look", source)


@pytest.mark.parametrize(
    "source",
    [
        "def other():\n    def look(): pass",
        "class Other:\n    def look(self): pass",
        "other = [look for look in 'ab']",
        "other = lambda: (look := 1)",
        "print(look)",
    ],
)
def test_names_inside_others_do_not_count(source: str) -> None:
    """A name that only exists inside a function, a class or a comprehension is not the tool's."""
    with SourceChecker() as checker, pytest.raises(InputError, match="does not define it"):
        checker.check("look", source)


def test_a_source_that_costs_too_much_is_refused() -> None:
    """Compiling ends at its limit of time, and the next source is checked as ever."""
    begun = time.monotonic()
    with SourceChecker(seconds=0.5) as checker:
        with pytest.raises(InputError, match=r"look cannot be compiled in 0\.5 s and 1024 MiB"):
            checker.check("look", "def look():0\n" * 60_000)
        checker.check("look", "def look(): pass")
    assert time.monotonic() - begun < 30


def test_a_source_that_takes_too_much_memory_is_refused() -> None:
    """Memory ends too, in words."""
    with SourceChecker(memory=96 << 20) as checker:
        with pytest.raises(InputError, match=r"does not compile: MemoryError|cannot be compiled"):
            checker.check("look", f"look = [{'1,' * 400_000}]")
        checker.check("look", "look = 1")
