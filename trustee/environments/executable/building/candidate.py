"""What a candidate is made of, and how it fails.

The one idea: every stage gives a typed answer, and whatever speaks against it is a `Flaw` with a
kind that is counted and a text that is read. The types are their own grammar: `grammar_of` makes of
them what the engine samples under.
Source: FTRL, arXiv 2508.08791, section 3; stage names are the paper's, the calls are ours.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from trustee.errors import TrusteeError
from trustee.types import Record


class BuildStage(StrEnum):
    """Where a candidate is, in order."""

    DECOMPOSITION = "decomposition"
    DOCUMENTS = "documents"
    INTEGRATION = "integration"
    CALLS = "calls"
    SCALING = "scaling"
    DEPLOYMENT = "deployment"
    VERIFICATION = "verification"


class Flaw(Record, frozen=True):
    """What speaks against a candidate."""

    kind: str
    """One or two words with underscores, counted in the report."""
    text: str
    """One sentence, shown to readers and, where a function is asked for again, to the builder."""


class Rejected(TrusteeError):
    """A candidate ends here; the next one begins."""

    def __init__(self, stage: BuildStage, flaw: Flaw) -> None:
        super().__init__(f"{stage}: {flaw.text}")
        self.stage = stage
        self.flaw = flaw


class Part(Record, frozen=True):
    """A sub-question with its answer."""

    question: Annotated[str, Meta(max_length=300)]
    """Where it uses the answer of part 1, it says `#1`."""
    answer: Annotated[str, Meta(max_length=80)]
    needs: Annotated[tuple[int, ...], Meta(max_length=5)]
    """Parts whose answers its question uses, counted from 1."""


class Decomposition(Record, frozen=True):
    """The answer of the first stage."""

    question: Annotated[str, Meta(max_length=600)]
    parts: Annotated[tuple[Part, ...], Meta(max_length=6)]

    @property
    def answer(self) -> str:
        """The answers that no other part uses: what the question asks for, in order."""
        used = {need for part in self.parts for need in part.needs}
        return ", ".join(
            part.answer for number, part in enumerate(self.parts, 1) if number not in used
        )

    def ask(self, number: int) -> str:
        """Give a part's question with the answers it uses put in; parts count from 1."""
        part = self.parts[number - 1]
        text = part.question
        for need in sorted(part.needs, reverse=True):
            text = text.replace(f"#{need}", self.parts[need - 1].answer)
        return text

    def known(self, number: int) -> str:
        """Give all that may be known before a part is asked: the question and answers it needs."""
        needs = self.parts[number - 1].needs
        return " / ".join([self.question, *(self.parts[need - 1].answer for need in needs)])

    def ancestors(self, number: int) -> frozenset[int]:
        """Give the parts that a part needs, through others too."""
        needs = self.parts[number - 1].needs
        return frozenset(needs).union(*(self.ancestors(need) for need in needs))


def grammar_of(kind: Any) -> str:
    """Give the JSON Schema of a type, as the engine takes it."""
    return json.dumps(msgspec.json.schema(kind))
