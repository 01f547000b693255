"""Results that only give back what the call put in: an answer that the policy knew already.

A policy may know an answer, or work it out, and have an honest tool say it: by an argument that
repeats the answer, or one that the tool turns into it. The first is seen from the arguments alone.
For the second the call is run again with one argument changed. An honest lookup then fails, or says
the same of any unknown value. A result that follows the argument was made from it.

A value that the question, an earlier sub-answer or the tool's own document tells needs no such
check, nor does a call of the reference solution: it is not an invention of the policy.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from trustee.environments.executable.matching import (
    WORDS_OF,
    fold,
    read_tokens,
    spoken_dates,
    tells,
)
from trustee.environments.simulated.spoken import NUMBER_WORDS
from trustee.sandbox.calls import CallResult
from trustee.tools.arguments import check_call
from trustee.tools.values import call_key, render_json, tells_error
from trustee.types import ExpectedCall, Message, Tool, ToolCall

MOST_VALUES = 16
"""Maximum number of made-up values of a call, which are changed one at a time; a call with more is
not paid, because the answer might be in the last of them."""
MOST_CHANGES = 4
"""Maximum number of changes of one value; two that the result follows are enough."""
FLAGS = frozenset({"true", "false", "yes", "no", "on", "off"})
"""Answers that a flag can be turned into."""

Run = Callable[[str, dict[str, Any]], Awaitable[CallResult]]
"""Runs a tool once more, with other arguments."""

_LITERAL = re.compile(r"(?<![\w.])(?:0x[0-9a-f]+|0o[0-7]+|0b[01]+|[0-9]+(?:\.[0-9]+)?e[0-9]{1,3})")
_SPLIT_DIGITS = re.compile(r"(?<=[0-9])[_'\u2019\s](?=[0-9])")


def repeats(arguments: Mapping[str, Any], answer: str) -> bool:
    """Whether the values of a call tell an answer, in any order and any usual spelling.

    Parameters' names, true, false and null tell nothing.
    """
    said = [text for value in arguments.values() for text in _spoken(value)]
    if tells(" ".join(said), answer):
        return True
    told = {token.value for text in said for form in spellings(text) for token in read_tokens(form)}
    wanted = {token.value for part in answer.split(", ") for token in read_tokens(part)}
    return bool(wanted) and wanted <= told


def spellings(text: str) -> Iterator[str]:
    """Yield a text as it is, and with what a tool would undo without a thought."""
    yield text
    plain = fold(unquote(text))
    yield plain
    yield plain.replace("_", " ").replace("+", " ")
    yield _SPLIT_DIGITS.sub("", plain)
    yield _LITERAL.sub(lambda found: _read_literal(found.group()), plain)


def _read_literal(text: str) -> str:
    if text[:2] in ("0x", "0o", "0b"):
        # Python refuses to write longer numbers in decimal.
        return str(int(text, 0)) if len(text) < 1000 else text
    mantissa, _, power = text.partition("e")
    return f"{mantissa}e+{power}"


class EchoCheck:
    """Tells whether results of one episode follow what the policy made up."""

    def __init__(
        self, opening: Sequence[Message], tools: Sequence[Tool], gold: Sequence[ExpectedCall]
    ) -> None:
        self.reruns = 0
        """Number of calls that were run again."""
        self._opening = [message.content for message in opening if message.role != "system"]
        self._tools = tuple(tools)
        self._documents = {tool.name: render_json(tool.parameters) for tool in tools}
        self._gold = {call_key(call.name, call.arguments) for call in gold}
        self._earlier: list[tuple[ToolCall, str]] = []
        self._found: list[str] = []

    def keep(self, call: ToolCall, text: str, *, found: str | None) -> None:
        """Remember a call that worked, and the sub-answer that it was paid for."""
        self._earlier.append((call, text))
        if found is not None:
            self._found.append(found)

    async def follows(self, call: ToolCall, text: str, answer: str, *, run: Run) -> bool:
        """Whether the result that tells an answer was made from what the policy made up."""
        if call_key(call.name, call.arguments) in self._gold:
            return False
        given = self._given_words() | _words(self._documents.get(call.name, ""))
        is_flag = _squeeze(answer) in FLAGS
        leaves = list(enumerate(_leaves(call.arguments)))
        made_up = [
            (number, leaf)
            for number, leaf in leaves
            if (is_flag if isinstance(leaf, bool) else not is_given(leaf, given))
        ]
        if not could_hold([leaf for _, leaf in made_up], answer):
            return False
        if len(made_up) > MOST_VALUES:
            return True
        for number, leaf in made_up:
            others = {_rest(text, leaf)} if isinstance(leaf, bool) else set()
            for other in itertools.islice(change(leaf), MOST_CHANGES):
                changed = _with_leaf(call.arguments, number, other)
                if check_call(self._tools, ToolCall(id="", name=call.name, arguments=changed)):
                    continue
                self.reruns += 1
                outcome = await run(call.name, changed)
                said = outcome.text
                if not outcome.ok and outcome.breach:
                    return True
                if not outcome.ok or tells_error(said) or tells(said, answer):
                    continue
                others.add(_rest(said, other))
                if len(others) > 1 or _is_exchanged(answer, leaf, other, said):
                    return True
        return False

    def _given_words(self) -> set[str]:
        """Return the words of the question, of the answers found and of results made from these."""
        given = _words(" ".join((*self._opening, *self._found)))
        for call, text in self._earlier:
            known = given | _words(self._documents.get(call.name, ""))
            if all(is_given(leaf, known) for leaf in _leaves(call.arguments)):
                given |= _words(text)
        return given


def is_given(value: Any, given: set[str]) -> bool:
    """Whether all words and numbers of a value are given, perhaps as people say them; a flag is."""
    if value is None or isinstance(value, bool):
        return True
    forms = [str(value), *spoken_dates(str(value))]
    if value in WORDS_OF:
        forms.append(WORDS_OF[int(value)])
    return any(_words(form) <= given for form in forms)


def could_hold(values: Sequence[Any], answer: str) -> bool:
    """Whether made-up values are long enough to hold an answer."""
    held = sum(len(_squeeze(str(value))) for value in values)
    # Half, because a square or a product is longer than what it is made of.
    return held > 0 and 2 * held >= len(_squeeze(answer))


def change(value: Any) -> Iterator[Any]:
    """Yield other values that look like this one, so that a tool treats them in the same way."""
    match value:
        case bool():
            yield not value
        case int() | float():
            yield from (value + 1, value + 2, value - 1)
        case str():
            texts = dict.fromkeys((*_change_digits(value), *_change_letters(value)))
            yield from (text for text in texts if text != value)


def _change_digits(text: str) -> Iterator[str]:
    places = [place for place, letter in enumerate(text) if letter.isdecimal()]
    for place, step in ((places[-1], 1), (places[0], 2), (places[-1], 2)) if places else ():
        digit = unicodedata.decimal(text[place])
        shifted = chr(ord(text[place]) - digit + (digit + step) % 10)
        yield text[:place] + shifted + text[place + 1 :]


def _change_letters(text: str) -> Iterator[str]:
    numbers = [n for n in re.finditer(r"[a-z]+", text.lower()) if n.group() in NUMBER_WORDS]
    for number, step in ((numbers[-1], 1), (numbers[0], 2)) if numbers else ():
        word = WORDS_OF[(NUMBER_WORDS[number.group()] + step) % len(WORDS_OF)]
        yield text[: number.start()] + word + text[number.end() :]
    places = [place for place, letter in enumerate(text) if letter.isalpha()]
    for place in (places[-1], places[0]) if places else ():
        letter = text[place]
        after = "a" if letter == "z" else "A" if letter == "Z" else chr(ord(letter) + 1)
        yield text[:place] + after + text[place + 1 :]
    for place in range(len(text) - 2, -1, -1):
        if text[place].isalnum() and text[place + 1].isalnum() and text[place] != text[place + 1]:
            yield text[:place] + text[place + 1] + text[place] + text[place + 2 :]
            return


def _rest(text: str, value: Any) -> str:
    """Return the words of a result without a value as a whole, which an excuse may name."""
    words = " ".join(token.value for token in read_tokens(text))
    own = " ".join(token.value for token in read_tokens(str(value)))
    return f" {words} ".replace(f" {own} ", " ") if own else words


def _is_exchanged(answer: str, value: Any, other: Any, said: str) -> bool:
    """Whether a result tells the answer with one part exchanged as it was in the call."""
    part, wanted = fold(str(value)), fold(answer)
    return bool(part) and part in wanted and tells(said, wanted.replace(part, fold(str(other))))


def _words(text: str) -> set[str]:
    return {token.value for token in read_tokens(text) if _squeeze(token.value)}


def _squeeze(text: str) -> str:
    return "".join(letter for letter in fold(text) if letter.isalnum())


def _leaves(value: Any) -> Iterator[Any]:
    """Yield every key and every single value, in the order in which `_with_leaf` counts them."""
    match value:
        case dict():
            for key, inner in value.items():
                yield key
                yield from _leaves(inner)
        case list():
            for inner in value:
                yield from _leaves(inner)
        case _:
            yield value


def _with_leaf(arguments: dict[str, Any], number: int, other: Any) -> dict[str, Any]:
    """Return arguments in which one key or value is another."""
    count = itertools.count()

    def pick(value: Any) -> Any:
        return other if next(count) == number else value

    def build(value: Any) -> Any:
        match value:
            case dict():
                return {pick(key): build(inner) for key, inner in value.items()}
            case list():
                return [build(inner) for inner in value]
            case _:
                return pick(value)

    built = build(arguments)
    assert isinstance(built, dict)
    return built


def _spoken(value: Any) -> list[str]:
    """Return the texts and numbers of an argument; true, false and null are left out."""
    if isinstance(value, Mapping):
        return [text for key, own in value.items() for text in (str(key), *_spoken(own))]
    if isinstance(value, list | tuple):
        return [text for own in value for text in _spoken(own)]
    return [] if value is None or isinstance(value, bool) else [str(value)]
