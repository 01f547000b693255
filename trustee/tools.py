"""Where tools come from: the packaged repository and the user's own files.

The one idea: whatever form tools are written in, they end up as `Tool` records whose parameters are
a checked JSON Schema, so that nothing after this module asks where a tool came from. User code is
parsed, never executed.
"""

from __future__ import annotations

import ast
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import unquote
from uuid import UUID

import msgspec
from docstring_parser import ParseError, google
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import (
    SchemaError,
    ValidationError,
    best_match,
)
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from trustee.errors import InputError
from trustee.types import Tool

READ_VERBS = frozenset(
    (
        "get",
        "list",
        "search",
        "find",
        "read",
        "check",
        "show",
        "lookup",
        "count",
        "calculate",
        "convert",
    )
)
"""First words of names that mark a tool as reading where its file does not say."""

Schema = dict[str, Any]
Found = tuple[str, Tool]
"""A tool and where it was found, for messages."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SHOWN = 60
"""Characters of a wrong value that a message repeats."""


class Repository:
    """A set of tools in categories, each category one small world."""

    def __init__(self, tools: Iterable[Tool]) -> None:
        """Group the tools and link each to the read tools that give the ids it needs."""
        self.tools = tuple(tools)
        """All tools, by category, in file order."""
        self.categories: dict[str, tuple[Tool, ...]] = {}
        """The tools of each category."""
        self._chains: dict[str, tuple[Tool, ...]] = {}
        self._nouns: dict[str, frozenset[str]] = {}
        for tool in self.tools:
            self.categories[tool.category] = (*self.categories.get(tool.category, ()), tool)
        for tools_here in self.categories.values():
            known = {noun for tool in tools_here for noun in _id_nouns(tool.parameters)}
            for tool in tools_here:
                self._chains[tool.name] = _chain(tool, tools_here)
                self._nouns[tool.name] = _id_nouns(tool.parameters) | known.intersection(
                    _words(tool.name)[1:]
                )

    @classmethod
    def load(cls, folder: Path | None = None) -> Repository:
        """Load the packaged tools, or every `*.json` file of a folder.

        A tool that names no category gets its file's name as category.

        Raises:
            InputError: if the folder holds no usable tools.
        """
        root = files("trustee").joinpath("data", "tools") if folder is None else folder
        try:
            paths = sorted(
                (path for path in root.iterdir() if path.name.endswith(".json")),
                key=lambda path: path.name,
            )
            texts = {path.name: path.read_bytes() for path in paths}
        except OSError as error:
            raise InputError(
                f"{root}: cannot be read ({error.strerror}); give a folder of *.json tool files"
            ) from error
        found = [
            (where, tool if tool.category else msgspec.structs.replace(tool, category=name[:-5]))
            for name, text in texts.items()
            for where, tool in _find_tools(text, source=str(root.joinpath(name)))
        ]
        if not found:
            raise InputError(f"{root}: no tools found; a tool folder holds *.json files of tools")
        # The tests check the packaged files, and checking them again costs half a second.
        return cls(tool for _, tool in found) if folder is None else cls(_verify(found))

    def sample(self, rng: random.Random, count: int, *, mixed: float = 0.0) -> tuple[Tool, ...]:
        """Draw tools that can be used together, read tools first.

        They come from one category where one has enough, and with probability `mixed` in halves
        from two. A tool that needs an id comes with the read tools that give it, while they fit.

        Raises:
            InputError: if there are not `count` tools, or `mixed` is no probability.
        """
        if not 1 <= count <= len(self.tools):
            raise InputError(
                f"count must be from 1 to {len(self.tools)}, the repository's size; got {count}"
            )
        if not 0 <= mixed <= 1:
            raise InputError(f"mixed must be from 0 to 1, got {mixed}")
        share = (count + 1) // 2 if rng.random() < mixed else count
        order = rng.sample(list(self.categories.values()), len(self.categories))
        order.sort(key=lambda tools: len(tools) < share)
        chosen: list[Tool] = []
        for tools in order:
            if len(chosen) == count:
                break
            size = min(share, count - len(chosen), len(tools))
            chosen += self._grow(rng, tools, size=size)
        return tuple(sorted(chosen, key=lambda tool: tool.effect != "read"))

    def _grow(self, rng: random.Random, tools: Sequence[Tool], *, size: int) -> list[Tool]:
        """Choose `size` tools, each time one that shares an id with those already chosen."""
        chosen: set[str] = set()
        order = rng.sample(tools, len(tools))
        while len(chosen) < size:
            nouns = {noun for name in chosen for noun in self._nouns[name]}
            order = [tool for tool in order if tool.name not in chosen]
            added = {
                tool.name: {link.name for link in self._chains[tool.name]} - chosen
                for tool in order
            }
            fitting = [tool for tool in order if len(added[tool.name]) <= size - len(chosen)]
            best = max(fitting or order, key=lambda tool: bool(nouns & self._nouns[tool.name]))
            chosen |= added[best.name] if fitting else {best.name}
        return [tool for tool in tools if tool.name in chosen]


def _words(name: str) -> list[str]:
    """Split a name into lower-case singular words."""
    return [_singular(word.lower()) for word in _WORD.findall(name)]


def _singular(word: str) -> str:
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us")) else word


def _id_nouns(schema: Schema, *, required_only: bool = False) -> frozenset[str]:
    """Name the things whose ids a schema asks for: `event` for `event_id`."""
    nouns: set[str] = set()
    needed = schema.get("required", ())
    for name, inner in schema.get("properties", {}).items():
        if not isinstance(inner, dict) or (required_only and name not in needed):
            continue
        words = _words(name)
        if len(words) > 1 and words[-1] == "id":
            nouns.add(words[-2])
        for nested in (inner, inner.get("items")):
            if isinstance(nested, dict):
                nouns |= _id_nouns(nested, required_only=required_only)
    return frozenset(nouns)


def _chain(tool: Tool, tools: Sequence[Tool]) -> tuple[Tool, ...]:
    """List a tool and the read tools that must run before it to learn the ids it needs."""
    chain = [tool]
    for link in chain:
        for noun in sorted(_id_nouns(link.parameters, required_only=True)):
            givers = _givers(noun, tools)
            if givers and not any(giver in chain for giver in givers):
                chain.append(givers[0])
    return tuple(chain)


def _givers(noun: str, tools: Sequence[Tool]) -> list[Tool]:
    """Find the read tools that tell the ids of things of a kind without needing one.

    Names say so: `search_events` and `list_booked_events` give events, and where no name ends in
    the noun, `list_events_nearby` does.
    """
    about = [
        tool
        for tool in tools
        if tool.effect == "read"
        and noun in _words(tool.name)[1:]
        and noun not in _id_nouns(tool.parameters, required_only=True)
    ]
    return [tool for tool in about if _words(tool.name)[-1] == noun] or about


def check_arguments(tool: Tool, arguments: dict[str, Any]) -> str | None:
    """Say in one sentence what is wrong with a call's arguments; None where they fit.

    A name that the schema does not mention is wrong unless the schema lets other names in itself.
    """
    validator = _validator(msgspec.json.encode(tool.parameters))
    properties = tool.parameters.get("properties", {})
    if not _OPENING & tool.parameters.keys():
        unknown = [name for name in arguments if name not in properties]
        if unknown:
            takes = _join(properties) if properties else "no arguments"
            return f"{tool.name} does not take {_join(unknown)}; it takes {takes}."
    missing = [name for name in tool.parameters.get("required", ()) if name not in arguments]
    if missing:
        return f"{tool.name} needs {_join(missing)}, got {_join(arguments) or 'no arguments'}."
    error = best_match(validator.iter_errors(arguments))
    return None if error is None else f"{tool.name}: {_explain(error)}."


_OPENING = frozenset(
    (
        "additionalProperties",
        "unevaluatedProperties",
        "patternProperties",
        "allOf",
        "anyOf",
        "oneOf",
        "if",
        "$ref",
        "$dynamicRef",
        "dependentSchemas",
    )
)
"""Keywords by which a schema may let in names beside its properties."""
_MERGING = _OPENING - {"additionalProperties", "unevaluatedProperties", "patternProperties"}


@lru_cache(maxsize=4096)
def _validator(schema: bytes) -> Any:
    """Compile a schema, keyed by its text so that equal names or reused objects cannot mix."""
    parsed = msgspec.json.decode(schema)
    if _MERGING & parsed.keys() and "additionalProperties" not in parsed:
        parsed = {"unevaluatedProperties": False, **parsed}
    return Draft202012Validator(parsed, format_checker=_FORMAT_CHECKER, registry=Registry())


def _match_format(pattern: str, parse: Callable[[str], object]) -> Callable[[object], bool]:
    compiled = re.compile(pattern)

    def check(value: object) -> bool:
        if isinstance(value, str):
            if compiled.fullmatch(value) is None:
                return False
            parse(value)
        return True

    return check


_DAY = r"\d{4}-\d{2}-\d{2}"
_FORMATS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "date": ("a date such as 2025-03-31", _match_format(_DAY, date.fromisoformat)),
    "time": ("a time such as 18:30", _match_format(r"\d{2}:\d{2}.*", time.fromisoformat)),
    "date-time": (
        "a date and time such as 2025-03-31T18:30:00",
        _match_format(_DAY + r"[Tt ]\d{2}:\d{2}.*", datetime.fromisoformat),
    ),
    "email": ("an email address", _match_format(r"[^@\s]+@[^@\s]+", str)),
    "uri": ("a URI such as https://example.com", _match_format(r"[A-Za-z][\w+.-]*:\S+", str)),
    "uuid": ("a UUID", _match_format(r"[0-9A-Fa-f-]{36}", UUID)),
}
"""What is checked, the same on every machine; times may leave out the offset."""

_FORMAT_CHECKER = FormatChecker(formats=())
for _format, (_, _check_format) in _FORMATS.items():
    _FORMAT_CHECKER.checks(_format, raises=ValueError)(_check_format)

_TYPES = {
    "integer": "an integer",
    "number": "a number",
    "string": "a string",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def _explain(error: ValidationError) -> str:
    """Word a validation error: the argument, what is allowed, what was given."""
    path = ""
    for part in error.absolute_path:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    subject = f'"{path}"' if path else "the arguments"
    return f"{subject} must {_rule(error)}, got {_shorten(error.instance)}"


def _rule(error: ValidationError) -> str:
    """Word what a schema keyword demands."""
    value = error.validator_value
    match error.validator:
        case "type":
            names = [value] if isinstance(value, str) else value
            return f"be {' or '.join(_TYPES[name] for name in names)}"
        case "enum":
            return f"be one of {', '.join(json.dumps(item, ensure_ascii=False) for item in value)}"
        case "const":
            return f"be {json.dumps(value, ensure_ascii=False)}"
        case "minimum":
            return f"be at least {value}"
        case "maximum":
            return f"be at most {value}"
        case "exclusiveMinimum":
            return f"be greater than {value}"
        case "exclusiveMaximum":
            return f"be less than {value}"
        case "multipleOf":
            return f"be a multiple of {value}"
        case "minLength" | "minItems" | "minProperties":
            return f"have at least {value} {_unit(error.validator, value)}"
        case "maxLength" | "maxItems" | "maxProperties":
            return f"have at most {value} {_unit(error.validator, value)}"
        case "uniqueItems":
            return "not hold an item twice"
        case "pattern":
            return f"match the pattern {value}"
        case "format":
            return f"be {_FORMATS[value][0]}" if value in _FORMATS else f"be a valid {value}"
        case "required":
            return f"hold {_join(name for name in value if name not in error.instance)}"
        case "additionalProperties" if value is False:
            return f"hold only {_join(error.schema.get('properties', {})) or 'nothing'}"
        case "anyOf" | "oneOf" if error.context and not any(e.relative_path for e in error.context):
            return " or ".join(dict.fromkeys(_rule(inner) for inner in error.context))
        case _:
            return f"fit the schema ({_cut(error.message)})"


def _unit(keyword: str, count: int) -> str:
    unit = {"Length": "character", "Items": "item"}.get(keyword[3:], "entry")
    return unit if count == 1 else "entries" if unit == "entry" else unit + "s"


def _join(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _shorten(value: object) -> str:
    return _cut(json.dumps(value, ensure_ascii=False, default=str))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def import_tools(path: Path) -> tuple[Tool, ...]:
    """Read tools from a file, in whichever form its content has.

    A text that begins with a brace or bracket is JSON: OpenAI tools, bare functions, JSON lines of
    either, or an OpenAPI 3 or Swagger 2 document. Any other text is a Python module of functions
    with type hints and Google docstrings. Where the effect is not declared by `x-effect`, an
    operation's HTTP method decides, or else the verb that the name begins with (`READ_VERBS`).
    Header and cookie parameters of operations are left out.

    Raises:
        InputError: if the file cannot be read or any tool in it is unusable.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); give a JSON, JSONL or Python file"
        ) from error
    found = list(_find_tools(text, source=str(path)))
    if not found:
        raise InputError(
            f"{path}: no tools found; allowed are OpenAI tools, an OpenAPI document with"
            " operations, or public Python functions"
        )
    return _verify(found)


