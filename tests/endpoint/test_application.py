"""The endpoint as clients see it: OpenAI's own client, plain HTTP, and what it refuses."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from golden_errors import ErrorCheck
from served_script import DEADLINE, Served, serve_script
from trustee.endpoint.guard import KEY, EndpointLimits, read_serve_key
from trustee.engine.script import Request
from trustee.engine.scripted import STOP, VOCABULARY, ByteTokenizer
from trustee.errors import EngineDied, EngineError, InputError
from trustee.rendering.chat_templates import ChatStyle

openai = pytest.importorskip("openai")

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Finds a thing.",
            "parameters": {
                "type": "object",
                "properties": {"thing": {"type": "string"}},
                "required": ["thing"],
            },
        },
    }
    for name in ("find_thing", "hide_thing")
]
ONE = '<tool_call>{"name": "find_thing", "arguments": {"thing": "é"}}</tool_call>'
TWO = '<tool_call>{"name": "hide_thing", "arguments": {"thing": "key"}}</tool_call>'
QUESTION = [{"role": "user", "content": "where?"}]


async def speak(request: Request) -> str:
    """Answer by what the last user message asks for."""
    asked = request.prompt.rpartition("<|im_start|>user\n")[2].split("<|im_end|>")[0]
    thought = "hm</think>" if request.prompt.endswith("<think>") else ""
    if request.sampling.schema:
        return '{"name": "hide_thing", "arguments": {"thing": "x"}}'
    if thought and request.sampling.stop_ids:
        return thought
    match asked:
        case "slow":
            await anyio.sleep(DEADLINE)
        case "die":
            raise EngineDied("gone")
        case "break":
            raise EngineError("broken")
    answers = {
        "calls": f"I look.\n{ONE}\n{TWO}",
        "bad": "<tool_call>nonsense</tool_call>",
        "think": "<think>hm</think>\nyes",
    }
    return thought + answers.get(asked, f"heard {asked}")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """Serve the script with two adapters."""
    with serve_script(
        speak,
        tmp_path,
        adapters=lambda: {"policy-000001": tmp_path / "one", "policy-000002": tmp_path / "two"},
    ) as found:
        yield found


@pytest.fixture
def client(served: Served) -> Iterator[Any]:
    """OpenAI's client, which tries nothing twice."""
    with openai.OpenAI(
        base_url=f"{served.address}/v1", api_key="none", max_retries=0, timeout=DEADLINE
    ) as opened:
        yield opened


def test_plain_answer(client: Any) -> None:
    """A question is answered, with the tokens counted."""
    answer = client.chat.completions.create(model="scripted", messages=QUESTION)
    (choice,) = answer.choices
    assert ("heard where?", "stop", None) == (
        choice.message.content,
        choice.finish_reason,
        choice.message.tool_calls,
    )
    assert len("heard where?") + 1 == answer.usage.completion_tokens
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_calls(client: Any) -> None:
    """Several calls of one message come with ids of their own, and the text beside them."""
    answer = client.chat.completions.create(
        model="scripted", messages=[{"role": "user", "content": "calls"}], tools=TOOLS
    )
    (choice,) = answer.choices
    assert ("I look.", "tool_calls") == (choice.message.content, choice.finish_reason)
    found = [(c.function.name, json.loads(c.function.arguments)) for c in choice.message.tool_calls]
    assert [("find_thing", {"thing": "é"}), ("hide_thing", {"thing": "key"})] == found
    assert 2 == len({call.id for call in choice.message.tool_calls})


def test_one_call_at_most(client: Any) -> None:
    """Without parallel calls the first alone is given."""
    for stream in (False, True):
        answer = client.chat.completions.create(
            model="scripted",
            messages=[{"role": "user", "content": "calls"}],
            tools=TOOLS,
            parallel_tool_calls=False,
            stream=stream,
        )
        if stream:
            calls = [c for chunk in answer for c in chunk.choices[0].delta.tool_calls or ()]
            names = [call.function.name for call in calls if call.function.name]
        else:
            names = [call.function.name for call in answer.choices[0].message.tool_calls]
        assert ["find_thing"] == names


