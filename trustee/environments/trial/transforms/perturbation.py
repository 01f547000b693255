"""Perturbations of tools: showing the policy tools that differ from the real ones.

A `Transform` is a setting. Drawn for one task it yields a `Perturbation`, which is plain data: the
tools as they are shown and, for each, the `ToolAlias` that maps it to a real tool. A chain of
perturbations, innermost first, maps calls inwards (`to_real`) and answers outwards (`show`). This
module has no side effects, and `prove_solvable` finds chains that would make a task unsolvable
before it is played.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trustee.decoding import decode_json
from trustee.tools.arguments import check_arguments, shorten
from trustee.tools.schema import properties_of
from trustee.tools.values import normalise, render_json
from trustee.types import ExpectedCall, Record, Tool, ToolCall


class Recoding(Record, frozen=True):
    """How the values of one argument are written."""

    codes: dict[str, Any] = {}
    """Real value by shown code; empty if the values are numbers."""
    factor: int = 1
    """A shown number is the real number times this factor."""

    def to_real(self, name: str, value: Any) -> tuple[Any, str]:
        """Return the real value of a shown one and "", or None and why it is not allowed."""
        if self.codes:
            if isinstance(value, str) and value in self.codes:
                return self.codes[value], ""
            allowed = ", ".join(render_json(code) for code in self.codes)
            return None, f'"{name}" must be one of {allowed}, got {shorten(value)}'
        # Anything but a number passes unchanged, and the real tool's schema refuses it.
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value, ""
        # Only multiples have a real value; rounding would hide the unit from the policy.
        if value % self.factor:
            return None, f'"{name}" must be a multiple of {self.factor}, got {shorten(value)}'
        return value // self.factor if isinstance(value, int) else value / self.factor, ""

    def to_shown(self, value: Any) -> Any:
        """Return the shown form of a real value; a value without a code stays as it is."""
        if self.codes:
            # Compared like rewards, so that 5 and "5" have the same code.
            same = (c for c, inner in self.codes.items() if normalise(inner) == normalise(value))
            return next(same, value)
        return value * self.factor if isinstance(value, int | float) else value


class ToolAlias(Record, frozen=True):
    """The real tool behind one shown tool."""

    inner: str
    """Name of the real tool."""
    parameters: dict[str, str] = {}
    """Real parameter name by shown name, where they differ."""
    values: dict[str, Recoding] = {}
    """How values are written, by the real parameter name."""
    answer: str = ""
    """For a broken tool, the answer to every call, none of which reaches the real tool."""


class Perturbation(Record, frozen=True):
    """One transform as it was drawn for one task."""

    kind: str
    tools: tuple[Tool, ...]
    """The tools as they are shown."""
    aliases: dict[str, ToolAlias]
    """The alias of every shown tool, by shown name."""

    def to_real(self, call: ToolCall) -> ToolCall | str:
        """Return the call one level further in, or the answer if this perturbation gives one."""
        alias = self.aliases[call.name]
        if alias.answer:
            return alias.answer
        arguments: dict[str, Any] = {}
        for name, value in call.arguments.items():
            inner = alias.parameters.get(name, name)
            # The real name of a renamed parameter is not a parameter of the shown tool.
            if inner == name and name in alias.parameters.values():
                return render_json({"error": f'{call.name} does not take "{name}".'})
            if inner in alias.values:
                value, refusal = alias.values[inner].to_real(name, value)
                if refusal:
                    return render_json({"error": f"{call.name}: {refusal}."})
            arguments[inner] = value
        return ToolCall(id=call.id, name=alias.inner, arguments=arguments)

    def show(self, name: str, text: str) -> str:
        """Return an answer as shown by the tool `name`: real names in an error become shown ones.

        Results stay as they are, because only errors name tools and parameters.
        """
        try:
            result = decode_json(text, error=ValueError)
        except ValueError:
            return self._rename(name, text)
        if not isinstance(result, dict) or not isinstance(result.get("error"), str):
            return text
        return render_json(result | {"error": self._rename(name, result["error"])})

    def to_shown(self, call: ExpectedCall) -> ExpectedCall | None:
        """Return the shown call that reaches a real one; None if no working tool does."""
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
        """Replace real names with shown ones: of tools anywhere, of parameters only in quotes."""
        alias = self.aliases[name]
        # If several shown tools stand for one real tool, the first that works names it, except
        # that the tool which was called keeps its own name.
        tools = {f.inner: n for n, f in reversed(self.aliases.items()) if not f.answer}
        tools[alias.inner] = name
        parameters = {inner: outer for outer, inner in alias.parameters.items()}
        text = _replace(text, tools, mark=r"(?<!\w){}(?!\w)")
        return _replace(text, parameters, mark=r"(?<=[\"']){}(?=[\"'.\[])")


def _replace(text: str, names: Mapping[str, str], *, mark: str) -> str:
    """Replace all names in one pass, so that no replacement is replaced again."""
    changed = {old: new for old, new in names.items() if old != new}
    if not changed:
        return text
    longest_first = sorted(changed, key=len, reverse=True)
    pattern = mark.format(f"({'|'.join(map(re.escape, longest_first))})")
    return re.sub(pattern, lambda found: changed[found.group(1)], text)


def shown_tools(tools: Sequence[Tool], chain: Sequence[Perturbation]) -> tuple[Tool, ...]:
    """Return the tools as the policy sees them under a chain of perturbations."""
    return chain[-1].tools if chain else tuple(tools)


def to_real_call(chain: Sequence[Perturbation], call: ToolCall) -> ToolCall | str:
    """Return the real call of a shown one, or the shown answer if a perturbation gives it."""
    # `names` collects the call's name at each level, so that an answer can be shown on the way out.
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
    """Return the shown form of the real tool's answer to a shown call."""
    names: list[str] = []
    name = call.name
    for perturbation in reversed(chain):
        names.append(name)
        name = perturbation.aliases[name].inner
    for perturbation, shown in zip(chain, reversed(names), strict=True):
        text = perturbation.show(shown, text)
    return text


def to_shown_call(chain: Sequence[Perturbation], call: ExpectedCall) -> ExpectedCall | None:
    """Return the shown call that reaches a real call; None if no working tool does."""
    shown_call: ExpectedCall | None = call
    for perturbation in chain:
        shown_call = perturbation.to_shown(shown_call) if shown_call else None
    return shown_call


def prove_solvable(
    tools: Sequence[Tool], chain: Sequence[Perturbation], reference: Sequence[ExpectedCall]
) -> str | None:
    """Replay a task's reference solution through a chain; return what is wrong, or None.

    Each reference call must have a shown call that arrives as the same call, through a working tool
    whose shown schema accepts what the real one accepts, or hides it on purpose.
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
        documented = shown[shown_call.name].parameters
        rest = {
            name: value
            for name, value in shown_call.arguments.items()
            if name in properties_of(documented)
        }
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
