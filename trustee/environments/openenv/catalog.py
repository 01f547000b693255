"""What an OpenEnv server says of itself over HTTP: its actions, and its tasks by split."""

from __future__ import annotations

from typing import Any

import httpx2

from trustee.decoding import decode_json
from trustee.errors import InputError, ServerError
from trustee.types import Record

MOST_ANSWER_BYTES = 8 << 20
"""Size of the largest answer that is read."""
MOST_TASKS = 1_000_000
"""Tasks of a split that are dealt; of more, the first so many."""
TOOL_FIELDS = frozenset(("tool_name", "arguments"))
OTHER_FIELDS = frozenset(("metadata", "type"))


class Split(Record, frozen=True):
    """A split of a server's tasks."""

    name: str
    type: str
    count: int


class Catalog(Record, frozen=True):
    """What a server offers."""

    has_tools: bool
    """Whether actions are calls of tools that it lists; else `action` describes them."""
    action: dict[str, Any]
    """JSON Schema of an action, without what only programs fill in."""
    splits: tuple[Split, ...]
    """Splits of its tasks; empty where it has none, and seeds make the tasks."""

    def find(self, named: str, *, held_out: bool) -> Split | None:
        """Return the split for training or evaluation, by its name or else by its type.

        Raises:
            InputError: if the server has splits, and not this one.
        """
        wanted = ("test", "validation", "train") if held_out else ("train",)
        for split in self.splits:
            if split.name == named:
                return split
        if named:
            names = ", ".join(split.name for split in self.splits) or "none"
            raise InputError(f"the server has no split {named!r}; its splits are: {names}")
        by_type = {split.type: split for split in reversed(self.splits)}
        found = next((by_type[kind] for kind in wanted if kind in by_type), None)
        return found or next(iter(self.splits), None)


async def read_catalog(url: str, *, seconds: float) -> Catalog:
    """Ask a server what it offers.

    Raises:
        ServerError: if it cannot be reached, or does not answer as such a server does.
    """
    address = url.rstrip("/")
    async with httpx2.AsyncClient(timeout=seconds) as client:
        schema = await _ask(client, "GET", f"{address}/schema")
        action = schema.get("action") if isinstance(schema, dict) else None
        if not isinstance(action, dict):
            raise ServerError(f"{url}: /schema describes no action; is it an OpenEnv server?")
        splits = await _list_splits(client, address)
    fields = dict(action.get("properties") or {})
    own = fields.keys() - OTHER_FIELDS
    return Catalog(
        has_tools=own <= TOOL_FIELDS,
        action={**action, "properties": {k: v for k, v in fields.items() if k != "metadata"}},
        splits=splits,
    )


async def _list_splits(client: httpx2.AsyncClient, address: str) -> tuple[Split, ...]:
    names = await _ask(client, "GET", f"{address}/list_environments", optional=True)
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        return ()
    place = f"{address}/{names[0]}"
    found = await _ask(client, "GET", f"{place}/splits", optional=True)
    splits = []
    for split in found if isinstance(found, list) else []:
        name = split.get("name") if isinstance(split, dict) else None
        if not isinstance(name, str):
            raise ServerError(f"{place}/splits: a split has no name")
        answer = await _ask(client, "POST", f"{place}/num_tasks", json={"split": name})
        count = answer.get("num_tasks") if isinstance(answer, dict) else None
        if not isinstance(count, int) or count < 0:
            raise ServerError(f"{place}/num_tasks: no count for {name}")
        if count:
            kind = str(split.get("type", ""))
            splits.append(Split(name=name, type=kind, count=min(count, MOST_TASKS)))
    return tuple(splits)


async def _ask(
    client: httpx2.AsyncClient, method: str, url: str, *, optional: bool = False, json: Any = None
) -> Any:
    """Return the decoded answer; None where the server does not have what is optional."""
    try:
        async with client.stream(method, url, json=json) as response:
            data = b""
            async for piece in response.aiter_bytes():
                data += piece
                if len(data) > MOST_ANSWER_BYTES:
                    raise ServerError(f"{url}: the answer is too long")
    except httpx2.HTTPError as error:
        raise ServerError(f"{url}: cannot be reached ({error or type(error).__name__})") from error
    if optional and response.status_code in (404, 405, 501):
        return None
    if response.status_code != 200:
        raise ServerError(f"{url}: answered with HTTP {response.status_code}")
    return decode_json(data, error=lambda why: ServerError(f"{url}: {why}"))
