"""Making known tools unknown: what the policy sees of them is no longer what they are.

A `Transform` is a setting; drawn for one task it gives a `Perturbation`, which is plain data: the
tools as they are shown and, for each, the face it wears over the tool beneath. A chain of
perturbations, the innermost first, maps calls inwards and answers outwards. Nothing here has an
effect, and a chain under which a task could not be solved is found by `prove_solvable` before
anybody plays it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trustee.tools.arguments import check_arguments, shorten
from trustee.tools.values import normalise
from trustee.types import ExpectedCall, Record, Tool, ToolCall


class Recoding(Record, frozen=True):
    """How the values of one argument are written differently."""

    codes: dict[str, Any] = {}
    """The value beneath by its shown code; empty where values are numbers."""
    factor: int = 1
    """A shown number is the number beneath times this."""

    def to_real(self, name: str, value: Any) -> tuple[Any, str]:
        """Give the value beneath a shown one, or a sentence against it."""
        if self.codes:
            if isinstance(value, str) and value in self.codes:
                return self.codes[value], ""
            allowed = ", ".join(json.dumps(code, ensure_ascii=False) for code in self.codes)
            return None, f'"{name}" must be one of {allowed}, got {shorten(value)}'
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value, ""
        if value % self.factor:
            return None, f'"{name}" must be a multiple of {self.factor}, got {shorten(value)}'
        return value // self.factor if isinstance(value, int) else value / self.factor, ""

    def to_shown(self, value: Any) -> Any:
        """Give the shown value of one beneath; one without a code stays as it is."""
        if self.codes:
            same = (c for c, inner in self.codes.items() if normalise(inner) == normalise(value))
            return next(same, value)
        return value * self.factor if isinstance(value, int | float) else value


class ToolAlias(Record, frozen=True):
    """What one shown tool stands for."""

    inner: str
    """Name of the tool beneath."""
    parameters: dict[str, str] = {}
    """Name beneath by shown name, where they differ."""
    values: dict[str, Recoding] = {}
    """By the parameter's name beneath."""
    answer: str = ""
    """Of a dead tool: what every call brings; none reaches the tool beneath."""


class Perturbation(Record, frozen=True):
    """One transform as it was drawn for one task."""

    kind: str
    tools: tuple[Tool, ...]
    """As shown."""
    aliases: dict[str, ToolAlias]
    """By shown name; each shown tool has one."""

    def to_real(self, call: ToolCall) -> ToolCall | str:
        """Give the call beneath a shown one, or the answer that it gets without going deeper."""
        alias = self.aliases[call.name]
        if alias.answer:
            return alias.answer
        arguments: dict[str, Any] = {}
        for name, value in call.arguments.items():
            inner = alias.parameters.get(name, name)
            if inner == name and name in alias.parameters.values():
                return json.dumps({"error": f'{call.name} does not take "{name}".'})
            if inner in alias.values:
                value, refusal = alias.values[inner].to_real(name, value)
                if refusal:
                    return json.dumps({"error": f"{call.name}: {refusal}."}, ensure_ascii=False)
            arguments[inner] = value
        return ToolCall(id=call.id, name=alias.inner, arguments=arguments)

    def show(self, name: str, text: str) -> str:
        """Give what the tool shown as `name` answers: names in an error become shown ones."""
        try:
            result = json.loads(text)
        except ValueError:
            return self._rename(name, text)
        if not isinstance(result, dict) or not isinstance(result.get("error"), str):
            return text
        return json.dumps(result | {"error": self._rename(name, result["error"])})

    def to_shown(self, call: ExpectedCall) -> ExpectedCall | None:
        """Give the shown call that reaches one beneath; None where no living tool does."""
        living = (name for name, f in self.aliases.items() if f.inner == call.name and not f.answer)
        name = next(living, None)
        if name is None:
            return None
        alias = self.aliases[name]
        shown = {inner: outer for outer, inner in alias.parameters.items()}
        return ExpectedCall(
            name=name,
            arguments={
                shown.get(key, key): alias.values[key].to_shown(value)
                if key in alias.values
                else value
                for key, value in call.arguments.items()
            },
        )

    def _rename(self, name: str, text: str) -> str:
        """Put shown names for those beneath: of tools anywhere, of parameters in quotes."""
        alias = self.aliases[name]
        tools = {f.inner: n for n, f in reversed(self.aliases.items()) if not f.answer}
        tools[alias.inner] = name
        parameters = {inner: outer for outer, inner in alias.parameters.items()}
        text = _replace(text, tools, mark=r"(?<!\w){}(?!\w)")
        return _replace(text, parameters, mark=r"(?<=[\"']){}(?=[\"'.\[])")


