"""Find the base model and the GPU before anything heavy is loaded."""

from __future__ import annotations

from pathlib import Path

from trustee.engine.model_config import check_config, check_family, read_model_config
from trustee.errors import InputError

TINY = Path(__file__).parents[1] / "tiny" / "model"
CONFIG = "config.json"
MOST_NAMED = 8
"""Models that an error names as being at hand."""
WANTED_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")


def find_model(path: str, *, weights: str | None = None) -> Path:
    """Return the folder of a model: `tiny`, a folder, or a hub id that is downloaded once.

    Args:
        path: what the user gave.
        weights: the format that it will be held in, where that is known.

    Raises:
        InputError: if there is no such model, it is not in safetensors format, or it cannot be
            trained.
    """
    folder = TINY if path == "tiny" else Path(path)
    if not folder.is_dir():
        if path.count("/") != 1 or path.startswith((".", "/")):
            raise InputError(
                f"model.path {path!r} is not a folder; give a Hugging Face model folder, a hub id "
                "such as Qwen/Qwen3-8B, or tiny for the model in the package"
            )
        # Its config alone first, because the rest may be many gigabytes that are of no use.
        config = fetch_model(path, CONFIG) / CONFIG
        if config.is_file():
            _check(config, name=path, weights=weights)
        folder = fetch_model(path)
    if not (folder / CONFIG).is_file():
        raise InputError(f"model.path {folder} holds no {CONFIG}; it is not a model folder")
    if not any(folder.glob("*.safetensors")):
        raise InputError(f"model.path {folder} holds no *.safetensors; pickled weights are refused")
    _check(folder / CONFIG, name=path, weights=weights)
    return folder


def _check(path: Path, *, name: str, weights: str | None) -> None:
    """Refuse a model by its config, unless that leaves open what it is."""
    config = read_model_config(path)
    if "model_type" in config:
        check_family(config, name=name)
    check_config(config, name=name, weights=weights)


def count_weight_bytes(folder: Path) -> int:
    """Return the size of a model's weight files in bytes."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def name_base(path: str, folder: Path) -> str:
    """Return the name under which an adapter records its base: its hub id, or else its folder.

    A hub id means the same on every machine, also where the model was given as the folder in which
    the hub's cache keeps it.
    """
    if path != "tiny" and not Path(path).is_dir():
        return path
    whole = folder.absolute()
    cached = whole.parent.parent.name
    if whole.parent.name == "snapshots" and cached.startswith("models--"):
        return cached.removeprefix("models--").replace("--", "/")
    return str(whole)


def fetch_model(hub_id: str, *names: str) -> Path:
    """Return the folder of a hub model, downloading it unless it is in the hub's cache.

    With names only those files are looked for.

    Raises:
        InputError: if the hub has no such model, or cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    try:
        return Path(snapshot_download(hub_id, allow_patterns=list(names or WANTED_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"model.path {hub_id!r} is not a folder and cannot be fetched from the hub: {error}; "
            f"at hand without a network: {describe_at_hand()}"
        ) from error


def describe_at_hand() -> str:
    """Return the models that need no network: in the package, the hub's cache, and folders here.

    Folders are looked for in the working directory and one level below.
    """
    from huggingface_hub import constants

    cached = sorted(
        place.name.removeprefix("models--").replace("--", "/")
        for place in Path(constants.HF_HUB_CACHE).glob("models--*")
        if any(place.glob("snapshots/*/*.safetensors"))
    )
    folders = sorted(
        str(config.parent)
        for pattern in ("*/config.json", "*/*/config.json")
        for config in Path().glob(pattern)
        if any(config.parent.glob("*.safetensors"))
    )
    found = ["tiny", *cached, *folders]
    more = len(found) - MOST_NAMED
    return ", ".join(found[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
