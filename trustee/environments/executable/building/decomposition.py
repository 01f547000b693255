"""Stage 1: a question is decomposed into parts that depend on each other as the scenario requires.

The graph is checked in code: a part's question refers with `#n` to exactly the parts it needs, all
of them earlier, and the numbers of roots and edges fit the scenario.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from trustee.environments.executable.blueprint import Scenario
from trustee.environments.executable.building.candidate import Decomposition, Flaw, Part
from trustee.environments.executable.building.values import find_leak
from trustee.types import Record

REFERENCE = re.compile(r"#(\d+)")
EMPTY_ANSWERS = frozenset(
    ("yes", "no", "true", "false", "none", "unknown", "nothing", "n/a", "not available", "many")
)
MOST_WORDS = 7
"""Maximum number of words of a part's answer; longer ones are rarely repeated word for word."""


class ScenarioShape(Record, frozen=True):
    """How the parts of a scenario depend on each other."""

    least: int
    """Minimum number of parts."""
    most: int
    """Maximum number of parts."""
    rule: str
    """The dependencies, in words for the builder."""
    asked: str
    """What the question asks for."""


SHAPES: dict[Scenario, ScenarioShape] = {
    "single_hop": ScenarioShape(
        least=1,
        most=1,
        rule="there is one part, and its needs are [].",
        asked="that one fact",
    ),
    "parallel_single_hop": ScenarioShape(
        least=2,
        most=4,
        rule="the parts are independent, so each could be asked first. All needs are [].",
        asked="all of these facts",
    ),
    "multi_hop": ScenarioShape(
        least=2,
        most=5,
        rule="the parts form a chain: part 1 needs nothing, part 2 needs part 1, part 3 needs part "
        "2, and so on. The question states what the first part starts from and asks for the last "
        "answer.",
        asked="only the answer of the last part",
    ),
    "parallel_multi_hop": ScenarioShape(
        least=3,
        most=6,
        rule="at least two parts need nothing, and at least one other part needs an earlier part: "
        "either several separate chains, or branches whose answers a later part combines.",
        asked="the answers of the parts that no other part uses",
    ),
}


def draw_count(scenario: Scenario, rng: random.Random) -> int:
    """Draw the number of parts; small numbers are more likely."""
    shape = SHAPES[scenario]
    return min(rng.randint(shape.least, shape.most) for _ in range(2))


def check_decomposition(
    given: Decomposition, *, scenario: Scenario, count: int | None = None
) -> Flaw | None:
    """Return the first flaw of a decomposition: its references, its shape or its answers."""
    if not given.question.strip():
        return Flaw(kind="empty", text="the question is empty")
    if "#" in given.question:
        return Flaw(kind="reference", text="the question itself refers to a part with #")
    return (
        check_count(given, scenario=scenario, count=count)
        or check_references(given.parts)
        or check_shape(given.parts, scenario=scenario)
        or check_answers(given)
    )


def check_count(given: Decomposition, *, scenario: Scenario, count: int | None) -> Flaw | None:
    """Return a flaw if there are more or fewer parts than requested."""
    shape, found = SHAPES[scenario], len(given.parts)
    least, most = (shape.least, shape.most) if count is None else (count, count)
    if least <= found <= most:
        return None
    wanted = f"{least}" if least == most else f"{least} to {most}"
    return Flaw(kind="count", text=f"{found} parts where {scenario} asks for {wanted}")


def check_references(parts: Sequence[Part]) -> Flaw | None:
    """Return a flaw if a part needs later parts, or others than its question refers to."""
    for number, part in enumerate(parts, 1):
        if not part.question.strip():
            return Flaw(kind="empty", text=f"the question of part {number} is empty")
        wrong = [need for need in part.needs if not 1 <= need < number]
        if wrong or len(set(part.needs)) < len(part.needs):
            return Flaw(
                kind="order",
                text=f"part {number} needs {list(part.needs)}; allowed are earlier ones, each once",
            )
        used = {int(reference) for reference in REFERENCE.findall(part.question)}
        if used != set(part.needs):
            return Flaw(
                kind="reference",
                text=f"part {number} needs {sorted(part.needs)} but its question uses "
                f"{sorted(used)}",
            )
    return None


def check_shape(parts: Sequence[Part], *, scenario: Scenario) -> Flaw | None:
    """Return a flaw if the graph of the parts does not fit the scenario."""
    edges = sum(len(part.needs) for part in parts)
    roots = sum(not part.needs for part in parts)
    match scenario:
        case "single_hop" | "parallel_single_hop":
            fits = edges == 0
        case "multi_hop":
            fits = all(part.needs == (number,) for number, part in enumerate(parts[1:], 1))
        case "parallel_multi_hop":
            fits = edges > 0 and roots > 1
    if fits:
        return None
    needs = [list(part.needs) for part in parts]
    return Flaw(kind="shape", text=f"the needs {needs} are not those of {scenario}")


def check_answers(given: Decomposition) -> Flaw | None:
    """Return a flaw if an answer is empty, too long, within another one or in a question."""
    answers = [part.answer for part in given.parts]
    for answer in answers:
        bare = answer.casefold().strip(" .,;:!?")
        if not any(map(str.isalnum, bare)) or bare in EMPTY_ANSWERS or "#" in bare:
            return Flaw(kind="empty_answer", text=f"the answer {answer!r} says nothing to look up")
        if len(bare.split()) > MOST_WORDS:
            return Flaw(kind="long_answer", text=f"the answer {answer!r} is too long to be matched")
    for index, answer in enumerate(answers):
        others = {
            f"the answer {other!r}": other for other in answers[:index] + answers[index + 1 :]
        }
        leak = find_leak(others, [answer])
        if leak is not None:
            return Flaw(kind="same_answer", text=leak)
    texts = {"the question": given.question} | {
        f"the question of part {number}": REFERENCE.sub("", part.question)
        for number, part in enumerate(given.parts, 1)
    }
    leak = find_leak(texts, answers)
    return None if leak is None else Flaw(kind="leak", text=leak)
