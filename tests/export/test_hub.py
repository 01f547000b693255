"""Uploading to a hub on this machine: what was listed, with the login's token, or a clear error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import lfs

from fake_hub import FakeHub, open_hub
from golden_errors import ErrorCheck
from trustee.errors import InputError, RunError
from trustee.export.hub import check_repository, list_uploads, push, require_token


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Open a hub, with a token in the environment."""
    with open_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder with a file in a subfolder."""
    (tmp_path / "model" / "more").mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "more" / "notes.txt").write_text("hello")
    return tmp_path / "model"


def test_what_is_listed_is_what_arrives(hub: FakeHub, folder: Path, tmp_path: Path) -> None:
    """Every listed file under its name, in a private place; nothing else."""
    card = tmp_path / "README.md"
    card.write_text("# a card")
    uploads = list_uploads([folder, card])
    (folder / "later.txt").write_text("written after the list")
    address = push("someone/model", uploads, public=False)
    assert ["README.md", "config.json", "more/notes.txt"] == [one.name for one in uploads]
    assert [8, 2, 5] == [one.size for one in uploads]
    assert {
        "README.md": b"# a card",
        "config.json": b"{}",
        "more/notes.txt": b"hello",
    } == hub.files
    assert ["private"] == [one["visibility"] for one in hub.created]
    assert address.startswith(f"{hub.address}/someone/model/commit/")
    assert {"Bearer hf_secret"} == hub.tokens


@pytest.fixture
def plain_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Send large files by Git's protocol; the newer one needs servers of its own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)


@pytest.mark.filterwarnings(
    "ignore:Use 'content=:DeprecationWarning"
)  # the hub's client, of its own
@pytest.mark.usefixtures("plain_store")
def test_large_files_go_to_the_store(hub: FakeHub, folder: Path) -> None:
    """Weights are sent apart from the commit, and arrive whole."""
    hub.large = (".safetensors",)
    weights = bytes(range(256)) * 5000
    (folder / "model.safetensors").write_bytes(weights)
    push("someone/model", list_uploads([folder]), public=False)
    assert [weights] == list(hub.store.values())
    assert weights == hub.files["model.safetensors"]
    assert {"config.json", "model.safetensors", "more/notes.txt"} == set(hub.files)


@pytest.mark.usefixtures("plain_store")
def test_a_store_that_is_full(hub: FakeHub, folder: Path, check_error: ErrorCheck) -> None:
    """What the store says is passed on, and nothing was published."""
    hub.large, hub.lost = (".json",), True
    with pytest.raises(RunError) as caught:
        push("someone/model", list_uploads([folder]), public=False)
    check_error(caught, "the store is full")
    assert {} == hub.files


@pytest.mark.usefixtures("plain_store")
def test_a_large_file_that_does_not_arrive(
    hub: FakeHub, folder: Path, check_error: ErrorCheck, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the connection says is passed on, and nothing was published."""
    hub.large = (".json",)
    ask: Callable[..., Any] = vars(lfs)["http_backoff"]

    def refuse_the_file(method: str, url: str, **rest: Any) -> Any:
        if method == "PUT":
            raise TimeoutError("the store was too slow")
        return ask(method, url, **rest)

    monkeypatch.setattr(lfs, "http_backoff", refuse_the_file)
    with pytest.raises(RunError) as caught:
        push("someone/model", list_uploads([folder]), public=False)
    check_error(caught, "too slow")
    assert {} == hub.files


def test_a_public_place(hub: FakeHub, folder: Path) -> None:
    """Only if it is asked for."""
    push("someone/model", list_uploads([folder]), public=True)
    hub.private = False
    push("someone/model", list_uploads([folder]), public=True)
    assert ["public", "public"] == [one["visibility"] for one in hub.created]


def test_a_place_that_is_public_already(
    hub: FakeHub, folder: Path, check_error: ErrorCheck
) -> None:
    """Nothing is sent where everybody would see it, unless that was asked for."""
    hub.private = False
    with pytest.raises(InputError) as caught:
        push("someone/model", list_uploads([folder]), public=False)
    check_error(caught, "someone/model", "--public")
    assert {} == hub.files


def test_links_are_not_followed(folder: Path, check_error: ErrorCheck) -> None:
    """A link may lead to any file of the machine."""
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(InputError) as caught:
        list_uploads([folder])
    check_error(caught, folder / "link", "link")


def test_two_files_of_one_name(folder: Path, tmp_path: Path, check_error: ErrorCheck) -> None:
    """One would replace the other."""
    (tmp_path / "config.json").touch()
    with pytest.raises(InputError) as caught:
        list_uploads([folder, tmp_path / "config.json"])
    check_error(caught, folder / "config.json", tmp_path / "config.json")


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_hub_that_refuses(
    hub: FakeHub, folder: Path, status: int, check_error: ErrorCheck
) -> None:
    """The status is told, the token is not; a token without the right is the user's to change."""
    hub.refusal = status
    with pytest.raises((InputError, RunError)) as caught:
        push("someone/model", list_uploads([folder]), public=False)
    assert (status < 500) == isinstance(caught.value, InputError)
    assert str(status) in str(caught.value)
    assert "hf_secret" not in str(caught.value)
    if status < 500:
        check_error(caught, "someone/model", status)
    assert {} == hub.files


def test_no_network(monkeypatch: pytest.MonkeyPatch, folder: Path, check_error: ErrorCheck) -> None:
    """A hub that cannot be reached, or is switched off, is said in a sentence."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RunError, match="the hub cannot be reached") as caught:
        push("someone/model", list_uploads([folder]), public=False)
    assert "hf_secret" not in str(caught.value)


def test_no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, check_error: ErrorCheck) -> None:
    """Without a login nothing is tried."""
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(InputError) as caught:
        require_token()
    check_error(caught, "hf auth login", "HF_TOKEN")


@pytest.mark.parametrize("name", ["model", "a/b/c", "../x", "a/../b", "/a/b", "a/", "a b/c", ""])
def test_names_that_are_no_repository(name: str, check_error: ErrorCheck) -> None:
    """A place has an owner and a name."""
    check_repository("someone/Model-1.0_a")
    with pytest.raises(InputError) as caught:
        check_repository(name)
    check_error(caught, "--push", "owner/name")
