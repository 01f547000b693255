"""Which tests one worker runs, where several share the suite.

The one idea: a test goes to whoever is free, but tests with a dear fixture in common stay together.
Markers for that, `xdist_group`, are not seen by the installed pair of pytest and xdist.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

TOGETHER = {
    "tests/engine/test_vllm.py": ("[bf16", "[nf4", "[int4"),
    "tests/jobs/test_sft.py": ("",),
    "tests/rendering/test_renderer.py": ("",),
    "tests/sandbox/test_hostile.py": ("",),
}
"""Files with fixtures that take seconds, and the parameters of those that are made for each."""


def name_group(test: str) -> str:
    """Give the name that all tests of a group have in common: for most, their own."""
    file = test.partition("::")[0]
    parts = [part for part in TOGETHER.get(file, ()) if part in test]
    return f"{file}{parts[0]}" if parts else test


class KeepTogether(LoadScopeScheduling):  # type: ignore[misc]
    """Gives out one group after the other, large ones first."""

    def _split_scope(self, nodeid: str) -> str:
        return name_group(nodeid)
