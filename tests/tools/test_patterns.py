"""Patterns mean what JavaScript says, and none takes long."""

from __future__ import annotations

import time

import pytest

from trustee.tools.patterns import TooSlow, compile_pattern, search


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (r"^(?<year>\d{4})-\k<year>$", "2020-2020", True),
        (r"^\p{L}+$", "Zoë", True),
        (r"^\p{Lu}", "zoë", False),
        (r"^[\w-.]+$", "a-b.c", True),
        (r"^[\w-.]+$", "ä", False),
        (r"^\D$", "٣", True),
        (r"^[^]$", "\n", True),
        (r"a[]b", "ab", False),
        (r"^[[a]$", "[", True),
        (r"^[a&&b]$", "&", True),
        (r"^\/v\u{31}$", "/v1", True),
        (r"^\cA$", "\x01", True),
        (r"^x$", "x\n", False),
        (r"^\Q$", "Q", True),
        (r"^(?P<a>b)$", "b", True),
        (r"(?i)^ABC$", "abc", True),
        ("b", "abc", True),
    ],
)
def test_search(pattern: str, text: str, found: bool) -> None:
    """A pattern is searched, with JavaScript's classes, groups and escapes."""
    assert search(pattern, text) is found


@pytest.mark.parametrize("pattern", ["(", "[z-a]", "(?<a>x)(?<a", "a" * 5000, "((a{99}){99}){99}"])
def test_compile_refuses(pattern: str) -> None:
    """What is no pattern, or takes too much memory, is refused at once."""
    start = time.perf_counter()
    with pytest.raises(ValueError, match=r"at position|characters|signs"):
        compile_pattern(pattern)
    assert time.perf_counter() - start < 1


def test_search_gives_up() -> None:
    """A match that goes through too many ways ends in time."""
    start = time.perf_counter()
    with pytest.raises(TooSlow, match="takes too long"):
        search("^(a|aa)+$", "a" * 80 + "b")
    assert time.perf_counter() - start < 2
