"""Finding values in texts: the common rule for leaks and for the origin of arguments.

Answers are found in the same way as by the reward, see `matching.tells`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trustee.environments.executable.matching import tells


def find_leak(texts: Mapping[str, str], answers: Sequence[str]) -> str | None:
    """Return which text contains which answer, in words; None if none does."""
    found = (
        f"{where} contains the answer {answer!r}"
        for where, text in texts.items()
        for answer in answers
        if tells(text, answer)
    )
    return next(found, None)
