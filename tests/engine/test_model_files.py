"""Finding the model and the card: what is found, and what is refused in which words."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest

from golden_errors import ErrorCheck
from trustee.engine import model_files
from trustee.engine.model_files import TINY, count_weight_bytes, find_model, name_base
from trustee.errors import InputError


def make_model(folder: Path, *names: str) -> Path:
    """Make a folder with files that hold nothing."""
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("{}" if name == "config.json" else "")
    return folder


def refuse(path: str) -> str:
    """Give the words in which a model is refused."""
    with pytest.raises(InputError) as caught:
        find_model(path)
    return str(caught.value)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Work without a network and with an empty cache; give the cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_name_of_a_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub id stays one, and so does the folder of the hub's cache; other folders are whole."""
    cached = tmp_path / "models--Qwen--Qwen3-8B" / "snapshots" / "0123abc"
    cached.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    assert "Qwen/Qwen3-8B" == name_base("Qwen/Qwen3-8B", cached)
    assert "Qwen/Qwen3-8B" == name_base(str(cached), cached)
    assert str(tmp_path / "own") == name_base("own", Path("own"))
    assert str(TINY) == name_base("tiny", TINY)


def test_model_in_the_package() -> None:
    """`tiny` is the model beside the code, whole."""
    assert TINY == find_model("tiny")
    assert Path(model_files.__file__).parents[1] / "tiny" / "model" == TINY


def test_model_folder(tmp_path: Path) -> None:
    """A folder with a config and safetensors is taken as it is."""
    folder = make_model(tmp_path / "m", "config.json", "model-00001-of-00002.safetensors")
    assert folder == find_model(str(folder))


def test_relative_folder_goes_before_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that looks like a hub id is a folder."""
    make_model(tmp_path / "owner" / "m", "config.json", "model.safetensors")
    monkeypatch.chdir(tmp_path)
    assert Path("owner/m") == find_model("owner/m")


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("path", ["none", "./none", "/no/where", "../none", "a/b/c"])
def test_missing_folder(check_error: ErrorCheck, path: str) -> None:
    """What is not a folder and no hub id is answered with what is allowed; nothing is fetched."""
    check_error(refuse(path), "model.path", repr(path))


def test_folder_without_a_config(check_error: ErrorCheck, tmp_path: Path) -> None:
    """Weights alone are no model."""
    folder = make_model(tmp_path / "m", "model.safetensors")
    check_error(refuse(str(folder)), "model.path", folder, "config.json")


def test_folder_with_pickled_weights(check_error: ErrorCheck, tmp_path: Path) -> None:
    """Pickles can run code, so they are not even looked at."""
    folder = make_model(tmp_path / "m", "config.json", "pytorch_model.bin")
    check_error(refuse(str(folder)), "model.path", folder, "*.safetensors")


@pytest.mark.usefixtures("hub")
def test_hub_id_without_a_network() -> None:
    """A hub id that cannot be fetched and is not cached is refused by name."""
    told = refuse("owner/no-such-model")
    assert told.startswith(
        "model.path 'owner/no-such-model' is not a folder and cannot be fetched from the hub: "
    )


def test_what_is_at_hand_is_named(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model in the package, those in the hub's cache with weights, and folders here."""
    monkeypatch.chdir(tmp_path)
    make_model(hub / "models--owner--kept" / "snapshots" / "0", "config.json", "a.safetensors")
    make_model(hub / "models--owner--looked-at" / "snapshots" / "0", "config.json")
    make_model(tmp_path / "here", "config.json", "model.safetensors")
    make_model(tmp_path / "models" / "there", "config.json", "model.safetensors")
    make_model(tmp_path / "other", "config.json")
    told = refuse("owner/no-such-model")
    assert told.endswith("; at hand without a network: tiny, owner/kept, here, models/there")
    for number in range(9):
        make_model(tmp_path / f"m{number}", "config.json", "model.safetensors")
    assert refuse("owner/no-such-model").endswith("m4 and 5 more")


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("path", ["owner/two words", "a--b/c", "owner/", "owner/x."])
def test_hub_id_that_can_be_none(path: str) -> None:
    """A mistyped folder with one slash is refused in the same words, with the hub's reason."""
    told = refuse(path)
    assert told.startswith(
        f"model.path {path!r} is not a folder and cannot be fetched from the hub: "
    )


def test_hub_id_in_the_cache(hub: Path) -> None:
    """A model that was fetched once is found without a network."""
    cached = hub / "models--owner--m"
    folder = make_model(cached / "snapshots" / ("0" * 40), "config.json", "model.safetensors")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    assert folder == find_model("owner/m")


def test_weight_files_are_counted(tmp_path: Path) -> None:
    """All shards count, other files do not."""
    for name, size in (("a-1.safetensors", 5), ("a-2.safetensors", 7), ("config.json", 100)):
        (tmp_path / name).write_bytes(b"x" * size)
    assert 12 == count_weight_bytes(tmp_path)
