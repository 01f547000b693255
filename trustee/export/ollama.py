"""An Ollama model: a GGUF file, and a Modelfile with template, stop marks and context."""

from __future__ import annotations

from collections.abc import Sequence

from trustee.export.ollama_dialects import Dialect

MODELFILE = "Modelfile"


def write_modelfile(dialect: Dialect, file: str, *, context: int, notes: Sequence[str] = ()) -> str:
    """Return the text of a Modelfile.

    Args:
        dialect: how the model is spoken to.
        file: name of the GGUF file beside it.
        context: most tokens of prompt and answer, as in training.
        notes: lines of comment at the top.
    """
    lines = [f"# {note}" for note in notes]
    lines += [f"FROM ./{file}", f'TEMPLATE """{write_go(dialect)}"""']
    lines += [f"PARAMETER stop {quote(stop)}" for stop in dialect.stops]
    lines.append(f"PARAMETER num_ctx {context}")
    return "\n".join(lines) + "\n"


def write_go(dialect: Dialect) -> str:
    """Return a dialect as a Go template over Ollama's variables.

    No blank is written that the model does not see, so nothing has to be trimmed. Ollama takes the
    text before the first call's name as the mark by which it finds calls in answers.
    """
    bos = dialect.bos
    return (
        bos
        + _write_system(dialect)
        + _write_turns(dialect)
        + _open(dialect, "assistant")
        + (dialect.answer)
    )


def _open(dialect: Dialect, role: str) -> str:
    return dialect.open + role + dialect.opened


def _write_system(dialect: Dialect) -> str:
    told = f"or .System {quote(dialect.default_system)}" if dialect.default_system else ".System"
    before, after = dialect.tool_line
    tools = (
        f"{{{{ if $told }}}}{dialect.system_gap}{{{{ end }}}}{dialect.tools_before}"
        f"{{{{ range .Tools }}}}{before}{_write_tool(dialect)}{after}{{{{ end }}}}"
        f"{dialect.tools_after}"
    )
    return (
        f"{{{{ $told := {told} }}}}{{{{ if or $told .Tools }}}}{_open(dialect, 'system')}"
        f"{{{{ $told }}}}{{{{ if .Tools }}}}{tools}{{{{ end }}}}{dialect.close}{{{{ end }}}}"
    )


def _write_tool(dialect: Dialect) -> str:
    if dialect.tools == "schemas":
        return "{{ . }}"
    return (
        "{{ .Function.Name }}({{ $gap := false }}"
        "{{ range $name, $_ := .Function.Parameters.Properties }}"
        "{{ if $gap }}, {{ end }}{{ $name }}{{ $gap = true }}{{ end }})"
    )


def _write_turns(dialect: Dialect) -> str:
    # A result's turn is closed by what follows it, which may be one more result in the same turn.
    joins = dialect.joins_results
    opening, result = _open(dialect, dialect.result_role), _write_result(dialect)
    if joins:
        opening = f'{{{{ if eq $last "tool" }}}}\n{{{{ else }}}}{opening}{{{{ end }}}}'
    ending = f'{{{{ if eq $last "tool" }}}}{dialect.close}{{{{ end }}}}' if joins else ""
    own_close = "" if joins else dialect.close
    turn = (
        f"{ending}{_open(dialect, '{{ .Role }}')}{{{{ .Content }}}}{_write_calls(dialect)}"
        f"{dialect.close}"
    )
    return (
        '{{ $last := "" }}{{ range .Messages }}'
        f'{{{{ if eq .Role "tool" }}}}{opening}{result}{own_close}'
        f'{{{{ else if ne .Role "system" }}}}{turn}{{{{ end }}}}'
        '{{ if ne .Role "system" }}{{ $last = .Role }}{{ end }}'
        f"{{{{ end }}}}{ending}"
    )


def _write_result(dialect: Dialect) -> str:
    return f"{dialect.result_before}{{{{ .Content }}}}{dialect.result_after}"


def _write_calls(dialect: Dialect) -> str:
    call = (
        f"{dialect.call_before}{{{{ json .Function.Name }}}}{dialect.call_between}"
        f"{{{{ .Function.Arguments }}}}{dialect.call_after}"
    )
    # A variable, because Ollama takes the first condition on .ToolCalls for the one with the mark.
    gap = (
        "{{ $calls := .ToolCalls }}"
        f"{{{{ if and .Content $calls }}}}{dialect.text_gap}{{{{ end }}}}"
    )
    return (
        f"{gap}{{{{ if .ToolCalls }}}}{{{{ with index .ToolCalls 0 }}}}{call}{{{{ end }}}}"
        f"{{{{ range slice .ToolCalls 1 }}}}{dialect.call_gap}{call}{{{{ end }}}}{{{{ end }}}}"
    )


def quote(text: str) -> str:
    """Return a text as a quoted string, as Go and a Modelfile read it.

    Raises:
        ValueError: if it holds what would have to be escaped.
    """
    if any(char in text for char in '"\\\n'):
        raise ValueError(f"cannot be quoted: {text!r}")
    return f'"{text}"'