def test_conversation_with_results(client: Any, served: Served) -> None:
    """Calls and results of earlier turns reach the model as in training."""
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "find_thing", "arguments": '{"thing": "é"}'},
    }
    client.chat.completions.create(
        model="scripted",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "calls"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "in the box"},
        ],
        tools=TOOLS,
    )
    prompt = served.engine.requests[-1].prompt
    assert (
        f"<|im_start|>assistant\n{ONE}<|im_end|>\n<|im_start|>tool\nin the box<|im_end|>" in prompt
    )
    assert prompt.startswith("<|im_start|>tools\n")


def test_streamed_text(client: Any) -> None:
    """A stream adds up to the answer, and ends with the tokens where they are asked for."""
    chunks = list(
        client.chat.completions.create(
            model="scripted",
            messages=QUESTION,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    texts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "heard where?" == "".join(texts)
    assert len([text for text in texts if text]) > 3, "it comes in pieces"
    assert "assistant" == chunks[0].choices[0].delta.role
    assert ["stop"] == [c.choices[0].finish_reason for c in chunks if c.choices][-1:]
    assert len("heard where?") + 1 == chunks[-1].usage.completion_tokens


def test_streamed_calls(client: Any) -> None:
    """The client's own accumulator puts the streamed calls together as they are given whole."""
    question = {"model": "scripted", "messages": [{"role": "user", "content": "calls"}]}
    with client.chat.completions.stream(**question, tools=TOOLS) as stream:
        for _ in stream:
            pass
        (choice,) = stream.get_final_completion().choices
    assert ("I look.", "tool_calls") == (choice.message.content, choice.finish_reason)
    found = [(c.function.name, json.loads(c.function.arguments)) for c in choice.message.tool_calls]
    assert [("find_thing", {"thing": "é"}), ("hide_thing", {"thing": "key"})] == found


def test_no_tool_choice_means_no_call(client: Any, served: Served) -> None:
    """With `none` nothing is offered, and what looks like a call is text."""
    for stream in (False, True):
        answer = client.chat.completions.create(
            model="scripted",
            messages=[{"role": "user", "content": "calls"}],
            tools=TOOLS,
            tool_choice="none",
            stream=stream,
        )
        if stream:
            text = "".join(chunk.choices[0].delta.content or "" for chunk in answer)
        else:
            text = answer.choices[0].message.content
            assert answer.choices[0].message.tool_calls is None
        assert ONE in text
        assert "find_thing" not in served.engine.requests[-1].prompt.split("assistant")[0]


NAMED = {"type": "function", "function": {"name": "hide_thing"}}


@pytest.mark.parametrize(
    ("choice", "names"), [("required", ["find_thing", "hide_thing"]), (NAMED, ["hide_thing"])]
)
def test_forced_call(client: Any, served: Served, choice: Any, names: list[str]) -> None:
    """The engine samples under a grammar of the tools of which one must be called."""
    answer = client.chat.completions.create(
        model="scripted", messages=QUESTION, tools=TOOLS, tool_choice=choice
    )
    (call,) = answer.choices[0].message.tool_calls
    assert ("hide_thing", '{"thing": "x"}') == (call.function.name, call.function.arguments)
    assert "tool_calls" == answer.choices[0].finish_reason
    asked = served.engine.requests[-1]
    assert asked.prompt.endswith("<|im_start|>assistant\n<tool_call>")
    assert asked.sampling.schema is not None
    schema = json.loads(asked.sampling.schema)
    forms = schema.get("anyOf", [schema])
    assert names == [form["properties"]["name"]["const"] for form in forms]


def test_forced_call_is_streamed(client: Any) -> None:
    """A forced call comes as chunks too."""
    chunks = client.chat.completions.create(
        model="scripted", messages=QUESTION, tools=TOOLS, tool_choice="required", stream=True
    )
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert ["hide_thing", None] == [call.function.name for call in calls]
    assert '{"thing": "x"}' == "".join(call.function.arguments for call in calls)


def test_form_of_an_answer(client: Any, served: Served) -> None:
    """A schema for the answer is the engine's grammar."""
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    answer = client.chat.completions.create(
        model="scripted",
        messages=QUESTION,
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    )
    assert "hide_thing" in answer.choices[0].message.content
    assert schema == json.loads(served.engine.requests[-1].sampling.schema or "")


def test_call_that_cannot_be_read_is_text(client: Any) -> None:
    """Nothing that the model wrote is lost."""
    answer = client.chat.completions.create(
        model="scripted", messages=[{"role": "user", "content": "bad"}], tools=TOOLS
    )
    assert ("nonsense", "stop") == (
        answer.choices[0].message.content,
        answer.choices[0].finish_reason,
    )


def test_thought_is_apart(client: Any) -> None:
    """A thought is no content; clients that know it find it."""
    answer = client.chat.completions.create(
        model="scripted", messages=[{"role": "user", "content": "think"}]
    )
    assert ("yes", "hm") == (
        answer.choices[0].message.content,
        answer.choices[0].message.reasoning_content,
    )


def test_stop_text_and_limit(client: Any) -> None:
    """An answer ends before a stop, or at its limit, and says which."""
    for stream in (False, True):
        found = []
        for more in ({"stop": ["whe"]}, {"max_tokens": 5}):
            answer = client.chat.completions.create(
                model="scripted", messages=QUESTION, stream=stream, **more
            )
            if stream:
                chunks = list(answer)
                text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
                found.append((text, chunks[-1].choices[0].finish_reason))
            else:
                (choice,) = answer.choices
                found.append((choice.message.content, choice.finish_reason))
        assert [("heard", "stop"), ("heard", "length")] == found


def test_logprobs(client: Any) -> None:
    """Each sampled token has its own."""
    answer = client.chat.completions.create(model="scripted", messages=QUESTION, logprobs=True)
    content = answer.choices[0].logprobs.content
    assert "heard where?<|im_end|>" == "".join(entry.token for entry in content)
    assert {0.0} == {entry.logprob for entry in content}


def test_thinking_model_thinks_before_it_is_forced(tmp_path: Path) -> None:
    """A grammar applies behind the thought, which is given apart."""
    with serve_script(speak, tmp_path, style=ChatStyle(thinking=True)) as served:
        answer = served.chat("hi", tools=TOOLS, tool_choice="required").json()
        off = served.chat(
            "hi", tools=TOOLS, tool_choice=NAMED, chat_template_kwargs={"enable_thinking": False}
        ).json()
        short = served.chat("hi", tools=TOOLS, tool_choice="required", max_tokens=3)
    message = answer["choices"][0]["message"]
    assert ("hm", "hide_thing") == (
        message["reasoning_content"],
        message["tool_calls"][0]["function"]["name"],
    )
    assert "reasoning_content" not in off["choices"][0]["message"]
    assert (400, "max_completion_tokens") == (short.status_code, short.json()["error"]["param"])


def test_models(client: Any, served: Served) -> None:
    """The base, the newest adapter by the name that moves, and each adapter by its own."""
    found = {model.id: model for model in client.models.list()}
    assert ["scripted", "policy", "policy-000001", "policy-000002"] == list(found)
    assert (8192, "scripted", "policy-000002") == (
        found["policy-000001"].max_model_len,
        found["policy-000001"].parent,
        found["policy"].root,
    )
    assert "policy-000001" == client.models.retrieve("policy-000001").id
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


def test_adapters_answer_by_name(client: Any, served: Served, tmp_path: Path) -> None:
    """Each name is its own version; the answer says which one spoke."""
    for name, source in (("policy-000001", "one"), ("policy", "two"), ("policy-000002", "two")):
        answer = client.chat.completions.create(model=name, messages=QUESTION)
        adapter = served.engine.requests[-1].adapter
        assert adapter is not None
        assert served.engine.sources[adapter.version] == tmp_path / source
        assert answer.model == {"one": "policy-000001", "two": "policy-000002"}[source]
    client.chat.completions.create(model="scripted", messages=QUESTION)
    assert served.engine.requests[-1].adapter is None


TOKENS = "/inference/v1/generate"


def test_token_route(served: Served) -> None:
    """Ids in; ids, logprobs and the reason of the end out."""
    ids = ByteTokenizer().encode("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    asked = {
        "model": "scripted",
        "token_ids": ids,
        "sampling_params": {"max_tokens": 50, "logprobs": 1, "stop_token_ids": [STOP]},
        "request_id": "mine",
        "return_token_ids": True,
    }
    answer = served.post(TOKENS, asked).json()
    (choice,) = answer["choices"]
    assert [*ByteTokenizer().encode("heard hi"), STOP] == choice["token_ids"]
    assert "stop" == choice["finish_reason"]
    assert [f"token_id:{id}" for id in choice["token_ids"]] == [
        entry["token"] for entry in choice["logprobs"]["content"]
    ]
    assert ("mine", ids, "scripted") == (
        answer["request_id"],
        answer["prompt_token_ids"],
        answer["model"],
    )
    assert served.engine.requests[-1].sampling.max_tokens == 50


def test_streamed_tokens(served: Served) -> None:
    """The pieces of a stream add up to the whole."""
    ids = ByteTokenizer().encode("<|im_start|>user\nhi<|im_end|>\n")
    lines = served.post(TOKENS, {"token_ids": ids, "stream": True}).text.split("\n\n")
    assert "data: [DONE]" == lines[-2]
    events = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    found = [id for event in events for id in event["choices"][0]["token_ids"]]
    assert [*ByteTokenizer().encode("heard hi"), STOP] == found
    assert "stop" == events[-1]["choices"][0]["finish_reason"]


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("chat", [], "JSON object"),
        ("chat", {"messages": []}, "messages"),
        ("chat", {"messages": [{"role": "wizard", "content": ""}]}, "wizard"),
        ("chat", {"messages": QUESTION, "temperature": 9}, "temperature"),
        ("chat", {"messages": QUESTION, "n": 2}, "n has no effect"),
        ("chat", {"messages": QUESTION, "stopp": "x"}, "stopp"),
        ("chat", {"messages": QUESTION, "tools": [{"type": "function"}]}, "tools[0]"),
        ("chat", {"messages": QUESTION, "tool_choice": "required"}, "no tools"),
        ("chat", {"messages": QUESTION, "tools": TOOLS, "tool_choice": "some"}, "tool_choice"),
        (
            "chat",
            {
                "messages": QUESTION,
                "tools": TOOLS,
                "tool_choice": {"type": "function", "function": {"name": "fly"}},
            },
            "fly",
        ),
        (
            "chat",
            {"messages": QUESTION, "tools": TOOLS, "response_format": {"type": "json_object"}},
            "response_format",
        ),
        ("chat", {"messages": QUESTION, "chat_template_kwargs": {"x": 1}}, "enable_thinking"),
        ("chat", {"messages": QUESTION, "model": "gpt-9"}, "gpt-9"),
        ("chat", {"messages": [{"role": "user", "content": "x" * 9000}]}, "context"),
        ("tokens", {"token_ids": []}, "token_ids"),
        ("tokens", {"token_ids": [-1]}, "token_ids"),
        ("tokens", {"token_ids": [VOCABULARY]}, "vocabulary"),
        ("tokens", {"token_ids": [1], "sampling_params": {"logprobs": 5}}, "logprobs"),
        ("tokens", {"token_ids": [1], "sampling_params": {"stop": ["x"]}}, "stop_token_ids"),
        ("tokens", {"token_ids": [1], "sampling_params": {"min_p": 0.5}}, "min_p"),
        ("tokens", {"token_ids": [1] * 8192}, "room"),
    ],
)
def test_what_cannot_be_asked(
    served: Served, check_error: ErrorCheck, path: str, body: Any, named: str
) -> None:
    """A request that cannot be answered as it is gets an error in OpenAI's form."""
    answer = served.post("/v1/chat/completions" if path == "chat" else TOKENS, body)
    assert answer.status_code in (400, 404)
    check_error(answer.json()["error"]["message"], named)
    assert {"message", "type", "param", "code"} == set(answer.json()["error"])


