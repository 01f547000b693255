"""The quantised base on disk, so that the next start reads 5 GB instead of 16 (for an 8B model).

A cache is a folder of safetensors files and a manifest of their hashes, which is written last. The
folder is renamed into place only when it is complete and read only if every hash matches; otherwise
it is deleted. Its name is a key of the base it holds, and a new cache replaces the previous one of
the same model folder. This module handles files only; `shared_weights.py` knows the tensors.
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

from trustee.decoding import decode_json, read_file
from trustee.trainer.int4 import INT4_VERSION
from trustee.types import Record

log = structlog.get_logger()

FORMAT = 1
"""Version of the cache layout."""

LOADER = "trustee_cache"
"""Name under which the loader of caches is registered with vLLM."""

MANIFEST = "manifest.json"
FILE_BYTES = 1 << 30
"""Maximum size of a file of several tensors; a larger tensor gets a file of its own."""
PIECE_BYTES = 1 << 26
"""Bytes copied to host memory at a time."""
SPARE_BYTES = 2 << 30
"""Bytes that must stay free on the disk for the run itself."""
READERS = 4
"""Files hashed in parallel."""
SAMPLES = 64
"""Positions of a weight file whose bytes are part of the key."""
KEY_SAMPLE_BYTES = 1 << 12
"""Bytes read at each of these positions."""

DTYPES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint8: "U8",
    torch.int32: "I32",
}
"""Type names of the safetensors format."""

NamedTensors = list[tuple[str, torch.Tensor]]


class CachedFile(Record, frozen=True):
    """A file of a cache as it was written."""

    name: str
    size: int
    sha256: str


class CacheManifest(Record, frozen=True):
    """The contents of a cache."""

    key: str
    files: Annotated[tuple[CachedFile, ...], Meta(min_length=1)]
    origin: str = ""
    """Model folder, device and format; one cache per origin is kept."""


class BaseCache(Record, frozen=True):
    """Where the cache of a base is, or will be written."""

    place: Path | None
    """Folder of the cache; None for weights that are not quantised."""
    ready: bool = False
    """Whether it exists and every hash matches."""
    origin: str = ""
    """The origin to record in its manifest."""

    @property
    def engine_arguments(self) -> dict[str, Any]:
        """The arguments with which vLLM loads the cache; empty if it is not ready."""
        if not self.ready:
            return {}
        return {
            "load_format": LOADER,
            "model_loader_extra_config": {"folder": str(self.place)},
        }

    async def keep(self, call: Callable[[str, str, str], Awaitable[str]]) -> None:
        """Have the engine's process write the cache unless it is ready; a failure is only logged.

        Args:
            call: calls a method of the trainer in the engine's process.
        """
        if self.place is None or self.ready:
            return
        failure = await call("cache_base", str(self.place), self.origin)
        if failure:
            log.warning("base_not_cached", folder=str(self.place), reason=failure)
        else:
            log.info("base_cached", folder=str(self.place))


def open_cache(folder: Path, *, weights: str, device: str) -> BaseCache:
    """Find the cache of a base and verify all of it; a damaged one is deleted.

    Args:
        folder: model folder.
        weights: `nf4`, `int4`, or another kind, which is never cached.
        device: device that quantises the base; part of the key, because kernels may round
            differently.
    """
    if weights not in ("nf4", "int4"):
        return BaseCache(place=None)
    own = weights == "int4"
    made_by = f"int4 {INT4_VERSION}" if own else f"bitsandbytes {version('bitsandbytes')}"
    quantiser = f"{made_by} on {device}"
    key = cache_key(folder, quantiser=quantiser)
    place = cache_root() / key
    # One of each format is kept, so that comparing them quantises nothing again.
    origin = f"{folder.resolve()} on {device}" + (" in int4" if own else "")
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
    """Return the folder of all caches: `TRUSTEE_CACHE`, or `trustee` in the user's cache folder."""
    if own := os.environ.get("TRUSTEE_CACHE"):
        return Path(own)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "trustee"


def cache_key(folder: Path, *, quantiser: str) -> str:
    """Return a key of a base: a hash of its config and of its weight files.

    Of the weight files it covers names, sizes, times and samples. The samples tell two models of
    the same shape apart if an archive has given their files equal times.
    """
    weights = [
        (path.name, path.stat().st_size, path.stat().st_mtime_ns, sample_file(path))
        for path in sorted(folder.glob("*.safetensors*"))
    ]
    config = hashlib.sha256(read_file(folder / "config.json", error=ValueError)).hexdigest()
    identity = msgspec.json.encode([FORMAT, quantiser, config, weights])
    return hashlib.sha256(identity).hexdigest()