def dump_tools(tools: Iterable[Tool]) -> bytes:
    """Write tools as OpenAI JSON that `import_tools` reads back equal."""
    entries = [
        {**tool.schema, "x-effect": tool.effect, "x-category": tool.category} for tool in tools
    ]
    return (json.dumps(entries, ensure_ascii=False, indent=1) + "\n").encode()


def _find_tools(data: bytes, *, source: str) -> Iterator[Found]:
    """Read tools from a file's bytes; names and schemas are not checked yet."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source}: not UTF-8 text, byte {error.start} is {data[error.start]:#04x};"
            " save the file as UTF-8"
        ) from error
    if not text.lstrip().startswith(("{", "[")):
        return _find_in_python(text, source=source)
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            raise _not_json(source, error) from error
        return _find_in_lines(text, source=source)
    if isinstance(document, dict) and ("openapi" in document or "swagger" in document):
        return _find_in_openapi(document, source=source)
    return _find_in_json(document, source=source)


def _not_json(source: str, error: json.JSONDecodeError, *, line: int = 0) -> InputError:
    return InputError(
        f"{source}: not JSON, line {line or error.lineno} column {error.colno}: {error.msg};"
        " allowed are one JSON document or one JSON object per line"
    )


def _find_in_lines(text: str, *, source: str) -> Iterator[Found]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError as error:
                raise _not_json(source, error, line=number) from error
            where = f"{source}: line {number}"
            yield where, _read_entry(entry, where=where)


def _find_in_json(document: Any, *, source: str) -> Iterator[Found]:
    key = ""
    if isinstance(document, dict):
        key = next((key for key in ("tools", "functions") if key in document), "")
        entries = document[key] if key else [document]
    else:
        entries = document
    if not isinstance(entries, list):
        raise InputError(f"{source}: {key} must be a list of tools, got {_shorten(entries)}")
    for index, entry in enumerate(entries):
        where = f"{source}: {key}[{index}]"
        yield where, _read_entry(entry, where=where)


def _read_entry(entry: Any, *, where: str) -> Tool:
    """Read one OpenAI tool or bare function."""
    function = entry.get("function", entry) if isinstance(entry, dict) else None
    if not isinstance(function, dict) or "name" not in function:
        raise InputError(
            f"{where}: not a tool, got {_shorten(entry)}; allowed are"
            ' {"type": "function", "function": {…}} and {"name": …, "parameters": {…}}'
        )
    marks = {**function, **entry}
    name = function["name"]
    if not isinstance(name, str):
        raise InputError(f"{where}.name: must be a string, got {_shorten(name)}")
    parameters = function.get("parameters")
    texts = {
        "description": function.get("description") or "",
        "category": marks.get("x-category", marks.get("category", "")),
    }
    for key, value in texts.items():
        if not isinstance(value, str):
            raise InputError(f"{where}.{key}: must be a string, got {_shorten(value)}")
    effect = marks.get("x-effect", marks.get("effect"))
    return Tool(
        name=name,
        parameters={"type": "object", "properties": {}} if parameters is None else parameters,
        effect=_guess_effect(name) if effect is None else _check_effect(effect, where=where),
        **texts,
    )


def _guess_effect(name: str) -> Literal["read", "write"]:
    words = _WORD.findall(name)
    return "read" if words and words[0].lower() in READ_VERBS else "write"


def _check_effect(effect: object, *, where: str) -> Literal["read", "write"]:
    if effect not in ("read", "write"):
        raise InputError(f'{where}.x-effect: must be "read" or "write", got {_shorten(effect)}')
    return effect


def _verify(found: Iterable[Found]) -> tuple[Tool, ...]:
    """Check names and schemas of what was found."""
    places: dict[str, str] = {}
    tools = []
    for where, tool in found:
        if _NAME.fullmatch(tool.name) is None:
            raise InputError(
                f"{where}: the name {_shorten(tool.name)} is not allowed; names have 1 to 64 of"
                " the characters A-Z a-z 0-9 _ -"
            )
        if tool.name in places:
            raise InputError(
                f'{where}: the name "{tool.name}" was already used by {places[tool.name]};'
                " names must be unique"
            )
        places[tool.name] = where
        _verify_parameters(tool.parameters, where=f'{where} "{tool.name}".parameters')
        tools.append(tool)
    return tuple(tools)


def _verify_parameters(parameters: Any, *, where: str) -> None:
    if not isinstance(parameters, dict) or parameters.get("type") != "object":
        raise InputError(
            f'{where}: must be a JSON Schema with "type": "object", got {_shorten(parameters)}'
        )
    if msgspec.json.decode(msgspec.json.encode(parameters)) != parameters:
        raise InputError(f"{where}: holds NaN or Infinity; only finite numbers are allowed")
    try:
        Draft202012Validator.check_schema(parameters)
    except SchemaError as error:
        raise InputError(
            f"{where}: not a JSON Schema (draft 2020-12), {error.json_path[1:].lstrip('.')} must"
            f" {_rule(error)}, got {_shorten(error.instance)}"
        ) from error
    resolver = Registry().with_resource("", DRAFT202012.create_resource(parameters)).resolver()
    for reference in _references(parameters):
        passed: list[str] = []
        following: object = reference
        while isinstance(following, str):
            if following in passed:
                raise InputError(f'{where}: the $ref "{reference}" leads back to itself')
            passed.append(following)
            try:
                target = resolver.lookup(following).contents
            except Unresolvable as error:
                raise InputError(
                    f'{where}: the $ref "{reference}" leads nowhere; references must point inside'
                    " the same parameters"
                ) from error
            following = target.get("$ref") if isinstance(target, dict) else None


def _references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


_METHODS = ("get", "head", "post", "put", "patch", "delete")
_PLACES = {"path": 0, "query": 1, "formData": 2, "body": 3}
"""Parameter places that become arguments, in the order in which they are listed."""
_TRUE = (True, "true")
"""Documents in use write flags as text too."""


def _find_in_openapi(document: dict[str, Any], *, source: str) -> Iterator[Found]:
    paths = document.get("paths")
    if not isinstance(paths, dict):
        raise InputError(f"{source}: paths must be an object of paths, got {_shorten(paths)}")
    for path, item in paths.items():
        item = _follow(item, document, where=f"{source}: {path}")
        for method in _METHODS:
            if method in item:
                where = f"{source}: {method.upper()} {path}"
                yield where, _read_operation(document, item, where=where, method=method, path=path)


def _read_operation(
    document: dict[str, Any], item: dict[str, Any], *, where: str, method: str, path: str
) -> Tool:
    """Turn one operation into a tool: path, query and body arguments side by side."""
    operation = _follow(item[method], document, where=where)
    properties: Schema = {}
    required: list[str] = []

    def add(name: str, schema: Schema, *, needed: bool) -> None:
        # The place nearest to the path wins where two places share a name.
        if name not in properties:
            properties[name] = schema
            if needed:
                required.append(name)

    parameters = {}
    for listed in (
        *_read_list(item, "parameters", where=where),
        *_read_list(operation, "parameters", where=where),
    ):
        parameter = _follow(listed, document, where=where)
        if not isinstance(parameter.get("name"), str) or not isinstance(parameter.get("in"), str):
            raise InputError(f'{where}: a parameter needs "name" and "in", got {_shorten(listed)}')
        parameters[parameter["name"], parameter["in"]] = parameter
    wanted = [parameter for parameter in parameters.values() if parameter["in"] in _PLACES]
    for parameter in sorted(wanted, key=lambda parameter: _PLACES[parameter["in"]]):
        needed = parameter.get("required") in _TRUE or parameter["in"] == "path"
        schema = _parameter_schema(document, parameter, where=where)
        if parameter["in"] == "body":
            _add_body(schema, add=add, needed=needed)
        else:
            add(parameter["name"], schema, needed=needed)
    for name in re.findall(r"\{([^{}]+)\}", path):
        add(name, {"type": "string"}, needed=True)
    if "requestBody" in operation:
        body = _follow(operation["requestBody"], document, where=where)
        schema = _media_schema(document, body, where=where)
        _add_body(schema, add=add, needed=body.get("required") in _TRUE)

    effect = operation.get("x-effect", "read" if method in ("get", "head") else "write")
    tags = _read_list(operation, "tags", where=where) or [""]
    return Tool(
        name=_operation_name(operation.get("operationId"), method=method, path=path),
        description=_first_paragraph(
            str(operation.get("description") or operation.get("summary") or "")
        ),
        parameters={"type": "object", "properties": properties, "required": required},
        effect=_check_effect(effect, where=where),
        category=str(operation.get("x-category", tags[0])),
    )


def _read_list(holder: dict[str, Any], key: str, *, where: str) -> list[Any]:
    value = holder.get(key, [])
    if not isinstance(value, list):
        raise InputError(f"{where}: {key} must be a list, got {_shorten(value)}")
    return value


def _operation_name(identifier: object, *, method: str, path: str) -> str:
    """Make a tool name of an operationId, or else of method and path."""
    text = (
        identifier if isinstance(identifier, str) and identifier else f"{method}_{path.strip('/')}"
    )
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_")[:64]


def _first_paragraph(text: str) -> str:
    return " ".join(text.strip().split("\n\n")[0].split())


def _parameter_schema(document: dict[str, Any], parameter: dict[str, Any], *, where: str) -> Schema:
    """Read a parameter's schema, in the form of OpenAPI 3 or Swagger 2."""
    if "schema" in parameter:
        schema = _inline(parameter["schema"], document, where=where)
    elif "content" in parameter:
        schema = _media_schema(document, parameter, where=where)
    else:
        schema = _inline(parameter, document, where=where)
    described = (
        {"description": str(parameter["description"]).strip()} if "description" in parameter else {}
    )
    return schema | described