def test_other_routes(served: Served) -> None:
    """There are no others, and errors have the same form there."""
    for method, path, status in (("GET", "/v2", 404), ("GET", "/v1/chat/completions", 405)):
        answer = httpx2.request(method, f"{served.address}{path}")
        assert (status, status) == (answer.status_code, answer.json()["error"]["code"])
    assert 200 == httpx2.get(f"{served.address}/health").status_code


def test_body_is_limited(tmp_path: Path) -> None:
    """Neither a large body, nor one of another kind, nor one that does not come, is read."""
    limits = EndpointLimits(body_bytes=1024, read_seconds=0.2)
    with serve_script(speak, tmp_path, limits=limits) as served:
        assert 413 == served.chat("x" * 2000).status_code
        url = f"{served.address}/v1/chat/completions"
        assert 415 == httpx2.post(url, content=b"{}").status_code
        json_kind = {"content-type": "application/json"}
        assert 400 == httpx2.post(url, content=b"{", headers=json_kind).status_code

        def large() -> Iterator[bytes]:
            yield from [b"x" * 600] * 3

        def late() -> Iterator[bytes]:
            yield b"{"
            time.sleep(1.0)
            yield b"}"

        assert 413 == httpx2.post(url, content=large(), headers=json_kind).status_code
        assert 408 == httpx2.post(url, content=late(), headers=json_kind).status_code