def sample_file(path: Path) -> str:
    """Return a hash of bytes at evenly spaced positions of a file."""
    digest = hashlib.sha256()
    step = max(path.stat().st_size // SAMPLES, KEY_SAMPLE_BYTES)
    with path.open("rb") as file:
        for at in range(0, path.stat().st_size, step):
            file.seek(at)
            digest.update(file.read(KEY_SAMPLE_BYTES))
    return digest.hexdigest()


def find_damage(place: Path, *, key: str) -> str:
    """Return why a cache cannot be used, or an empty string if it can. Reads every byte once."""
    if not (place / MANIFEST).exists():
        return f"it has no {MANIFEST}"
    try:
        manifest = read_manifest(place)
    except ValueError as error:
        return f"its {MANIFEST} cannot be read: {error}"
    if manifest.key != key:
        return "its manifest belongs to another base"
    sizes = {file.name: file.size for file in manifest.files}
    found = {path.name: path.stat().st_size for path in place.iterdir() if path.name != MANIFEST}
    if found != sizes:
        wrong = sorted({name for name, _ in found.items() ^ sizes.items()})
        return f"files missing, unknown or of the wrong size: {', '.join(wrong)}"
    with ThreadPoolExecutor(READERS) as pool:
        hashes = list(pool.map(hash_file, (place / name for name in sizes)))
    changed = [
        file.name
        for file, digest in zip(manifest.files, hashes, strict=True)
        if digest != file.sha256
    ]
    return f"files changed since they were written: {', '.join(changed)}" if changed else ""


def read_manifest(place: Path) -> CacheManifest:
    """Read the manifest of a cache.

    Raises:
        ValueError: if it cannot be read.
    """
    data = read_file(place / MANIFEST, error=ValueError)
    return decode_json(data, CacheManifest, error=ValueError)


def hash_file(path: Path) -> str:
    """Return the sha256 of a file as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def delete_cache(place: Path) -> None:
    """Delete a cache: rename it first, so that no run ever sees half of it."""
    gone = place.with_suffix(".deleted")
    shutil.rmtree(gone, ignore_errors=True)
    # Another run may have deleted it first.
    with suppress(OSError):
        place.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def read_tensors(place: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors of a cache that `open_cache` found ready, memory-mapped and unread."""
    for entry in read_manifest(place).files:
        with safe_open(place / entry.name, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118, not a dict
                yield name, file.get_tensor(name)


def write_cache(
    place: Path,
    tensors: Iterable[tuple[str, torch.Tensor]],
    *,
    origin: str = "",
    file_bytes: int = FILE_BYTES,
    spare_bytes: int = SPARE_BYTES,
) -> str:
    """Write a cache under a temporary name and move it into place when it is complete.

    Earlier caches of the same origin are then deleted, because their base or its quantiser has
    changed.

    Returns:
        Why it was not written, or an empty string. It never raises `OSError`, because a missing
        cache must not stop a run.
    """
    part = place.with_suffix(".part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with place.with_suffix(".lock").open("wb") as lock:
            # The lock is released however the process ends, so a leftover `.part` can be deleted.
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if place.exists():
                return "another run has already written it"
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
    """Delete the other caches of the same origin; without an origin, delete nothing."""
    for path in place.parent.glob(f"*/{MANIFEST}") if origin else ():
        # An unreadable cache is dealt with when it is next opened.
        with suppress(OSError, ValueError):
            other = path.parent
            if other != place and not other.suffix and read_manifest(other).origin == origin:
                delete_cache(other)


def leave_room(folder: Path, size: int) -> None:
    """Refuse to fill the disk.

    Raises:
        OSError: if fewer than `size` bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise OSError(errno.ENOSPC, f"{free} bytes are free, {size} are needed", str(folder))


def fill_folder(folder: Path, groups: Iterable[NamedTensors], *, key: str, origin: str) -> None:
    """Write a file for each group, then the manifest, and sync everything to disk."""
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
    """Yield runs of consecutive tensors of at most `limit` bytes, or of a single larger tensor."""
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
    """Write a safetensors file piece by piece and hash it on the way.

    The safetensors library would hold the whole file in host memory.
    """
    # Wide types first, because each tensor must begin at a multiple of its element size.
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
    """Yield the bytes of a tensor on any device, at most `PIECE_BYTES` at a time."""
    for piece in tensor.detach().reshape(-1).view(torch.uint8).split(PIECE_BYTES):
        yield piece.cpu().numpy().data


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that the names in it survive a crash."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