def _media_schema(document: dict[str, Any], holder: dict[str, Any], *, where: str) -> Schema:
    """Read the schema of a body, of its JSON form where it has one."""
    content = _follow(holder.get("content", {}), document, where=where)
    media = next((media for media in content if "json" in media), next(iter(content), None))
    if media is None:
        return {}
    schema = _follow(content[media], document, where=where).get("schema", {})
    return _inline(schema, document, where=where)


def _add_body(schema: Schema, *, add: Callable[..., None], needed: bool) -> None:
    """Spread an object's properties as arguments; any other body is the argument `body`."""
    parts = [schema, *schema.get("allOf", ())]
    properties = {
        name: inner for part in parts for name, inner in part.get("properties", {}).items()
    }
    required = [name for part in parts for name in part.get("required", ())]
    for name, inner in properties.items():
        add(name, inner, needed=name in required)
    if schema and not properties:
        add("body", schema, needed=needed)


def _follow(node: Any, document: dict[str, Any], *, where: str) -> dict[str, Any]:
    """Follow references until an object is reached."""
    seen: set[str] = set()
    while isinstance(node, dict) and isinstance(node.get("$ref"), str):
        if node["$ref"] in seen:
            raise InputError(f'{where}: the $ref "{node["$ref"]}" leads back to itself')
        seen.add(node["$ref"])
        node = _look_up(node["$ref"], document, where=where)
    if not isinstance(node, dict):
        raise InputError(f"{where}: must be an object, got {_shorten(node)}")
    return node


