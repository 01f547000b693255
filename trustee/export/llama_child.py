"""Asking llama.cpp what it makes of a GGUF file, in a process of its own.

llama.cpp ends its process where a file is wrong, and writes to the screen. So the question comes as
JSON through standard input, and the answer goes as JSON into a file.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from trustee.decoding import decode_json, read_file
from trustee.errors import RunError
from trustee.types import Record

SECONDS = 3600.0
"""Longest time that all questions may take: a full-size model reads them on a CPU."""
SHOWN = 400
"""Last letters of llama.cpp's own words that an error shows."""


class Prediction(Record, frozen=True):
    """A prompt, and the answer of which each token is to be predicted."""

    prompt: tuple[int, ...]
    ids: tuple[int, ...]


class LlamaQuestion(Record, frozen=True):
    """What llama.cpp is asked about a file."""

    model: str
    adapter: str | None
    conversations: tuple[dict[str, Any], ...]
    """Messages and tools to be rendered with the file's own template."""
    predictions: tuple[Prediction, ...]
    context: int


class LlamaAnswer(Record, frozen=True):
    """What llama.cpp makes of the file."""

    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    """Tokens of each text, as llama.cpp cuts it."""
    said: tuple[tuple[int, ...], ...]
    """The most likely token at each place of each answer."""


def has_llama() -> bool:
    """Whether the package with llama.cpp is installed."""
    return find_spec("xllamacpp") is not None


def ask_llama(question: LlamaQuestion) -> LlamaAnswer:
    """Ask llama.cpp about a file.

    Raises:
        RunError: if it cannot load the file, or ends before it has answered.
    """
    with tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch) / "answer.json"
        try:
            ended = subprocess.run(
                [sys.executable, "-m", "trustee.export.llama_child", str(answer)],
                input=msgspec.json.encode(question),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RunError(f"llama.cpp did not answer within {SECONDS:.0f} s") from None
        if ended.returncode or not answer.is_file():
            words = ended.stdout.decode(errors="replace").strip()[-SHOWN:]
            raise RunError(
                f"llama.cpp ended with code {ended.returncode} on {question.model}: {words}"
            )
        return decode_json(read_file(answer, error=RunError), LlamaAnswer, error=RunError)


def answer_as_child(question: LlamaQuestion) -> LlamaAnswer:
    """Load the file and ask it everything."""
    import httpx2
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = question.model
    if question.adapter:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(question.adapter, 1.0)]
    params.n_ctx = question.context
    params.n_parallel = 1
    params.use_jinja = True
    params.warmup = False
    server = xllamacpp.Server(params)
    with httpx2.Client(base_url=server.listening_address, timeout=SECONDS) as client:

        def post(route: str, content: object) -> Any:
            reply = client.post(route, json=content)
            reply.raise_for_status()
            return reply.json()

        texts, ids = [], []
        for conversation in question.conversations:
            texts.append(post("/apply-template", conversation)["prompt"])
            cut = {"content": texts[-1], "add_special": False, "parse_special": True}
            ids.append(tuple(post("/tokenize", cut)["tokens"]))
        said = []
        for one in question.predictions:
            own = []
            for at in range(len(one.ids)):
                reply = post(
                    "/completion",
                    {
                        "prompt": [*one.prompt, *one.ids[:at]],
                        "n_predict": 1,
                        "temperature": 0.0,
                        "n_probs": 1,
                        "cache_prompt": True,
                        "return_tokens": True,
                    },
                )
                own.append(reply["completion_probabilities"][0]["id"])
            said.append(tuple(own))
    return LlamaAnswer(texts=tuple(texts), ids=tuple(ids), said=tuple(said))


def main(arguments: Sequence[str]) -> None:
    """Answer the question on standard input into the file that is named."""
    question = decode_json(sys.stdin.buffer.read(), LlamaQuestion, error=RunError)
    Path(arguments[0]).write_bytes(msgspec.json.encode(answer_as_child(question)))


if __name__ == "__main__":
    main(sys.argv[1:])
