"""Every key of a config with its default, what it may be set to, and what it means.

Nothing is written twice: types and defaults come from the config's structs, meanings from the
docstrings under their fields.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from trustee.config import Config, is_struct, options_of
from trustee.environments.protocol import World, WorldConfig
from trustee.errors import InputError
from trustee.types import Record

REQUIRED = "required"
WIDTH = 100
BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
NAMES = {bool: "true | false", NoneType: "none", Any: "anything", World: "environment"}


class Setting(Record, frozen=True, omit_defaults=True):
    """One key of a config."""

    key: str
    """With its section, as `--set` takes it."""
    default: Any
    allowed: str
    meaning: str
    kind: str = ""
    """The kind that its section must be of, where there are several with different keys."""
    required: bool = False
    """Whether there is no default."""


def list_settings(section: str | None = None) -> tuple[Setting, ...]:
    """Return all keys, or those of a section, a subsection or one key alone.

    Raises:
        InputError: if there is no such section or key.
    """
    found = tuple(walk(Config, path="", example=None))
    if section is None:
        return found
    chosen = tuple(s for s in found if f"{s.key}.".startswith(f"{section}."))
    if not chosen:
        known = {s.key.rpartition(".")[0] for s in found} | {s.key for s in found}
        close = difflib.get_close_matches(section, sorted(known), n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise InputError(
            f"no section or key {section}; {hint}sections are: {', '.join(list_sections())}"
        )
    return chosen


def list_sections() -> tuple[str, ...]:
    """Return the names of the sections of a config."""
    return tuple(field.name for field in msgspec.structs.fields(Config))


def walk(kind: Any, *, path: str, example: Any) -> Iterator[Setting]:
    """Yield the keys of a struct and of those inside it.

    Args:
        kind: the struct.
        path: the section that it fills.
        example: an instance with the section's defaults; None takes those of the struct.
    """
    meanings = read_meanings(kind)
    for field in msgspec.structs.fields(kind):
        key = f"{path}.{field.name}".removeprefix(".")
        default = find_default(field, example)
        parts = [option for option in options_of(field.type) if is_struct(option)]
        # Environments inside an environment have the keys that are listed under `env`.
        nested = path != "" or field.name != "env"
        if not parts or (nested and issubclass(parts[0], WorldConfig)):
            yield Setting(
                key=key,
                default=None if default is REQUIRED else msgspec.to_builtins(default),
                allowed=show_type(field.type),
                meaning=meanings.get(field.name, ""),
                required=default is REQUIRED,
            )
            continue
        yield from walk_kinds(parts, path=key, default=default)


def walk_kinds(parts: list[Any], *, path: str, default: Any) -> Iterator[Setting]:
    """Yield the keys of a section that may be of several kinds, and the key that chooses."""
    if len(parts) > 1:
        tags = [part.__struct_config__.tag for part in parts]
        chosen = type(default).__struct_config__.tag
        allowed = " | ".join(tags)
        meaning = "; ".join(f"{part.__struct_config__.tag}: {summarise(part)}" for part in parts)
        yield Setting(key=f"{path}.kind", default=chosen, allowed=allowed, meaning=meaning)
    by_kind = {
        part: list(walk(part, path=path, example=default if type(default) is part else None))
        for part in parts
    }
    for setting in by_kind[parts[0]]:
        if all(setting in settings for settings in by_kind.values()):
            yield setting
    for part, settings in by_kind.items():
        for setting in settings:
            if not all(setting in others for others in by_kind.values()):
                yield msgspec.structs.replace(setting, kind=part.__struct_config__.tag)


def find_default(field: msgspec.structs.FieldInfo, example: Any) -> Any:
    """Return the default of a field, or `REQUIRED`."""
    if example is not None:
        return getattr(example, field.name)
    if field.default is not msgspec.NODEFAULT:
        return field.default
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return REQUIRED


@cache
def read_meanings(kind: Any) -> Mapping[str, str]:
    """Read the docstrings under the fields of a struct, its own before those of its bases."""
    meanings: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not (is_struct(base) and base.__module__.startswith("trustee.")):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef), "a struct is a class"
        for before, after in zip(tree.body, tree.body[1:], strict=False):
            match before, after:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    meanings[name] = " ".join(text.split())
    return meanings


def summarise(kind: Any) -> str:
    """Return the first sentence of a struct's docstring."""
    return (inspect.getdoc(kind) or "").partition("\n")[0].removesuffix(".")


def show_type(kind: Any) -> str:
    """Write what a type allows."""
    if kind in NAMES:
        return NAMES[kind]
    inner = get_args(kind)
    if get_origin(kind) is Annotated:
        bounds = [
            f"{sign} {bound}"
            for meta in inner[1:]
            for name, sign in BOUNDS.items()
            if (bound := getattr(meta, name, None)) is not None
        ]
        return " ".join((show_type(inner[0]), " and ".join(bounds))).strip()
    if get_origin(kind) is Literal:
        return " | ".join(map(str, inner))
    if get_origin(kind) is tuple:
        if inner[-1] is Ellipsis:
            return f"list of {show_type(inner[0])}"
        return f"[{', '.join(map(show_type, inner))}]"
    if get_origin(kind) is dict:
        return f"table of {show_type(inner[1])}"
    if is_struct(kind):
        return str(kind.__struct_config__.tag or "table")
    if len(options_of(kind)) > 1:
        return " | ".join(map(show_type, inner or options_of(kind)))
    return str(kind.__name__)


def settings_text(settings: tuple[Setting, ...]) -> str:
    """Write keys for a reader."""
    lines: list[str] = []
    section = ""
    for setting in settings:
        head = setting.key.partition(".")[0]
        if head != section:
            lines += [""] if lines else []
            section = head
        kind = f"  (kind {setting.kind})" if setting.kind else ""
        lines.append(f"{setting.key} = {show_default(setting)}  [{setting.allowed}]{kind}")
        lines += textwrap.wrap(
            setting.meaning, WIDTH, initial_indent="    ", subsequent_indent="    "
        )
    return "\n".join(lines)


def show_default(setting: Setting) -> str:
    """Write a default as `--set` takes it."""
    if setting.required:
        return REQUIRED
    if setting.default is None:
        return "none"
    if isinstance(setting.default, str):
        return setting.default or '""'
    if isinstance(setting.default, dict) and "kind" in setting.default:
        return str(setting.default["kind"])
    return msgspec.json.encode(setting.default).decode()


def comment_config(text: str) -> str:
    """Write the meaning of each key above it, in a config with one key a line, `kind` first."""
    lines: list[str] = []
    section = kind = ""
    for line in text.splitlines():
        if header := re.fullmatch(r"\[\[?([\w.]+)\]\]?", line):
            kind = kind if header[1].startswith(f"{section.partition('.')[0]}.") else ""
            section = header[1]
        elif assigned := re.match(r"(\w+) = \"?(\w*)", line):
            kind = kind or (assigned[2] if assigned[1] == "kind" else "")
            meaning = find_meaning(f"{section}.{assigned[1]}", kind=kind)
            lines += textwrap.wrap(meaning, WIDTH, initial_indent="# ", subsequent_indent="# ")
        lines.append(line)
    return "\n".join(lines) + "\n"


def find_meaning(key: str, *, kind: str) -> str:
    """Return what a key of a section of a kind means; nothing for one inside another world."""
    found = [setting for setting in list_settings() if setting.key == key]
    return next((s.meaning for s in found if s.kind in ("", kind)), "")