def _look_up(reference: str, document: dict[str, Any], *, where: str) -> Any:
    if not reference.startswith("#/"):
        raise InputError(
            f'{where}: the $ref "{reference}" points outside the document; allowed are references'
            " that begin with #/, so bundle the document first"
        )
    node: Any = document
    for part in reference[2:].split("/"):
        key = unquote(part).replace("~1", "/").replace("~0", "~")
        if not isinstance(node, dict) or key not in node:
            raise InputError(f'{where}: the $ref "{reference}" leads nowhere in the document')
        node = node[key]
    return node


_COPIED = ("description", "default", "enum", "const", "format", "uniqueItems")
_NUMERIC = re.compile(
    "multipleOf|minimum|maximum|exclusiveMinimum|exclusiveMaximum|minLength|maxLength"
    "|minItems|maxItems|minProperties|maxProperties"
)
"""With `_COPIED`, the keywords that mean the same in OpenAPI and in JSON Schema. The others are
rewritten or dropped, for examples and vendor keys would only lengthen prompts."""


def _inline(
    schema: Any, document: dict[str, Any], *, where: str, inside: tuple[str, ...] = ()
) -> Schema:
    """Rewrite an OpenAPI schema as JSON Schema without references; a cycle becomes `{}`."""
    if isinstance(schema, bool):
        return {} if schema else {"not": {}}
    if not isinstance(schema, dict):
        raise InputError(f"{where}: a schema must be an object, got {_shorten(schema)}")

    def inline(inner: Any) -> Schema:
        return _inline(inner, document, where=where, inside=inside)

    reference = schema.get("$ref")
    if isinstance(reference, str):
        if reference in inside:
            return {}
        target = _look_up(reference, document, where=where)
        result = _inline(target, document, where=where, inside=(*inside, reference))
        return result | {key: schema[key] for key in ("description", "default") if key in schema}
    offered = _follow(schema.get("properties", {}), document, where=where)
    result = {}
    for key, value in schema.items():
        if key in _COPIED:
            result[key] = (
                value.strip() if key == "description" and isinstance(value, str) else value
            )
        elif _NUMERIC.fullmatch(key):
            result[key] = _read_number(value)
        elif key == "type":
            result[key] = "string" if value == "file" else value
        elif key == "properties":
            result[key] = {
                name: inline(inner) for name, inner in offered.items() if not _is_read_only(inner)
            }
        elif key in ("allOf", "anyOf", "oneOf") and isinstance(value, list):
            result[key] = [inline(inner) for inner in value]
        elif key in ("items", "not"):
            result[key] = inline(value)
        elif key == "additionalProperties" and isinstance(value, bool | dict):
            result[key] = value if isinstance(value, bool) else inline(value)
        elif key == "pattern" and _compiles(value):
            result[key] = value
    if isinstance(schema.get("required"), list):
        shown = result.get("properties", {})
        result["required"] = [
            name
            for name in schema["required"]
            if isinstance(name, str) and (name in shown or name not in offered)
        ]
    if result.get("type") in ("integer", "number") and "default" in result:
        result["default"] = _read_number(result["default"])
    nullable = schema.get("nullable", schema.get("x-nullable")) in _TRUE
    return _modernise(result, nullable=nullable)


