"""Which pairs of tools are kept for evaluation: a fixed share, whatever the order."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trustee.environments.micro.world import TOOLS
from trustee.environments.splits import is_reserved, is_reserved_pair
from trustee.tools.repository import Repository
from trustee.types import Tool

names = st.text(max_size=12)
one_ins = st.integers(2, 100)


def make_tool(name: str) -> Tool:
    """Make a tool that has only a name."""
    return Tool(name=name, description="", parameters={"type": "object"})


@given(first=names, second=names, one_in=one_ins)
def test_order_of_a_pair_does_not_matter(first: str, second: str, one_in: int) -> None:
    """A pair is reserved or not, whichever tool comes first."""
    assert is_reserved_pair(first, second, one_in=one_in) == is_reserved_pair(
        second, first, one_in=one_in
    )


@given(chosen=st.lists(names, max_size=6), one_in=one_ins)
def test_set_is_reserved_if_one_pair_is(chosen: list[str], one_in: int) -> None:
    """A set of tools is kept as soon as it holds one reserved pair."""
    expected = any(is_reserved_pair(a, b, one_in=one_in) for a, b in combinations(chosen, 2))
    assert expected == is_reserved([make_tool(name) for name in chosen], one_in=one_in)


@given(name=names, one_in=one_ins)
def test_one_tool_is_never_reserved(name: str, one_in: int) -> None:
    """A pair has two, so tasks with one tool are always open to training."""
    assert not is_reserved([make_tool(name)], one_in=one_in)


def test_split_never_changes() -> None:
    """The pairs are fixed for ever: another split would make old and new results differ."""
    pairs = combinations([tool.name for tool in TOOLS if tool.category == "home"], 2)
    assert [
        ("set_lamp", "set_fan"),
        ("set_lamp", "read_blind"),
        ("read_lamp", "set_fan"),
        ("set_fan", "set_blind"),
        ("set_fan", "read_blind"),
        ("read_fan", "set_heater"),
        ("read_heater", "set_blind"),
    ] == [pair for pair in pairs if is_reserved_pair(*pair, one_in=6)]


@pytest.mark.parametrize("one_in", [6, 60])
def test_share_is_as_asked(one_in: int) -> None:
    """Of all pairs of packaged tools about one in `one_in` is reserved."""
    tools = [tool.name for tool in Repository.load().tools]
    pairs = list(combinations(tools, 2))
    share = sum(is_reserved_pair(a, b, one_in=one_in) for a, b in pairs) / len(pairs)
    assert 1 / one_in == pytest.approx(share, rel=0.05)