def _replace(text: str, names: Mapping[str, str], *, mark: str) -> str:
    """Replace all names in one pass, so that none is replaced twice."""
    changed = {old: new for old, new in names.items() if old != new}
    if not changed:
        return text
    longest_first = sorted(changed, key=len, reverse=True)
    pattern = mark.format(f"({'|'.join(map(re.escape, longest_first))})")
    return re.sub(pattern, lambda found: changed[found.group(1)], text)


def shown_tools(tools: Sequence[Tool], chain: Sequence[Perturbation]) -> tuple[Tool, ...]:
    """Give what the policy sees of tools under a chain of perturbations."""
    return chain[-1].tools if chain else tuple(tools)


def to_real_call(chain: Sequence[Perturbation], call: ToolCall) -> ToolCall | str:
    """Give the innermost call of a shown one, or the shown answer if a perturbation answers."""
    names: list[str] = []
    for depth in range(len(chain) - 1, -1, -1):
        names.append(call.name)
        beneath = chain[depth].to_real(call)
        if isinstance(beneath, str):
            outer = zip(chain[depth + 1 :], reversed(names[:-1]), strict=True)
            for perturbation, name in outer:
                beneath = perturbation.show(name, beneath)
            return beneath
        call = beneath
    return call


def show_answer(chain: Sequence[Perturbation], call: ToolCall, text: str) -> str:
    """Give the shown form of what the innermost tool answered to a shown call."""
    names: list[str] = []
    name = call.name
    for perturbation in reversed(chain):
        names.append(name)
        name = perturbation.aliases[name].inner
    for perturbation, shown in zip(chain, reversed(names), strict=True):
        text = perturbation.show(shown, text)
    return text


def to_shown_call(chain: Sequence[Perturbation], call: ExpectedCall) -> ExpectedCall | None:
    """Give the shown call that reaches an innermost one; None where no living tool does."""
    shown_call: ExpectedCall | None = call
    for perturbation in chain:
        shown_call = perturbation.to_shown(shown_call) if shown_call else None
    return shown_call


def prove_solvable(
    tools: Sequence[Tool], chain: Sequence[Perturbation], reference: Sequence[ExpectedCall]
) -> str | None:
    """Replay a task's reference solution through a chain; give what is wrong, None where nothing.

    Each reference call must have a shown call that arrives as the same call, by a living tool whose
    shown schema takes what the true one takes, or hides it on purpose.
    """
    true = {tool.name: tool for tool in tools}
    shown = {tool.name: tool for tool in shown_tools(tools, chain)}
    if len(shown) != len(shown_tools(tools, chain)):
        return "two tools are shown under one name"
    for call in reference:
        shown_call = to_shown_call(chain, call)
        if shown_call is None:
            return f"no working tool is left for {call.name}"
        arrived = to_real_call(
            chain, ToolCall(id="", name=shown_call.name, arguments=shown_call.arguments)
        )
        if isinstance(arrived, str):
            return f"{call.name} is answered by a perturbation: {arrived}"
        if (arrived.name, normalise(arrived.arguments)) != (call.name, normalise(call.arguments)):
            return f"{call.name} arrives as {arrived.name} with {shorten(arrived.arguments)}"
        documented = shown[shown_call.name].parameters.get("properties", {})
        rest = {name: value for name, value in shown_call.arguments.items() if name in documented}
        error = check_arguments(shown[shown_call.name], rest)
        if error and check_arguments(true[call.name], call.arguments) is None:
            return f"the shown tool refuses the reference solution: {error}"
    return None


def tell_truths(
    shown: Sequence[Tool], inner: Sequence[Tool], chain: Sequence[Perturbation]
) -> Iterator[str]:
    """Yield for each shown tool what it really is, where that differs."""
    known = {tool.name: tool for tool in inner}
    for tool in shown:
        name, dead = tool.name, False
        for perturbation in reversed(chain):
            alias = perturbation.aliases[name]
            name, dead = alias.inner, dead or bool(alias.answer)
        if dead:
            yield f"truth: {tool.name} does not work"
        elif tool != known[name]:
            yield f"truth: {tool.name} really is {known[name].signature}"
