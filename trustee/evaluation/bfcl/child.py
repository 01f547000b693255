"""The benchmark's package, in a process of its own, which answers one line of JSON with another.

It evaluates calls as Python text, keeps the tools of an episode in module variables under a name,
writes folders when it is imported, and would import the client of every vendor for one table. All
of that stays here. What is evaluated is made here from names of the task's own tools, names of
arguments, and literals.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import msgspec

from trustee.decoding import decode_json
from trustee.errors import InputError

MISSING = "missing"
"""Key of an answer that says which package is not installed."""
PLAIN = "policy"
"""Name of the model for checkers that keep nothing."""
Calls = Sequence[tuple[str, Mapping[str, Any]]]


def load_benchmark() -> None:
    """Import what is needed of the benchmark, with a stub in place of the vendors' clients.

    Raises:
        ImportError: if a package is missing.
    """
    # The checker asks this table alone, whether names of functions have underscores for dots.
    stub: Any = types.ModuleType("bfcl_eval.constants.model_config")
    stub.MODEL_CONFIG_MAPPING = defaultdict(lambda: types.SimpleNamespace(underscore_to_dot=True))
    sys.modules[stub.__name__] = stub
    for name in ("utils", "eval_checker.ast_eval.ast_checker"):
        importlib.import_module(f"bfcl_eval.{name}")


@cache
def read_category(category: str) -> dict[str, tuple[dict[str, Any], Any]]:
    """Return each entry of a category with its ground truth, by id."""
    data: Any = importlib.import_module("bfcl_eval.utils")
    entries = data.load_dataset_entry(
        category, include_prereq=False, include_language_specific_hint=False
    )
    truths: dict[str, Any] = {}
    if "relevance" not in category:
        truths = {one["id"]: one["ground_truth"] for one in data.load_ground_truth_entry(category)}
    return {one["id"]: (one, truths.get(one["id"])) for one in entries}


def list_entries(category: str) -> list[dict[str, Any]]:
    """Return what is public of each entry, and its ground truth for the oracle."""
    return [{**entry, "truth": truth} for entry, truth in read_category(category).values()]


def check_calls(category: str, id: str, calls: Calls) -> bool:
    """Return whether the calls of a single message are right."""
    entry, truth = read_category(category)[id]
    if "irrelevance" in category:
        return not calls
    if "relevance" in category:
        return bool(calls)
    checker: Any = importlib.import_module("bfcl_eval.eval_checker.ast_eval.ast_checker")
    language = importlib.import_module("bfcl_eval.constants.enums").Language.PYTHON
    answer = [{name: dict(arguments)} for name, arguments in calls]
    verdict = checker.ast_checker(entry["function"], answer, truth, language, category, PLAIN)
    return bool(verdict["valid"])


def execute(category: str, id: str, calls: Calls, *, episode: str) -> list[str]:
    """Return what the tools of an episode answer to the calls of one message."""
    entry, _ = read_category(category)[id]
    tools: Any = importlib.import_module("bfcl_eval.eval_checker.multi_turn_eval.multi_turn_utils")
    results, _ = tools.execute_multi_turn_func_call(
        [write_call(name, arguments) for name, arguments in calls],
        entry["initial_config"],
        entry["involved_classes"],
        episode,
        id,
        long_context="long_context" in category,
    )
    return [str(result) for result in results]


def check_turns(category: str, id: str, turns: Sequence[Sequence[Calls]], *, episode: str) -> bool:
    """Return whether an episode of several turns is right: its calls, by turn and message."""
    entry, truth = read_category(category)[id]
    if len(turns) != len(truth):
        return False
    written = [
        [[write_call(name, arguments) for name, arguments in message] for message in turn]
        for turn in turns
    ]
    return check_written(category, entry, truth, written, episode=episode)


def check_oracle(category: str, id: str, *, episode: str) -> bool:
    """Return whether the benchmark's own calls are right."""
    entry, truth = read_category(category)[id]
    return check_written(category, entry, truth, [[turn] for turn in truth], episode=episode)


def check_written(
    category: str, entry: Any, truth: Any, written: list[list[list[str]]], *, episode: str
) -> bool:
    """Return whether calls that are written as Python lead where the ground truth leads."""
    checker: Any = importlib.import_module(
        "bfcl_eval.eval_checker.multi_turn_eval.multi_turn_checker"
    )
    verdict = checker.multi_turn_checker(written, truth, entry, category, episode)
    return bool(verdict["valid"])


def write_call(name: str, arguments: Mapping[str, Any]) -> str:
    """Write a call as Python.

    Raises:
        InputError: if a name is not one, and so could be a program.
    """
    for word in (name, *arguments):
        if not word.isidentifier():
            raise InputError(f"{word!r} is not a name")
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


ACTS = {
    "list_entries": list_entries,
    "check_calls": check_calls,
    "execute": execute,
    "check_turns": check_turns,
    "check_oracle": check_oracle,
}


def main() -> None:
    """Answer each line of standard input, to its end."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    # The benchmark's tools print.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        load_benchmark()
    except ImportError as error:
        answers.write(msgspec.json.encode({MISSING: error.name or str(error)}) + b"\n")
        return
    answers.write(b"{}\n")
    for line in sys.stdin.buffer:
        question = decode_json(line, dict[str, Any], error=InputError)
        act: Any = ACTS[question.pop("act")]
        answers.write(msgspec.json.encode({"answer": act(**question)}, enc_hook=str) + b"\n")


if __name__ == "__main__":
    main()
