"""The simulator behind an endpoint: the same prompts and checks, asked as chat completions.

An exported package has no engine. What a role must answer is a JSON Schema there too
(`response_format`), and what the endpoint refuses or cuts off is a failed try.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from trustee.decoding import decode_json
from trustee.environments.simulated.rules import Rules
from trustee.environments.simulator import RoleSampling, Simulator, Spoken, UnusableAnswer
from trustee.errors import AnswerError, InputError
from trustee.sft.endpoint import Endpoint, Settings
from trustee.types import Message, Record, Role, Tool

NAMED = Settings(
    address="TRUSTEE_SIMULATOR_URL", model="TRUSTEE_SIMULATOR_MODEL", key="TRUSTEE_SIMULATOR_KEY"
)
"""Environment variables that say which endpoint plays the simulator."""
PARALLEL = 64
"""Requests of one process that are open at once."""


class SimulatedRules(Record, frozen=True):
    """What a package says about its world, beside the tasks."""

    rules: Rules
    roles: dict[Role, RoleSampling]
    """How each role samples."""
    tries: int
    base: str
    """Name of the model that wrote the tasks, as `trustee serve` offers it."""
    turns: int
    """Most messages of the policy in an episode."""


class RemoteSimulator(Simulator):
    """The base at an endpoint for chat completions that keeps an answer to a schema."""

    def __init__(
        self, endpoint: Endpoint, *, sampling_by_role: Mapping[Role, RoleSampling], tries: int
    ) -> None:
        super().__init__(sampling_by_role=sampling_by_role, tries=tries)
        self._endpoint = endpoint

    def measure(self, messages: Sequence[Message], tools: Sequence[Tool]) -> int:
        """Measure nothing: ids are the endpoint's, and worlds that count them are not exported."""
        raise AssertionError("an endpoint tells no ids; tasks are written by an engine")

    async def speak(
        self, role: Role, prompt: Sequence[Message], schema: str, *, seed: int, attempt: int
    ) -> Spoken:
        """Have a role answer; one try."""
        settings = self._sampling_by_role[role]
        refusal, text = None, ""
        try:
            message = await self._endpoint.ask(
                {
                    "messages": [{"role": one.role, "content": one.content} for one in prompt],
                    "response_format": {
                        "type": "json_schema",
                        "json_schema": {
                            "name": "answer",
                            "strict": True,
                            "schema": decode_json(schema, error=AssertionError),
                        },
                    },
                    "max_tokens": settings.max_tokens,
                    "temperature": self.heat(role, attempt),
                    "seed": (seed + attempt) % (1 << 31),
                    "chat_template_kwargs": {"enable_thinking": settings.thinking},
                    **_unusual(settings),
                }
            )
            text = message.content
        except AnswerError as error:
            refusal = UnusableAnswer(str(error))
        # The endpoint's books hold its tokens; nothing here pays for them.
        return Spoken(thought="", text=text, read=0, cached=0, written=0, refusal=refusal)


def _unusual(settings: RoleSampling) -> dict[str, Any]:
    """Return what differs from every server's defaults; some servers refuse the rest by name."""
    given = {
        "top_p": (settings.top_p, 1.0),
        "top_k": (settings.top_k, 0),
        "frequency_penalty": (settings.penalty, 0.0),
    }
    return {name: value for name, (value, usual) in given.items() if value != usual}


@asynccontextmanager
async def open_simulator(world: SimulatedRules) -> AsyncIterator[RemoteSimulator]:
    """Open the endpoint that the environment variables name.

    Raises:
        InputError: if they name none.
    """
    url = os.environ.get(NAMED.address, "")
    if not url:
        raise InputError(
            f"{NAMED.address} is not set: the user, the tools and the judge of this world are a "
            f"model; set it to an endpoint that serves {world.base}, such as http://127.0.0.1:8000/v1"
        )
    model = os.environ.get(NAMED.model, "") or world.base
    async with Endpoint(url, model=model, parallel=PARALLEL, named=NAMED) as endpoint:
        yield RemoteSimulator(endpoint, sampling_by_role=world.roles, tries=world.tries)
