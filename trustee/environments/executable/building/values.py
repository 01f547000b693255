"""Finding values in texts: the common rule for leaks and for the origin of arguments.

Answers are found in the same way as by the reward, see `rewards.tells`; values of arguments may
also be written in the words that people use for numbers and dates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trustee.environments.executable.rewards import tells
from trustee.environments.simulated.roles import DATE, MONTHS, NUMBER_WORDS

WORDS_OF = {number: word for word, number in NUMBER_WORDS.items()}


def says(text: str, value: object) -> bool:
    """Return whether a text contains a value, possibly in words."""
    forms = [str(value), *spoken_dates(str(value))]
    if value in WORDS_OF and not isinstance(value, bool):
        forms.append(WORDS_OF[int(str(value).split(".")[0])])
    return any(tells(text, form) for form in forms)


def spoken_dates(value: str) -> list[str]:
    """Return the usual ways to write an ISO date; none for other values."""
    date = DATE.fullmatch(value)
    if date is None:
        return []
    year, day = date[1], int(date[3])
    month = MONTHS[int(date[2]) - 1]
    return [
        form
        for name in (month, month[:3])
        for form in (f"{day} {name} {year}", f"{name} {day} {year}", f"{day}th of {name} {year}")
    ]


def find_leak(texts: Mapping[str, str], answers: Sequence[str]) -> str | None:
    """Return which text contains which answer, in words; None if none does."""
    found = (
        f"{where} contains the answer {answer!r}"
        for where, text in texts.items()
        for answer in answers
        if tells(text, answer)
    )
    return next(found, None)
