"""Write the dense model out that a checkpoint of another kind holds.

    python -m trustee.engine.dense_copy MODEL FOLDER

Nothing is computed: tensors get other names, one that holds two is split, and what sees images is
left out. See `dense_form.py` for the families.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from trustee.decoding import decode_json, read_file
from trustee.engine.dense_form import find_dense, rename_tensor
from trustee.engine.model_config import check_config, read_model_config
from trustee.engine.model_files import CONFIG, fetch_model
from trustee.errors import InputError

INDEX = "model.safetensors.index.json"
BESIDE = ("*.json", "*.jinja", "*.txt", "*.model")
"""What a model needs besides weights: tokenizer, template, stop marks."""


def copy_dense(model: Path, folder: Path) -> Path:
    """Write a dense checkpoint from one that holds it in another layout; return its folder.

    Args:
        model: the other checkpoint.
        folder: made here; must not exist or be empty.

    Raises:
        InputError: if the model holds no dense one, is quantised, or the folder is in use.
    """
    config = read_model_config(model / CONFIG)
    dense = find_dense(config)
    if dense is None:
        raise InputError(
            f"{model} is of type {config.get('model_type')!r} and holds no dense model in another "
            "layout; Ministral 3 and the dense models of Granite 4.0 do"
        )
    check_config(dense, name=str(model))
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    places: dict[str, str] = {}
    for name in _list_files(model):
        for tensor in _copy_file(model / name, folder / name, str(config["model_type"])):
            places[tensor] = name
    index = {"metadata": {}, "weight_map": places}
    (folder / INDEX).write_bytes(msgspec.json.encode(index))
    for pattern in BESIDE:
        for path in model.glob(pattern):
            if path.name not in (CONFIG, INDEX):
                shutil.copyfile(path, folder / path.name)
    (folder / CONFIG).write_bytes(msgspec.json.format(msgspec.json.encode(dense), indent=2))
    return folder


def _list_files(model: Path) -> list[str]:
    """Return the weight files that belong together; some repositories hold the weights twice."""
    index = model / INDEX
    if not index.is_file():
        return ["model.safetensors"]

    def refuse(why: str) -> InputError:
        return InputError(f"{index} cannot be read: {why}")

    found = decode_json(read_file(index, error=refuse), dict[str, Any], error=refuse)
    return sorted({Path(str(name)).name for name in found.get("weight_map", {}).values()})


def _copy_file(source: Path, target: Path, kind: str) -> list[str]:
    """Copy one file's tensors under their other names; return these."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    try:
        with safe_open(source, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - no mapping
                names = rename_tensor(kind, name)
                if names:
                    parts = file.get_tensor(name).chunk(len(names))
                    tensors |= {
                        own: part.contiguous() for own, part in zip(names, parts, strict=True)
                    }
    except (SafetensorError, OSError) as error:
        raise InputError(f"{source} cannot be read: {error}") from error
    if tensors:
        save_file(tensors, target, metadata={"format": "pt"})
    return list(tensors)


def main(arguments: Sequence[str] | None = None) -> None:
    """Copy what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="a folder, or a hub id")
    parser.add_argument("folder", type=Path, help="where the dense model is written")
    given = parser.parse_args(arguments)
    path = Path(given.model)
    copy_dense(path if path.is_dir() else fetch_model(given.model), given.folder)


if __name__ == "__main__":
    main()