def _read_number(value: Any) -> Any:
    """Read a number that a document wrote as text; leave everything else to the schema check."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except json.JSONDecodeError:
        return value


def _modernise(schema: Schema, *, nullable: bool) -> Schema:
    """Replace what OpenAPI 3.0 writes otherwise: flags for exclusive bounds, and `nullable`."""
    for bound, flag in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(schema.get(flag), bool) and schema.pop(flag) and bound in schema:
            schema[flag] = schema.pop(bound)
    return _or_null(schema) if nullable else schema


def _or_null(schema: Schema) -> Schema:
    """Let a schema with one type take null too."""
    if not isinstance(schema.get("type"), str):
        return {"anyOf": [schema, {"type": "null"}]} if schema else schema
    result = {**schema, "type": [schema["type"], "null"]}
    if isinstance(schema.get("enum"), list) and None not in schema["enum"]:
        result["enum"] = [*schema["enum"], None]
    return result


def _is_read_only(schema: object) -> bool:
    return isinstance(schema, dict) and schema.get("readOnly") in _TRUE


def _compiles(pattern: object) -> bool:
    try:
        re.compile(cast(str, pattern))
    except (re.error, TypeError):
        return False
    return True


Names = Mapping[str, ast.ClassDef | ast.expr]
"""What a module defines beside functions: classes and type aliases."""

_PLAIN_HINTS: dict[str, Schema] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "bytes": {"type": "string"},
    "Decimal": {"type": "number"},
    "Path": {"type": "string"},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time"},
    "datetime": {"type": "string", "format": "date-time"},
    "UUID": {"type": "string", "format": "uuid"},
    "Any": {},
    "object": {},
}
_LISTS = frozenset(["list", "List", "Sequence", "MutableSequence", "Iterable", "Collection"])
_SETS = frozenset(["set", "Set", "frozenset", "FrozenSet", "AbstractSet", "MutableSet"])
_DICTS = frozenset(["dict", "Dict", "Mapping", "MutableMapping"])
_WRAPPERS = frozenset(["Required", "NotRequired", "ReadOnly", "Final"])
_CONSTRAINTS = {
    "description": "description",
    "ge": "minimum",
    "gt": "exclusiveMinimum",
    "le": "maximum",
    "lt": "exclusiveMaximum",
    "multiple_of": "multipleOf",
    "pattern": "pattern",
    "min_length": "minLength",
    "max_length": "maxLength",
}
"""Keywords of `Field` and `Meta` calls, as pydantic and msgspec write them."""


def _find_in_python(text: str, *, source: str) -> Iterator[Found]:
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        line = error.lineno if isinstance(error, SyntaxError) else None
        raise InputError(
            f"{source}: neither JSON nor Python,{f' line {line}:' if line else ''}"
            f" {error.args[0]}; allowed are JSON, JSONL and Python files"
        ) from error
    names: dict[str, ast.ClassDef | ast.expr] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            names[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names[node.targets[0].id] = node.value
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            names[node.target.id] = node.value
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name[0] != "_":
            where = f"{source}: line {node.lineno} {node.name}"
            yield where, _read_function(node, names, where=where)


def _read_function(
    function: ast.FunctionDef | ast.AsyncFunctionDef, names: Names, *, where: str
) -> Tool:
    """Turn a function's hints, defaults and docstring into a tool."""
    try:
        docstring = google.parse(ast.get_docstring(function, clean=False) or "")
    except ParseError as error:
        raise InputError(
            f"{where}: the docstring is not in Google style ({error}); sections such as Args: hold"
            " indented lines of name: description"
        ) from error
    described = {
        entry.arg_name: {"description": " ".join((entry.description or "").split())}
        for entry in docstring.params
    }
    arguments = function.args
    if arguments.vararg is not None:
        raise InputError(
            f"{where}: *{arguments.vararg.arg} cannot be given by name; use a list parameter"
        )
    listed = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [
        *[None] * (len(listed) - len(arguments.defaults)),
        *arguments.defaults,
        *arguments.kw_defaults,
    ]
    schema: Schema = {"type": "object", "properties": {}, "required": []}
    for argument, default in zip((*listed, *arguments.kwonlyargs), defaults, strict=True):
        place = f"{where}({argument.arg})"
        if argument.annotation is None:
            raise InputError(f"{place}: has no type hint; allowed are {_ALLOWED_HINTS}")
        _add_field(
            schema,
            argument.arg,
            schema=_with_default(_hint(argument.annotation, names, where=place), default)
            | described.get(argument.arg, {}),
            needed=_is_needed(default),
        )
    if arguments.kwarg is not None:
        hint = arguments.kwarg.annotation
        schema["additionalProperties"] = hint is None or _hint(hint, names, where=where)
    return Tool(
        name=function.name,
        description=_first_paragraph(docstring.description or ""),
        parameters=schema,
        effect=_guess_effect(function.name),
    )


