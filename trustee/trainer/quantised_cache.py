"""The quantised base on disk, so that the next start reads 5 GB and not 16.

A cache is a folder of safetensors and, written last, a manifest of their hashes. It gets its name
only when it is whole, and it is read only when every hash fits: a cache is right or it is deleted.
Which base it holds is its name; a new one replaces what the same model folder had before. Files
alone: which tensors there are is known in `sharing.py`.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import msgspec
import structlog
import torch
from msgspec import Meta
from safetensors import safe_open

from trustee.types import Record

log = structlog.get_logger()

FORMAT = 1
"""Counts the layouts that this program has written."""

LOADER = "trustee_nf4"
"""vLLM's name for the loader that reads a cache."""

MANIFEST = "manifest.json"
FILE_BYTES = 1 << 30
"""Tensors are gathered into files up to here; a larger tensor has a file of its own."""
PIECE_BYTES = 1 << 26
"""The most that is copied to host memory at once."""
SPARE_BYTES = 2 << 30
"""Room that a cache leaves on the disk, for the run that writes it."""
READERS = 4
"""Files hashed at once."""
SAMPLES = 64
"""Places of a weight file whose bytes enter the key."""
KEY_SAMPLE_BYTES = 1 << 12

DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint8: "U8",
}
"""Names of the safetensors format."""

NamedTensors = list[tuple[str, torch.Tensor]]


class CachedFile(Record, frozen=True):
    """A file as it was written."""

    name: str
    size: int
    sha256: str


class CacheManifest(Record, frozen=True):
    """What a cache holds."""

    key: str
    files: Annotated[tuple[CachedFile, ...], Meta(min_length=1)]
    origin: str = ""
    """Model folder and device; one cache of each is kept."""


class BaseCache(Record, frozen=True):
    """Where the cache of a base is, or will be."""

    place: Path | None
    """None for weights that are not quantised."""
    ready: bool = False
    """It is there, and every hash fits."""
    origin: str = ""
    """What its manifest is to say of where it came from."""

    @property
    def engine_arguments(self) -> dict[str, Any]:
        """What vLLM must be told to load it; nothing where it is not ready."""
        if not self.ready:
            return {}
        return {
            "load_format": LOADER,
            "model_loader_extra_config": {"folder": str(self.place)},
        }

    async def keep(self, call: Callable[[str, str, str], Awaitable[str]]) -> None:
        """Have the engine's process write it where it is not ready; failing costs only time.

        Args:
            call: calls a method of the trainer there.
        """
        if self.place is None or self.ready:
            return
        failure = await call("cache_base", str(self.place), self.origin)
        if failure:
            log.warning("base_not_cached", folder=str(self.place), reason=failure)
        else:
            log.info("base_cached", folder=str(self.place))


def open_cache(folder: Path, *, weights: str, device: str) -> BaseCache:
    """Find the cache of a base and check all of it; one that is not sound is deleted.

    Args:
        folder: model folder.
        weights: `nf4`, or another kind, which is never cached.
        device: where the base is quantised, for kernels may round differently.
    """
    if weights != "nf4":
        return BaseCache(place=None)
    quantiser = f"bitsandbytes {version('bitsandbytes')} on {device}"
    key = cache_key(folder, quantiser=quantiser)
    place = cache_root() / key
    origin = f"{folder.resolve()} on {device}"
    if not os.path.exists(place):
        return BaseCache(place=place, origin=origin)
    try:
        fault = find_damage(place, key=key)
    except OSError as error:
        fault = str(error)
    if fault:
        log.warning("cache_deleted", folder=str(place), reason=fault)
        delete_cache(place)
    else:
        log.info("base_from_cache", folder=str(place))
    return BaseCache(place=place, ready=not fault, origin=origin)


def cache_root() -> Path:
    """Give the folder of all caches: `TRUSTEE_CACHE`, or the user's cache folder."""
    if own := os.environ.get("TRUSTEE_CACHE"):
        return Path(own)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "trustee"


def cache_key(folder: Path, *, quantiser: str) -> str:
    """Name a base by its config and by names, sizes, times and samples of its weight files.

    The samples tell apart two models of one shape whose times an archive has made equal.
    """
    weights = [
        (path.name, path.stat().st_size, path.stat().st_mtime_ns, sample_file(path))
        for path in sorted(folder.glob("*.safetensors*"))
    ]
    config = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    identity = msgspec.json.encode([FORMAT, quantiser, config, weights])
    return hashlib.sha256(identity).hexdigest()