def test_time_is_limited(tmp_path: Path) -> None:
    """What takes too long is ended in the engine, and the client is told."""
    with serve_script(speak, tmp_path, limits=EndpointLimits(seconds=0.3)) as served:
        for stream in (False, True):
            answer = served.chat("slow", stream=stream)
            assert (504, "timeout_error") == (
                answer.status_code,
                answer.json()["error"]["type"],
            )
            assert not served.engine.running


def test_requests_at_once_are_limited(tmp_path: Path) -> None:
    """One too many is told to come again; a client that hangs up frees its place."""
    with serve_script(speak, tmp_path, limits=EndpointLimits(requests=1)) as served:
        host, port = served.address.removeprefix("http://").split(":")
        body = json.dumps({"messages": [{"role": "user", "content": "slow"}]})
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        with socket.create_connection((host, int(port))) as other:
            other.sendall(f"{head}{body}".encode())
            _wait_until(lambda: bool(served.engine.running))
            answer = served.chat("hi")
            assert (429, "1") == (answer.status_code, answer.headers["retry-after"])
        _wait_until(lambda: not served.engine.running)
        assert 200 == served.chat("hi").status_code


def _wait_until(true: Any) -> None:
    until = time.monotonic() + DEADLINE
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_engine_errors(served: Served) -> None:
    """An error of the engine is the client's answer; a dead engine is told to the job."""
    assert (500, "broken") == _said(served.chat("break"))
    assert 503 == served.chat("die").status_code
    assert ["gone"] == [str(death) for death in served.deaths]


