"""What the server of `trustee ui` answers: whole runs, broken ones, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import anyio
import pytest
from starlette.types import Message

from run_folders import HOSTILE, make_episode, make_run, write_lines
from trustee.pages.server import ASSETS, HEADERS, make_app


class Answer:
    """An answer of the server."""

    def __init__(self, messages: list[Message]) -> None:
        self.status: int = messages[0]["status"]
        self.headers = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
        self.body = b"".join(message.get("body", b"") for message in messages[1:])

    @property
    def found(self) -> Any:
        """What the body holds."""
        return json.loads(self.body)


def ask(
    folder: Path,
    path: str,
    *,
    method: str = "GET",
    headers: dict[str, str] | None = None,
    **query: object,
) -> Answer:
    """Ask the application without a socket."""
    app = make_app([folder])
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    given = {"host": "localhost:7860"} | (headers or {})
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": urlencode(query, doseq=True).encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 7860),
    }

    async def run() -> None:
        with anyio.fail_after(20):
            await app(scope, receive, send)

    anyio.run(run)
    return Answer(sent)


def only_run(folder: Path) -> str:
    """Return the id of the only run."""
    runs = ask(folder, "/api/runs").found
    assert 1 == len(runs)
    return str(runs[0]["id"])


def test_runs_are_listed_with_their_state_and_success(tmp_path: Path) -> None:
    """A line of the list has state, steps and the rewards of its sparkline."""
    make_run(tmp_path / "one")
    (run,) = ask(tmp_path, "/api/runs").found
    assert ("one", "finished", 5) == (run["place"], run["state"], run["step"])
    assert [-0.4, -0.3, -0.2, -0.1, 0.0] == pytest.approx(run["reward"])


def test_a_run_tells_what_it_measured_on_the_tasks_that_both_played(tmp_path: Path) -> None:
    """Held-out success comes with a paired interval and the tasks won."""
    make_run(tmp_path / "one")
    run = ask(tmp_path, f"/api/runs/{only_run(tmp_path)}").found
    assert 0.25 == run["measured"]["before"]["value"]
    assert 0.75 == run["measured"]["after"]["value"]
    assert 50 == run["pairing"]["gain"]["points"]
    assert ["task-1", "task-2"] == run["pairing"]["won"]
    assert run["pairing"]["gain"]["low"] < 50 < run["pairing"]["gain"]["high"]


def test_steps_after_one_are_told_alone(tmp_path: Path) -> None:
    """A page that follows a run asks for new steps only."""
    make_run(tmp_path / "one")
    path = f"/api/runs/{only_run(tmp_path)}/steps"
    assert [4, 5] == [step["step"] for step in ask(tmp_path, path, after=3).found["steps"]]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, [8, 7, 6, 5, 4, 3, 2, 1, 0]),
        ({"order": "up", "count": 2, "begin": 4}, [4, 5]),
        ({"reward": ">0"}, [6, 3, 0]),
        ({"blame": "user"}, [8, 5, 2]),
        ({"blame": "none"}, [6, 3, 0]),
        ({"group": 1}, [5, 4, 3]),
        ({"step": 3}, [8, 7, 6]),
        ({"tool": "set_lamp", "reward": "-1", "sort": "difficulty", "order": "up"}, [1, 4, 7]),
        ({"text": "LAMP is"}, [8, 7, 6, 5, 4, 3, 2, 1, 0]),
        ({"text": "no such words"}, []),
    ],
)
def test_a_filter_lets_pass_what_it_says(
    tmp_path: Path, query: dict[str, Any], expected: list[int]
) -> None:
    """Each filter, the order and the part asked for decide the rows."""
    make_run(tmp_path / "one")
    path = f"/api/runs/{only_run(tmp_path)}/episodes/episodes"
    assert expected == [row["row"] for row in ask(tmp_path, path, **query).found["rows"]]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"reward": "big"}, "big"),
        ({"blame": "me"}, "me"),
        ({"sort": "x"}, "x"),
        ({"begin": "x"}, "begin"),
    ],
)
def test_a_filter_that_cannot_be_is_refused(
    tmp_path: Path, query: dict[str, Any], named: str
) -> None:
    """The value that was given is named."""
    make_run(tmp_path / "one")
    answer = ask(tmp_path, f"/api/runs/{only_run(tmp_path)}/episodes/episodes", **query)
    assert 404 == answer.status
    assert named in answer.found["error"]


def test_an_episode_comes_with_its_task_and_group_but_without_ids(tmp_path: Path) -> None:
    """Ids are sent on demand, spelled, with their logprobs."""
    make_run(tmp_path / "one")
    path = f"/api/runs/{only_run(tmp_path)}/episodes/episodes/4"
    found = ask(tmp_path, path).found
    assert "1/1" == found["trajectory"]["id"]
    assert "turn the lamp on" not in str(found["trajectory"])
    assert "the lamp is on" == found["task"]["hidden"]["intent"]
    assert [3, 4, 5] == found["members"]
    assert "ids" not in found["trajectory"]["turns"][0]["completion"]
    tokens = ask(tmp_path, f"{path}/tokens").found
    assert [-0.1, -2.5, 0.0] == [logprob for _, logprob in tokens["turns"][0]]


def test_runs_are_compared_by_settings_and_on_the_tasks_that_they_share(tmp_path: Path) -> None:
    """Only settings that differ are told."""
    make_run(tmp_path / "one")
    make_run(tmp_path / "two", lr=0.1)
    ids = [run["id"] for run in ask(tmp_path, "/api/runs").found]
    found = ask(tmp_path, "/api/compare", run=ids).found
    assert ["learner.lr"] == [row["key"] for row in found["different"]]
    assert 4 == found["pairings"][0]["pairing"]["shared"]


def test_a_broken_folder_is_shown_with_what_is_broken(tmp_path: Path) -> None:
    """Torn lines, bad rows and missing files are said; the rest is shown."""
    folder = make_run(tmp_path / "one")
    with (folder / "episodes.jsonl").open("a") as file:
        file.write('{"group": "no number"}\n\x00\n')
        file.write(json.dumps(make_episode(9, 0))[:40])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('[1]\n{"step": 6, "rew')
    (folder / "run.json").write_text("{")
    (folder / "tasks.jsonl").unlink()
    run = only_run(tmp_path)
    found = ask(tmp_path, f"/api/runs/{run}").found
    assert any("run.json" in problem for problem in found["problems"])
    assert any("metrics.jsonl" in problem for problem in found["problems"])
    page = ask(tmp_path, f"/api/runs/{run}/episodes/episodes").found
    assert 9 == page["episodes"]
    assert 2 == page["bad"]
    assert 0 < page["torn"]
    assert ask(tmp_path, f"/api/runs/{run}/episodes/episodes/0").found["task"] is None


def test_a_folder_of_nothing_but_its_name_files_is_shown(tmp_path: Path) -> None:
    """A foreign folder full of noise is a run with problems, not an error."""
    for name in ("run.json", "metrics.jsonl", "episodes.jsonl"):
        folder = tmp_path / name.split(".")[0]
        folder.mkdir()
        (folder / name).write_bytes(b"\xff\x00[[[[")
    runs = ask(tmp_path, "/api/runs").found
    assert 3 == len(runs)
    for run in runs:
        assert 200 == ask(tmp_path, f"/api/runs/{run['id']}").status
        assert 200 == ask(tmp_path, f"/api/runs/{run['id']}/steps").status


def test_a_link_that_leads_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    """A stranger's folder cannot show other files of this machine."""
    folder = make_run(tmp_path / "runs" / "one")
    secret = tmp_path / "secret.jsonl"
    write_lines(secret, [make_episode(0, 0, text="secret")])
    (folder / "episodes.jsonl").unlink()
    (folder / "episodes.jsonl").symlink_to(secret)
    run = only_run(tmp_path / "runs")
    answer = ask(tmp_path / "runs", f"/api/runs/{run}/episodes/episodes")
    assert 404 == answer.status
    assert b"leads out" in answer.body