def sample_file(path: Path) -> str:
    """Hash bytes at evenly spaced places of a file."""
    digest = hashlib.sha256()
    step = max(path.stat().st_size // SAMPLES, KEY_SAMPLE_BYTES)
    with path.open("rb") as file:
        for at in range(0, path.stat().st_size, step):
            file.seek(at)
            digest.update(file.read(KEY_SAMPLE_BYTES))
    return digest.hexdigest()


def find_damage(place: Path, *, key: str) -> str:
    """Say why a cache cannot be used; nothing where it can. Every byte is read once."""
    try:
        manifest = read_manifest(place)
    except FileNotFoundError:
        return f"it has no {MANIFEST}"
    except msgspec.DecodeError as error:
        return f"its {MANIFEST} cannot be read: {error}"
    if manifest.key != key:
        return "its manifest is of another base"
    sizes = {file.name: file.size for file in manifest.files}
    found = {path.name: path.stat().st_size for path in place.iterdir() if path.name != MANIFEST}
    if found != sizes:
        wrong = sorted({name for name, _ in found.items() ^ sizes.items()})
        return f"missing, foreign or of another size than its manifest says: {', '.join(wrong)}"
    with ThreadPoolExecutor(READERS) as pool:
        hashes = list(pool.map(hash_file, (place / name for name in sizes)))
    changed = [
        file.name
        for file, digest in zip(manifest.files, hashes, strict=True)
        if digest != file.sha256
    ]
    return f"changed since it was written: {', '.join(changed)}" if changed else ""


def read_manifest(place: Path) -> CacheManifest:
    """Read what a cache says about itself."""
    return msgspec.json.decode((place / MANIFEST).read_bytes(), type=CacheManifest)


def hash_file(path: Path) -> str:
    """Give the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def delete_cache(place: Path) -> None:
    """Take a cache away at once, then free its room."""
    gone = place.with_suffix(".deleted")
    shutil.rmtree(gone, ignore_errors=True)
    # Another run may have been quicker.
    with suppress(OSError):
        place.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def read_tensors(place: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Give the tensors of a cache that `open_cache` found ready, mapped and not yet read."""
    for entry in read_manifest(place).files:
        with safe_open(place / entry.name, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118, it is no dict
                yield name, file.get_tensor(name)


def write_cache(
    place: Path,
    tensors: Iterable[tuple[str, torch.Tensor]],
    *,
    origin: str = "",
    file_bytes: int = FILE_BYTES,
    spare_bytes: int = SPARE_BYTES,
) -> str:
    """Write a cache beside its place and move it there when it is whole.

    Earlier caches of the same origin are deleted then: their base or its quantiser has changed.

    Returns:
        What was in the way, or nothing: a cache is never worth the run.
    """
    part = place.with_suffix(".part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.with_suffix(".lock").open("wb") as lock:
            # Held until the process ends, however it ends: what it left is then free to delete.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if place.exists():
                return "another run was quicker"
            shutil.rmtree(part, ignore_errors=True)
            try:
                part.mkdir()
                whole = list(tensors)
                leave_room(part, sum(tensor.nbytes for _, tensor in whole) + spare_bytes)
                fill_folder(
                    part, group_tensors(whole, limit=file_bytes), key=place.name, origin=origin
                )
                part.rename(place)
                sync_folder(place.parent)
                delete_older(place, origin)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except BlockingIOError:
        return "another run is writing it"
    except OSError as error:
        return str(error)
    return ""


def delete_older(place: Path, origin: str) -> None:
    """Delete the other caches of an origin; one without an origin replaces none."""
    for path in place.parent.glob(f"*/{MANIFEST}") if origin else ():
        # What cannot be read is looked at when it is wanted.
        with suppress(OSError, msgspec.DecodeError):
            other = path.parent
            if other != place and not other.suffix and read_manifest(other).origin == origin:
                delete_cache(other)


def leave_room(folder: Path, size: int) -> None:
    """Refuse to fill a disk.

    Raises:
        OSError: if fewer than `size` bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OSError(errno.ENOSPC, f"{free} bytes are free, {size} are needed", str(folder))


def fill_folder(folder: Path, groups: Iterable[NamedTensors], *, key: str, origin: str) -> None:
    """Write a file for each group, then the manifest, all synced."""
    files = [
        write_cache_file(folder / f"base-{number:05d}.safetensors", group)
        for number, group in enumerate(groups)
    ]
    sync_folder(folder)
    with (folder / MANIFEST).open("wb") as file:
        file.write(msgspec.json.encode(CacheManifest(key=key, origin=origin, files=tuple(files))))
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def group_tensors(tensors: NamedTensors, *, limit: int) -> Iterator[NamedTensors]:
    """Cut a list into runs of at most `limit` bytes, or of one tensor."""
    group: NamedTensors = []
    size = 0
    for name, tensor in tensors:
        if group and size + tensor.nbytes > limit:
            yield group
            group, size = [], 0
        group.append((name, tensor))
        size += tensor.nbytes
    if group:
        yield group


def write_cache_file(path: Path, tensors: NamedTensors) -> CachedFile:
    """Write a safetensors file piece by piece, hashing what goes by.

    The library would hold the whole file in host memory.
    """
    # Wide types first: each tensor must begin at a multiple of its width.
    ordered = sorted(tensors, key=lambda pair: -pair[1].element_size())
    header: dict[str, Any] = {}
    at = 0
    for name, tensor in ordered:
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + tensor.nbytes],
        }
        at += tensor.nbytes
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % 8)
    bodies = chain.from_iterable(bytes_of(tensor) for _, tensor in ordered)
    pieces: Iterable[bytes | memoryview] = chain((len(text).to_bytes(8, "little"), text), bodies)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return CachedFile(name=path.name, size=8 + len(text) + at, sha256=digest.hexdigest())


def bytes_of(tensor: torch.Tensor) -> Iterator[memoryview]:
    """Give the bytes of a tensor of any device, a piece at a time."""
    for piece in tensor.detach().reshape(-1).view(torch.uint8).split(PIECE_BYTES):
        yield piece.cpu().numpy().data


def sync_folder(folder: Path) -> None:
    """Make the names of a folder last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