_ALLOWED_HINTS = (
    "str, int, float, bool, None, Any, date, time, datetime, UUID, Path, Decimal, list, set,"
    " tuple, dict, Optional, Union, Literal, Annotated, and classes and aliases of the same module"
)


def _add_field(target: Schema, name: str, *, schema: Schema, needed: bool) -> None:
    target["properties"][name] = schema
    if needed:
        target["required"].append(name)


def _is_field(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Call) and _last_name(node.func) in ("Field", "field")


def _is_needed(default: ast.expr | None) -> bool:
    """Say whether an argument must be given, seeing through `Field(...)`."""
    if not isinstance(default, ast.Call) or not _is_field(default):
        return default is None
    keywords = {keyword.arg: keyword.value for keyword in default.keywords}
    given = default.args[0] if default.args else keywords.get("default")
    return "default_factory" not in keywords and (
        given is None or (isinstance(given, ast.Constant) and given.value is ...)
    )


def _with_default(schema: Schema, default: ast.expr | None) -> Schema:
    """Add a default where it is a literal; other expressions are never evaluated."""
    if default is None:
        return schema
    if isinstance(default, ast.Call) and _is_field(default):
        schema = _constrain(schema, default)
        keywords = {keyword.arg: keyword.value for keyword in default.keywords}
        return _with_default(schema, default.args[0] if default.args else keywords.get("default"))
    try:
        value = json.loads(json.dumps(ast.literal_eval(default), allow_nan=False))
    except (ValueError, TypeError):
        return schema
    return {**schema, "default": value}


