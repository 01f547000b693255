"""Tests that share something dear stay together, and all others are free."""

from __future__ import annotations

from pathlib import Path

import pytest

from sharing_out import TOGETHER, name_group

VLLM = "tests/engine/test_vllm.py"


@pytest.mark.parametrize(
    ("test", "group"),
    [
        ("tests/test_config.py::test_a", "tests/test_config.py::test_a"),
        ("tests/jobs/test_sft.py::test_a[x]", "tests/jobs/test_sft.py"),
        (f"{VLLM}::test_a[bf16-x]", f"{VLLM}[bf16"),
        (f"{VLLM}::test_a[nf4]", f"{VLLM}[nf4"),
        (f"{VLLM}::test_a[SIGKILL]", f"{VLLM}::test_a[SIGKILL]"),
    ],
)
def test_groups(test: str, group: str) -> None:
    """A group is a file, or those of its tests that have a parameter in common."""
    assert group == name_group(test)


def test_files_are_there() -> None:
    """A file that was moved is not forgotten."""
    root = Path(__file__).parents[1]
    assert [] == [file for file in TOGETHER if not (root / file).is_file()]
