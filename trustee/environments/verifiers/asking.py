"""What the process asks in an episode: prompts in ids, and what the policy says to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trustee.environments.seat import Seat, Spoken
from trustee.environments.verifiers.branches import index_spoken
from trustee.errors import InputError, ServerError
from trustee.tools.chat import read_chat_messages, read_offered_tools
from trustee.types import BadCall, Stop, Tool


class SeatTable:
    """Answers what the process asks in an episode, and keeps what was said."""

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        self.spoken: list[Spoken] = []
        self.refused: Stop | None = None
        """The limit because of which the policy was asked in vain."""
        self._tools: dict[tuple[int, ...], tuple[Tool, ...]] = {}
        """Tools that a prompt shows."""

    async def answer(self, act: str, data: dict[str, Any]) -> dict[str, Any]:
        """Answer one question.

        Raises:
            ServerError: if it cannot be understood.
            EngineError: if the engine gave no answer.
        """
        try:
            match act:
                case "limits":
                    return {"context": self.seat.context}
                case "open":
                    tools = read_offered_tools(data["tools"])
                    return self._rendered(
                        self.seat.open(read_chat_messages(data["messages"]), tools), tools
                    )
                case "extend":
                    return self._extend(data)
                case "speak":
                    return await self._speak(data)
        except InputError as error:
            # A message that no template can show, such as a picture, ends the run in the process.
            return {"refused": str(error)}
        except (KeyError, TypeError) as error:
            raise ServerError(f"the process asked for {act} without {error}") from error
        raise ServerError(f"the process asked for {act}, which is not known")

    def _rendered(self, ids: tuple[int, ...], tools: tuple[Tool, ...]) -> dict[str, Any]:
        self._tools[ids] = tools
        return {"ids": ids}

    def _extend(self, data: Mapping[str, Any]) -> dict[str, Any]:
        prompt, completion = tuple(data["prompt"]), tuple(data["completion"])
        said = index_spoken(self.spoken).get((prompt, completion))
        if said is None:
            # Not what was sampled, so the whole conversation is rendered.
            return {"ids": None}
        tail = self.seat.extend(
            completion, read_chat_messages(data["messages"]), calls=said.message.calls
        )
        return self._rendered((*prompt, *completion, *tail), read_offered_tools(data["tools"]))

    async def _speak(self, data: Mapping[str, Any]) -> dict[str, Any]:
        ids = tuple(data["ids"])
        said = await self.seat.speak(
            ids, tools=self._tools.get(ids, ()), speaker=str(data["speaker"]), most=data["most"]
        )
        if isinstance(said, Stop):
            self.refused = said
            return {"refused": f"the limit of this episode is reached ({said})"}
        self.spoken.append(said)
        message = said.message
        calls = [
            {
                "id": call.id,
                "name": "" if isinstance(call, BadCall) else call.name,
                "arguments": {} if isinstance(call, BadCall) else call.arguments,
            }
            for call in message.calls
        ]
        return {
            "id": str(len(self.spoken)),
            "ids": said.completion.ids,
            "logprobs": said.completion.logprobs,
            "stop": said.completion.stop,
            "message": {"content": message.content, "thinking": message.thinking, "calls": calls},
        }