def test_hostile_texts_are_sent_as_data_only(tmp_path: Path) -> None:
    """They come back unchanged, inside JSON."""
    make_run(tmp_path / "one", text=HOSTILE)
    run = only_run(tmp_path)
    for path in (f"/api/runs/{run}", f"/api/runs/{run}/episodes/episodes/0"):
        answer = ask(tmp_path, path)
        assert "application/json" == answer.headers["content-type"]
        assert HOSTILE in json.dumps(answer.found, ensure_ascii=False).replace('\\"', '"')


@pytest.mark.parametrize("path", ["/", "/assets/main.js", "/api/runs", "/api/runs/none", "/none"])
def test_every_answer_carries_the_policy(tmp_path: Path, path: str) -> None:
    """Refusals too."""
    answer = ask(tmp_path, path)
    for name, value in HEADERS.items():
        assert value == answer.headers[name]
    assert "unsafe" not in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {"host": "evil.example:7860"}, 421),
        ("POST", {}, 405),
        ("GET", {"sec-fetch-site": "cross-site"}, 403),
        ("GET", {"sec-fetch-site": "same-origin"}, 200),
        ("GET", {"host": "[::1]:7860"}, 200),
    ],
)
def test_strangers_are_refused(
    tmp_path: Path, method: str, headers: dict[str, str], status: int
) -> None:
    """Other names, other methods and other pages get nothing."""
    assert status == ask(tmp_path, "/api/runs", method=method, headers=headers).status


@pytest.mark.parametrize("name", ["../server.py", "..%2fserver.py", ".", "none.js"])
def test_only_the_files_of_the_page_are_sent(tmp_path: Path, name: str) -> None:
    """No name leads out of the folder of the page."""
    assert 404 == ask(tmp_path, f"/assets/{name}").status


def test_the_page_has_no_door_for_markup_and_loads_nothing_from_elsewhere() -> None:
    """No file of it uses a DOM sink or names an address."""
    forbidden = ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function(")
    for file in ASSETS.iterdir():
        text = file.read_text()
        for word in forbidden:
            assert word not in text, f"{word} in {file.name}"
        for address in ("https:", "http:", "//cdn"):
            assert address not in text.replace("http://www.w3.org/2000/svg", ""), file.name
