"""Requests and answers of a scripted engine: from a script, or improvised valid calls."""

from __future__ import annotations

import importlib
import random
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from trustee.decoding import decode_json
from trustee.engine.protocol import Sampling
from trustee.errors import InputError
from trustee.tools.alternatives import alternatives, kinds_of
from trustee.tools.schema import (
    ANYTHING,
    Schema,
    as_object,
    item_of,
    members,
    properties_of,
    required_of,
)
from trustee.tools.values import render_json
from trustee.types import Adapter, Record

LONGEST_LIST = 2
"""Maximum length of an improvised list, unless the schema asks for more items."""
MOST_NESTED = 8
"""Levels of objects with optional parts, because a schema may lead to itself."""
OFFERED = re.compile(r'^(\{"type": "function".*\})(?:<\|im_end\|>)?$', re.MULTILINE)
"""Pattern of the tools in a prompt, one per line, as `ByteTokenizer` writes them."""
WORDS = ("blue", "river", "seven", "garden", "Amara", "Lima", "note", "green")


class Request(Record, frozen=True):
    """The request that a script receives."""

    prompt: str
    """Text of the prompt; where the model is to think, it ends in `<think>`."""
    adapter: Adapter | None
    """Policy version; None for a role of the simulator."""
    sampling: Sampling
    request_id: str


Script = Callable[[Request], str | Awaitable[str]]


_found: set[str] = set()
"""Scripts that a config of this process has named."""


def was_found(name: str) -> bool:
    """Whether a config of this process has named a script; a stored record alone names none."""
    return name in _found


def find_script(name: str) -> Any:
    """Import the object that `engine.script` names, from the Python path.

    Raises:
        InputError: if the name is malformed, or the module or the object does not exist.
    """
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise InputError(f"engine.script {name!r}: give package.module:name, such as dice:play")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"engine.script {name!r}: {error}; check PYTHONPATH") from error
    if not hasattr(found, attribute):
        raise InputError(f"engine.script {name!r}: {module} has no {attribute}")
    _found.add(name)
    return getattr(found, attribute)


def improvise(request: Request) -> str:
    """Return a random value that fits the schema, or without a schema a call or a word.

    The policy makes random calls that fit the tools' schemas, with words of the last user message,
    and stops calling after a few replies.
    So an environment can be tried with the messages of a real episode, without a model.
    """
    rng = random.Random(f"{request.sampling.seed} {request.request_id}")
    thought = "</think>" if request.prompt.endswith("<think>") else ""
    if request.sampling.stop_ids:
        return thought
    words: list[str] = re.findall(
        r"\w+", request.prompt.rpartition("<|im_start|>user\n")[2].split("<|")[0]
    )
    if request.sampling.schema is not None:
        return render_json(draw_value(decode_json(request.sampling.schema, error=InputError), rng))
    offered = OFFERED.findall(request.prompt)
    if not offered or rng.random() < 0.25:
        return f"{thought}{rng.choice(words or WORDS)}"
    tool = decode_json(rng.choice(offered), error=InputError)["function"]
    call = {"name": tool["name"], "arguments": draw_value(tool["parameters"], rng, words)}
    return f"{thought}<tool_call>{render_json(call)}</tool_call>"


def draw_value(
    schema: object,
    rng: random.Random,
    words: Sequence[str] = (),
    *,
    root: Schema | None = None,
    nested: int = 0,
) -> Any:
    """Return a random value that fits the common keywords of a JSON Schema; strings use `words`."""
    if nested > 2 * MOST_NESTED:
        # What requires itself has no end, so nothing of it fits.
        return {}
    root = as_object(schema) if root is None else root
    found = alternatives(schema, root) or [as_object(schema)]
    plain = found[0] if len(found) == 1 else rng.choice(found)
    if "const" in plain:
        return plain["const"]
    if "enum" in plain:
        return rng.choice(plain["enum"])
    kinds = kinds_of(plain, root) or ["object"]
    deeper: dict[str, Any] = {"root": root, "nested": nested + 1}
    match kinds[0] if len(kinds) == 1 else rng.choice(kinds):
        case "object":
            needed = required_of(plain)
            named = properties_of(plain)
            named |= {name: ANYTHING for name in needed if name not in named}
            return {
                name: draw_value(inner, rng, words, **deeper)
                for name, inner in named.items()
                if name in needed or (nested < MOST_NESTED and rng.random() < 0.5)
            }
        case "array":
            first = len(members(plain, "prefixItems"))
            least = max(first, plain.get("minItems", 0))
            count = rng.randint(least, plain.get("maxItems", max(least, LONGEST_LIST)))
            usual = {} if first or "items" in plain else {"items": {"type": "string"}}
            holder = {**plain, **usual}
            return [draw_value(item_of(holder, n), rng, words, **deeper) for n in range(count)]
        case "integer" | "number":
            least = plain.get("minimum", 1)
            return rng.randint(int(least), int(plain.get("maximum", least + 9)))
        case "boolean":
            return rng.random() < 0.5
        case "null":
            return None
        case _:
            return rng.choice(words or WORDS)