def _said(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["message"]


def test_closing_server_tells_its_clients(tmp_path: Path) -> None:
    """What is not done when the server closes is ended and told so; nothing new is let in."""
    with serve_script(speak, tmp_path) as served:
        answers: list[httpx2.Response] = []
        asking = threading.Thread(target=lambda: answers.append(served.chat("slow")))
        asking.start()
        _wait_until(lambda: bool(served.engine.running))

        async def close() -> None:
            await served.turnstile.close(grace=0.1)

        served.run(close)
        asking.join(DEADLINE)
        assert [(503, "the server is closing")] == [_said(answer) for answer in answers]
        assert 503 == served.chat("hi").status_code


def test_other_pages_may_not_ask(served: Served) -> None:
    """A page of another site reaches this address through the browser, and is refused."""
    assert 403 == served.post(TOKENS, {"token_ids": [1]}, origin="http://evil.test").status_code
    assert 403 == served.post(TOKENS, {"token_ids": [1]}, sec_fetch_site="cross-site").status_code
    assert 421 == served.post(TOKENS, {"token_ids": [1]}, host="evil.test").status_code


def test_key(tmp_path: Path) -> None:
    """With a key, nothing is answered without it, and no answer holds it."""
    key = "a-secret-of-some-length"
    with serve_script(speak, tmp_path, key=key) as served:
        for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": key}):
            answer = served.post(TOKENS, {"token_ids": [1]}, **given)
            assert 401 == answer.status_code
            assert key not in answer.text
        assert 401 == httpx2.get(f"{served.address}/v1/models").status_code
        with openai.OpenAI(base_url=f"{served.address}/v1", api_key=key) as client:
            assert ["scripted"] == [model.id for model in client.models.list()]


def test_key_that_is_none(monkeypatch: pytest.MonkeyPatch, check_error: ErrorCheck) -> None:
    """A key that can be guessed, or cannot stand in a header, is refused without being shown."""
    for key, named in (("short", "at least"), ("two words of some length", "space")):
        monkeypatch.setenv(KEY, key)
        with pytest.raises(InputError) as caught:
            read_serve_key()
        check_error(caught, named)
        assert key not in str(caught.value)
    monkeypatch.delenv(KEY)
    assert "" == read_serve_key()
