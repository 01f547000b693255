"""Sets of tools: with a reserved pair for evaluation, without for training, for few tools too."""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Literal

import pytest

from golden_errors import ErrorCheck
from trustee.environments.simulated.environment import Simulated
from trustee.environments.simulated.tool_sets import ToolSets, explain_split, find_tools
from trustee.environments.splits import reserved_pairs
from trustee.errors import InputError
from trustee.tools.repository import Repository
from trustee.types import Tool


def make_tools(count: int, *, categories: int = 1) -> Repository:
    """Make tools that share nothing but a category."""
    return Repository(
        Tool(
            name=f"look_{chr(97 + number)}{number}",
            description="",
            parameters={"type": "object"},
            category=f"c{number % categories}",
        )
        for number in range(count)
    )


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8, 19, 24])
@pytest.mark.parametrize("one_in", [2, 60, 10_000])
@pytest.mark.parametrize("categories", [1, 3])
def test_few_tools_are_split(count: int, one_in: int, categories: int) -> None:
    """Any two tools or more can be trained on and evaluated, whatever the share."""
    repository = make_tools(count, categories=categories)
    names = [tool.name for tool in repository.tools]
    reserved = set(reserved_pairs(names, one_in=one_in))
    assert reserved
    for with_reserved in (False, True):
        sets = ToolSets(repository, one_in=one_in, with_reserved=with_reserved)
        for wanted in (1, 2, 4, 10):
            tools = sets.sample(random.Random(wanted), wanted)
            pairs = set(combinations(sorted(tool.name for tool in tools), 2))
            assert with_reserved == bool(pairs & reserved)
            assert len({tool.name for tool in tools}) == len(tools) <= max(2, wanted)


