"""Whether a demonstration agrees with itself: calls, their results and the tools on offer.

| what is found | what follows |
|---|---|
| results in another order than their calls | put in the calls' order, and said |
| calls without ids, or with equal ones | numbered; results are matched by name or order |
| null for an argument that may be missing and not null | left out, and said |
| a result for no call, two for one, none for one | the row is refused |
| an unknown tool, or arguments against the schema, that no error answers | the row is refused |
| a message of the assistant that says nothing | the row is refused |

A wrong call that is answered by an error stays: from the answer one learns to correct it. What is
only shown is not imitated, so its calls may be wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from trustee.errors import InputError
from trustee.sft.demonstrations import Demonstration
from trustee.tools.arguments import check_arguments
from trustee.tools.values import tells_error
from trustee.types import Call, Message, Tool, ToolCall


def mend_demonstration(given: Demonstration) -> tuple[Demonstration, list[str]]:
    """Return a demonstration that agrees with itself, and what was changed in it.

    Raises:
        InputError: naming the message and the contradiction.
    """
    messages: list[Message] = []
    changes: list[str] = []
    places: list[int] = []
    number = at = 0
    while at < len(given.messages):
        message = given.messages[at]
        if message.role == "tool":
            raise InputError(f"message {at} is a result, and no call stands before it")
        if message.role != "assistant":
            messages.append(message)
            at += 1
            continue
        end = _end_of_results(given.messages, at + 1)
        where = f"assistant message {number}"
        said, results, linked = link_results(
            message, given.messages[at + 1 : end], last=end == len(given.messages), where=where
        )
        if at in given.shown_only:
            places.append(len(messages))
        else:
            said, mended = mend_calls(said, results, given.tools, where=where)
            linked += mended
        messages += [said, *results]
        changes += linked
        number += 1
        at = end
    replace = {"messages": tuple(messages), "shown_only": tuple(places)}
    return msgspec.structs.replace(given, **replace), changes


def link_results(
    message: Message, results: Sequence[Message], *, last: bool, where: str
) -> tuple[Message, list[Message], list[str]]:
    """Return a message with unique call ids, its results in the calls' order, and the changes.

    Args:
        message: what the assistant said.
        results: the results that follow it.
        last: whether nothing else follows, so that results may be missing.
        where: the name of the message in errors.

    Raises:
        InputError: if a result belongs to no call, or a call has not one result.
    """
    calls = number_calls(message.calls)
    given = [call.id for call in message.calls]
    found: dict[int, Message] = {}
    # Results that name their call go first, so that none without a name takes its place.
    for result in sorted(results, key=lambda one: one.call_id not in given or not one.call_id):
        place = _place_of(result, message.calls, found)
        if place is None:
            raise InputError(f"{where}: {_say_unmatched(result, message.calls)}")
        found[place] = result
    if len(found) < len(calls) and not last:
        missing = next(call for at, call in enumerate(calls) if at not in found)
        raise InputError(f"{where}: its call {_name(missing)} has no result")
    ordered = [found[place] for place in sorted(found)]
    changes = []
    if [id(one) for one in ordered] != [id(one) for one in results]:
        changes.append(f"{where}: its results were put in the order of its calls")
    if len(set(filter(None, given))) < len([one for one in given if one]):
        changes.append(f"{where}: its calls share an id and were numbered")
    linked = [
        msgspec.structs.replace(found[place], call_id=calls[place].id) for place in sorted(found)
    ]
    return msgspec.structs.replace(message, calls=calls), linked, changes


def number_calls(calls: Sequence[Call]) -> tuple[Call, ...]:
    """Return calls of which each has an id of its own; an id that is unique stays."""
    ids = [call.id for call in calls]
    fresh = (name for number in range(2 * len(ids) + 1) if (name := f"call_{number}") not in ids)
    return tuple(
        call
        if call.id and ids.count(call.id) == 1
        else msgspec.structs.replace(call, id=next(fresh))
        for call in calls
    )


def mend_calls(
    message: Message, results: Sequence[Message], tools: Sequence[Tool], *, where: str
) -> tuple[Message, list[str]]:
    """Return a message whose calls fit their tools or are answered by an error, and the changes.

    Raises:
        InputError: if a call does not fit, or the message says nothing.
    """
    if not (message.content.strip() or message.thinking.strip() or message.calls):
        raise InputError(f"{where} says nothing and calls no tool")
    answers = {result.call_id: result.content for result in results}
    by_name = {tool.name: tool for tool in tools}
    calls: list[Call] = []
    changes: list[str] = []
    for call in message.calls:
        if isinstance(call, ToolCall) and not tells_error(answers.get(call.id, "")):
            mended = mend_call(call, by_name, where=where)
            if mended is not call:
                changes.append(f"{where}: null arguments of {call.name} were left out")
            call = mended
        calls.append(call)
    return msgspec.structs.replace(message, calls=tuple(calls)), changes


def mend_call(call: ToolCall, tools: dict[str, Tool], *, where: str) -> ToolCall:
    """Return a call that fits its tool, without the nulls that tables write for missing values.

    Raises:
        InputError: if there is no such tool, or the arguments do not fit.
    """
    tool = tools.get(call.name)
    if tool is None:
        offered = ", ".join(tools) or "none"
        raise InputError(
            f"{where} calls {call.name!r}, which is not among the tools of the row ({offered})"
        )
    problem = check_arguments(tool, call.arguments)
    if problem is None:
        return call
    given = {name: value for name, value in call.arguments.items() if value is not None}
    if len(given) < len(call.arguments) and check_arguments(tool, given) is None:
        return msgspec.structs.replace(call, arguments=given)
    raise InputError(f"{where}: {problem.removesuffix('.')}, and no error answers the call")


def _end_of_results(messages: Sequence[Message], start: int) -> int:
    """Return the place after the results that begin at `start`."""
    end = start
    while end < len(messages) and messages[end].role == "tool":
        end += 1
    return end


def _place_of(result: Message, calls: Sequence[Call], found: dict[int, Message]) -> int | None:
    """Return the place of the call that a result answers: by id, by name, else the next one."""
    for key in ("id", "name"):
        for place, call in enumerate(calls):
            if place not in found and result.call_id and getattr(call, key, "") == result.call_id:
                return place
    free = (place for place in range(len(calls)) if place not in found)
    return None if result.call_id else next(free, None)


def _say_unmatched(result: Message, calls: Sequence[Call]) -> str:
    if not calls:
        return "results follow it, and it has no call"
    known = ", ".join(_name(call) for call in calls)
    if not result.call_id:
        return f"it has more results than its calls {known}"
    if any(result.call_id == call.id for call in calls):
        return f"its call {result.call_id} has two results"
    return f"a result is for {result.call_id!r}; its calls are {known}"


def _name(call: Call) -> str:
    name = call.name if isinstance(call, ToolCall) else "that could not be read"
    return f"{call.id} ({name})" if call.id else name