def _constrain(schema: Schema, call: ast.Call) -> Schema:
    """Add what a `Field` or `Meta` call says about its type."""
    result = dict(schema)
    for keyword in call.keywords:
        name = _CONSTRAINTS.get(keyword.arg or "")
        values = _enumeration([keyword.value])
        if name is not None and values is not None:
            counted = schema.get("type") == "array" and name.endswith("Length")
            result[name[:3] + "Items" if counted else name] = values["enum"][0]
    return result


def _last_name(node: ast.expr) -> str:
    """Name what is meant by `typing.List` or `List`."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _hint(node: ast.expr, names: Names, *, where: str, inside: tuple[str, ...] = ()) -> Schema:
    """Turn a type hint into a schema; a class inside itself becomes `{}`."""

    def read(inner: ast.expr) -> Schema:
        return _hint(inner, names, where=where, inside=inside)

    refused = InputError(
        f"{where}: the type hint {ast.unparse(node)} is not known; allowed are {_ALLOWED_HINTS}"
    )
    match node:
        case ast.Constant(value=None):
            return {"type": "null"}
        case ast.Constant(value=str(text)):
            try:
                return read(ast.parse(text, mode="eval").body)
            except SyntaxError:
                raise refused from None
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _union([read(left), read(right)])
        case ast.Name(id=name) if name in names:
            if name in inside:
                return {}
            defined = names[name]
            if isinstance(defined, ast.ClassDef):
                return _class_schema(defined, names, where=where, inside=(*inside, name))
            return _hint(defined, names, where=where, inside=(*inside, name))
        case ast.Name() | ast.Attribute():
            name = _last_name(node)
            if name in _PLAIN_HINTS:
                return dict(_PLAIN_HINTS[name])
            schema = _generic(name, [], read)
        case ast.Subscript(value=base, slice=ast.Tuple(elts=items)):
            schema = _generic(_last_name(base), items, read)
        case ast.Subscript(value=base, slice=item):
            schema = _generic(_last_name(base), [item], read)
        case ast.Call(func=function, args=[_, inner]) if _last_name(function) == "NewType":
            return read(inner)
        case _:
            schema = None
    if schema is None:
        raise refused
    return schema


def _generic(name: str, items: list[ast.expr], read: Callable[[ast.expr], Schema]) -> Schema | None:
    """Turn a generic type and its arguments into a schema; None where it is not known."""
    first = read(items[0]) if items and name not in ("Literal", "Annotated") else {}
    if name in _LISTS or name in _SETS:
        unique = {"uniqueItems": True} if name in _SETS else {}
        return {"type": "array", **({"items": first} if first else {}), **unique}
    if name in ("tuple", "Tuple"):
        return _tuple_schema(items, read)
    if name in _DICTS:
        values = read(items[1]) if len(items) == 2 else {}
        return {"type": "object", **({"additionalProperties": values} if values else {})}
    if not items:
        return None
    if name == "Literal":
        return _enumeration(items)
    if name == "Annotated":
        schema = read(items[0])
        for note in items[1:]:
            if isinstance(note, ast.Constant) and isinstance(note.value, str):
                schema = {**schema, "description": note.value}
            elif isinstance(note, ast.Call):
                schema = _constrain(schema, note)
        return schema
    if name == "Optional":
        return _union([first, {"type": "null"}])
    if name == "Union":
        return _union([read(item) for item in items])
    return first if name in _WRAPPERS else None


def _tuple_schema(items: list[ast.expr], read: Callable[[ast.expr], Schema]) -> Schema:
    if not items:
        return {"type": "array"}
    if isinstance(items[-1], ast.Constant) and items[-1].value is ...:
        return {"type": "array", "items": read(items[0])}
    return {
        "type": "array",
        "prefixItems": [read(item) for item in items],
        "minItems": len(items),
        "maxItems": len(items),
    }


def _enumeration(items: list[ast.expr]) -> Schema | None:
    """List the values that literals name; None where one is no string, number or None."""
    try:
        values = [ast.literal_eval(item) for item in items]
    except (ValueError, TypeError):
        return None
    if not all(value is None or isinstance(value, str | int | float) for value in values):
        return None
    kinds = {str: "string", bool: "boolean", int: "integer", float: "number"}
    types = {kinds.get(type(value)) for value in values}
    kind = types.pop() if len(types) == 1 else None
    return {**({"type": kind} if kind else {}), "enum": values}


def _union(schemas: list[Schema]) -> Schema:
    """Join alternatives: anything wins, null joins the type of a single other, `anyOf` else."""
    if {} in schemas:
        return {}
    parts = [inner for schema in schemas for inner in schema.get("anyOf", [schema])]
    others = [schema for schema in parts if schema != {"type": "null"}]
    if len(others) == 1 and len(parts) > 1:
        return _or_null(others[0])
    return {"anyOf": parts} if len(parts) > 1 else parts[0]


def _class_schema(
    node: ast.ClassDef, names: Names, *, where: str, inside: tuple[str, ...]
) -> Schema:
    """Turn an enum, a dataclass, a typed dict or a model of the module into a schema."""
    bases = [_last_name(base) for base in node.bases]
    if any(base.endswith("Enum") for base in bases):
        members = [item.value for item in node.body if isinstance(item, ast.Assign)]
        enumeration = _enumeration(members)
        if not members or enumeration is None:
            raise InputError(
                f"{where}: the enum {node.name} must give its members strings or numbers"
            )
        return enumeration
    schema: Schema = {"type": "object", "properties": {}, "required": []}
    for base in bases:
        parent = names.get(base)
        if isinstance(parent, ast.ClassDef) and base not in inside:
            inherited = _class_schema(parent, names, where=where, inside=(*inside, base))
            schema["properties"] |= inherited.get("properties", {})
            schema["required"] += inherited.get("required", [])
    total = not any(
        keyword.arg == "total" and ast.unparse(keyword.value) == "False"
        for keyword in node.keywords
    )
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        wrapper = item.annotation
        marker = _last_name(wrapper.value) if isinstance(wrapper, ast.Subscript) else ""
        if marker == "ClassVar":
            continue
        _add_field(
            schema,
            item.target.id,
            schema=_with_default(
                _hint(item.annotation, names, where=where, inside=inside), item.value
            ),
            needed=marker == "Required"
            or (total and marker != "NotRequired" and _is_needed(item.value)),
        )
    return schema