def test_rare_pair_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where luck does not find the only reserved pair, it is offered all the same."""
    repository = make_tools(40)
    sets = ToolSets(repository, one_in=10**9, with_reserved=True)
    for seed in range(20):
        assert 2 == len(sets.sample(random.Random(seed), 2))
        assert 6 == len(sets.sample(random.Random(seed), 6))


def test_pair_that_the_share_does_not_reserve_is_told() -> None:
    """The user learns which pair training never offers; with enough tools nothing is said."""
    (text,) = explain_split(make_tools(4), one_in=10**9)
    (pair,) = reserved_pairs([tool.name for tool in make_tools(4).tools], one_in=10**9)
    assert "reserves none of the 6 pairs of 4 tools" in text
    assert " and ".join(pair) in text
    assert () == explain_split(find_tools(""), one_in=60)
    assert () == Simulated().check(seed=0) == Simulated().check(seed=0, held_out=True)


def test_one_tool_is_trained_on_but_not_evaluated(check_error: ErrorCheck) -> None:
    """What cannot work is said when the world is checked, with the ways out."""
    repository = make_tools(1)
    sets = ToolSets(repository, one_in=60, with_reserved=False)
    assert repository.tools == sets.sample(random.Random(0), 3)
    with pytest.raises(InputError) as caught:
        ToolSets(repository, one_in=60, with_reserved=True)
    check_error(caught, "env.tools has 1 tool", "eval.tasks=none", "eval_env")


def test_check_says_what_is_left_out(tmp_path: Path) -> None:
    """A bad entry of a file of tools is named before the run starts; a good file needs no word."""
    path = tmp_path / "tools.json"
    good = [{"name": f"get_{letter}"} for letter in "abcdefghijklmnop"]
    path.write_text(json.dumps([*good, 5]))
    (line,) = Simulated(tools=str(path)).check(seed=1)
    assert line.startswith(f"{path}: left out: {path}: [16]: not a tool, got 5")
    path.write_text(json.dumps(good))
    assert Simulated(tools=str(path)).check(seed=1) == ()


@pytest.mark.parametrize("name", ["", "micro"])
def test_check_of_packaged_tools(name: str) -> None:
    """Packaged sets need no word."""
    assert Simulated(tools=name).check(seed=1) == ()


# By toolset, as the authors' code draws.


def make_toolsets(sizes: dict[str, dict[str, int]]) -> Repository:
    """Make tools in categories of toolsets of these sizes."""
    return Repository(
        Tool(
            name=f"{category}_{toolset}_{number}",
            description="",
            parameters={"type": "object"},
            category=category,
            toolset=toolset,
        )
        for category, toolsets in sizes.items()
        for toolset, size in toolsets.items()
        for number in range(size)
    )


THREE = {"food": {"a": 2, "b": 3, "c": 6}}


@pytest.mark.parametrize(
    ("count", "most_toolsets"), [(1, 1), (2, 1), (3, 2), (5, 2), (6, 3), (11, 3), (20, 3)]
)
def test_toolsets_are_pooled_until_they_suffice(count: int, most_toolsets: int) -> None:
    """As many whole toolsets as it takes are open to the draw, and no more."""
    repository = make_toolsets(THREE)
    seen: set[frozenset[str]] = set()
    for seed in range(300):
        tools = repository.sample_category(random.Random(seed), count, category="food")
        assert min(count, 11) == len(tools) == len({tool.name for tool in tools})
        seen.add(frozenset(tool.toolset for tool in tools))
    assert most_toolsets == max(map(len, seen))
    if count <= 2:
        assert {frozenset("a"), frozenset("b"), frozenset("c")} == seen


def test_every_tool_of_the_pool_can_be_drawn() -> None:
    """The pool is whole toolsets, so every tool comes up."""
    repository = make_toolsets(THREE)
    drawn = {
        tool.name
        for seed in range(300)
        for tool in repository.sample_category(random.Random(seed), 3, category="food")
    }
    assert {tool.name for tool in repository.tools} == drawn


SEVERAL = {
    "food": {"a": 8, "b": 8, "c": 20},
    "mail": {"d": 2},
    "maps": {"e": 3, "f": 1},
    "news": {"g": 1},
}


def test_category_is_drawn_uniformly() -> None:
    """Small and large categories come alike, one a draw, and a poor one gives fewer tools."""
    sets = ToolSets(make_toolsets(SEVERAL), one_in=10**9, with_reserved=False, sampling="toolsets")
    rng, draws = random.Random(5), 8000
    counts: Counter[str] = Counter()
    for _ in range(draws):
        tools = sets.sample(rng, 6)
        (category,) = {tool.category for tool in tools}
        counts[category] += 1
        assert len(tools) <= min(6, sum(SEVERAL[category].values()))
    expected = draws / len(SEVERAL)
    # 16.3 is exceeded once in 1,000 times by chance.
    assert sum((counts[c] - expected) ** 2 / expected for c in SEVERAL) < 16.3


@pytest.mark.parametrize("one_in", [2, 6, 60, 10**9])
@pytest.mark.parametrize("with_reserved", [False, True])
def test_toolsets_keep_the_split(one_in: int, with_reserved: bool) -> None:
    """Training never sees a reserved pair, evaluation always does."""
    repository = make_toolsets(SEVERAL)
    reserved = set(reserved_pairs([tool.name for tool in repository.tools], one_in=one_in))
    sets = ToolSets(repository, one_in=one_in, with_reserved=with_reserved, sampling="toolsets")
    rng = random.Random(one_in)
    for count in (1, 2, 5, 10) * 10:
        tools = sets.sample(rng, count)
        pairs = set(combinations(sorted(tool.name for tool in tools), 2))
        assert with_reserved == bool(pairs & reserved)
        within = any(len({name.partition("_")[0] for name in pair}) == 1 for pair in reserved)
        assert len({tool.category for tool in tools}) == 1 or (with_reserved and not within)


def test_toolsets_are_an_option_of_the_world() -> None:
    """The key reaches the draw: linked tools may cross categories, those of toolsets never do."""
    counts = {}
    names: tuple[Literal["linked", "toolsets"], ...] = ("linked", "toolsets")
    for sampling in names:
        world = Simulated(sampling=sampling)
        sets = world.source(seed=0).tool_sets
        drawn = [sets.sample(random.Random(seed), 25) for seed in range(20)]
        counts[sampling] = max(len({tool.category for tool in tools}) for tools in drawn)
    assert counts["toolsets"] == 1 < counts["linked"]
