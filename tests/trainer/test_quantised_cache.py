"""The quantised base on disk: right to the last bit, or noticed, deleted and made again."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import resource
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from structlog.testing import capture_logs

from trustee.engine.model_files import TINY
from trustee.engine.weights import WeightFormat
from trustee.trainer.quantised_cache import (
    KEY_SAMPLE_BYTES,
    MANIFEST,
    SAMPLES,
    BaseCache,
    cache_key,
    cache_root,
    find_damage,
    group_tensors,
    hash_file,
    open_cache,
    read_manifest,
    read_tensors,
    write_cache,
    write_cache_file,
)
from trustee.types import Completion

Tensors = list[tuple[str, torch.Tensor]]


def some_tensors() -> Tensors:
    """Give tensors of every type, of odd sizes, one of them a part of another's storage."""
    generator = torch.Generator().manual_seed(3)
    packed = torch.randint(0, 256, (301, 1), generator=generator, dtype=torch.uint8)
    wide = torch.randn(7, 5, generator=generator)
    return [
        ("packed", packed[3:]),
        ("half", wide.to(torch.float16)),
        ("brain", wide.to(torch.bfloat16)[1:, :3]),
        ("wide", wide),
        ("offset", torch.tensor(0.1)),
    ]


def assert_same(expected: Tensors, actual: dict[str, torch.Tensor]) -> None:
    """Compare names, types, shapes and bytes."""
    assert sorted(name for name, _ in expected) == sorted(actual)
    for name, tensor in expected:
        assert (tensor.dtype, tensor.shape) == (actual[name].dtype, actual[name].shape)
        assert torch.equal(tensor, actual[name])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder: a config and two weight files."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen3"}')
    for number in (1, 2):
        (folder / f"model-{number}.safetensors").write_bytes(bytes(range(256)) * 2000)
    return folder


QUANTISED: tuple[WeightFormat, ...] = ("nf4", "int4")
"""The formats that are made while loading, and cached."""


@pytest.fixture
def place(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sound cache of that model."""
    monkeypatch.setenv("TRUSTEE_CACHE", str(tmp_path / "caches"))
    cache = open_cache(model, weights="nf4", device="cpu")
    assert cache.place is not None
    assert not cache.ready
    assert write_cache(cache.place, some_tensors(), file_bytes=300, spare_bytes=0) == ""
    return cache.place


def names_under(folder: Path) -> list[str]:
    """List what a folder holds, but not the locks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def set_byte(path: Path, at: int) -> None:
    """Change one byte of a file and keep its times."""
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    with path.open("r+b") as file:
        file.seek(at)
        (old,) = file.read(1)
        file.seek(at)
        file.write(bytes([old ^ 1]))
    os.utime(path, ns=times)


def test_each_tensor_of_a_file_begins_at_a_multiple_of_its_width(tmp_path: Path) -> None:
    """Maps of the file can be used as they are."""
    path = tmp_path / "a.safetensors"
    write_cache_file(path, some_tensors())
    length = int.from_bytes(path.read_bytes()[:8], "little")
    header = json.loads(path.read_bytes()[8 : 8 + length])
    begins = {name: 8 + length + header[name]["data_offsets"][0] for name in header}
    assert [] == [name for name, tensor in some_tensors() if begins[name] % tensor.element_size()]


def test_a_written_file_is_safetensors(tmp_path: Path) -> None:
    """The library reads back every tensor, and the hash on the way is the file's."""
    written = write_cache_file(tmp_path / "a.safetensors", some_tensors())
    assert_same(some_tensors(), load_file(tmp_path / "a.safetensors"))
    assert written.sha256 == hash_file(tmp_path / "a.safetensors")
    assert written.size == (tmp_path / "a.safetensors").stat().st_size


@settings(max_examples=50)
@given(sizes=st.lists(st.integers(0, 40), max_size=12), limit=st.integers(1, 60))
def test_groups_lose_nothing_and_keep_the_limit(sizes: list[int], limit: int) -> None:
    """In order, none empty, none over the limit but a single tensor, none that could be joined."""
    tensors = [(str(n), torch.zeros(size, dtype=torch.uint8)) for n, size in enumerate(sizes)]
    groups = list(group_tensors(tensors, limit=limit))
    assert tensors == [pair for group in groups for pair in group]
    total = [sum(tensor.nbytes for _, tensor in group) for group in groups]
    assert all(size <= limit or len(group) == 1 for size, group in zip(total, groups, strict=True))
    assert all(
        size + after[0][1].nbytes > limit
        for size, (_, after) in zip(total, pairwise(groups), strict=False)
    )


def test_a_valid_cache_is_ready(model: Path, place: Path) -> None:
    """It holds the tensors in several files, is found again, and vLLM is told where it is."""
    with capture_logs() as logs:
        cache = open_cache(model, weights="nf4", device="cpu")
    assert BaseCache(place=place, ready=True, origin=f"{model} on cpu") == cache
    assert [("base_from_cache", str(place))] == [(line["event"], line["folder"]) for line in logs]
    assert len(read_manifest(place).files) > 1
    assert_same(some_tensors(), dict(read_tensors(place)))
    assert names_under(place.parent) == [place.name]
    assert cache.engine_arguments == {
        "load_format": "trustee_cache",
        "model_loader_extra_config": {"folder": str(place)},
    }


def test_each_format_has_a_cache_of_its_own(model: Path, place: Path) -> None:
    """Writing that in int4 leaves that in NF4, and each start finds its own."""
    cache = open_cache(model, weights="int4", device="cpu")
    assert cache.place is not None
    assert not cache.ready
    assert write_cache(cache.place, some_tensors(), origin=cache.origin, spare_bytes=0) == ""
    assert open_cache(model, weights="int4", device="cpu").ready
    assert open_cache(model, weights="nf4", device="cpu").ready
    assert place.parent == cache.place.parent != place


def test_plain_weights_are_not_cached(model: Path) -> None:
    """A base in bf16 has no place."""
    cache = open_cache(model, weights="bf16", device="cpu")
    assert BaseCache(place=None) == cache
    assert cache.engine_arguments == {}


def spoil_byte(place: Path) -> None:
    """Change the last byte of the second file."""
    set_byte(
        place / "base-00001.safetensors", -1 + (place / "base-00001.safetensors").stat().st_size
    )


def cut_file(place: Path) -> None:
    """Cut the first file short."""
    os.truncate(place / "base-00000.safetensors", 20)


def drop_file(place: Path) -> None:
    """Take a file away."""
    (place / "base-00001.safetensors").unlink()


def add_file(place: Path) -> None:
    """Add a file that nobody wrote."""
    (place / "other.safetensors").write_bytes(b"")


def cut_manifest(place: Path) -> None:
    """Cut the manifest in half."""
    os.truncate(place / MANIFEST, (place / MANIFEST).stat().st_size // 2)


def drop_manifest(place: Path) -> None:
    """Take the manifest away."""
    (place / MANIFEST).unlink()


def empty_manifest(place: Path) -> None:
    """Leave a manifest of no files."""
    for path in place.iterdir():
        path.unlink()
    (place / MANIFEST).write_text(json.dumps({"key": place.name, "files": []}))


def rename_cache(place: Path) -> None:
    """Name another base in the manifest."""
    manifest = json.loads((place / MANIFEST).read_text())
    (place / MANIFEST).write_text(json.dumps(manifest | {"key": "0" * 64}))


def replace_by_file(place: Path) -> None:
    """Put a file where the folder was."""
    shutil.rmtree(place)
    place.write_bytes(b"no folder")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (spoil_byte, "files changed since they were written: base-00001.safetensors"),
        (cut_file, "of the wrong size: base-00000.safetensors"),
        (drop_file, "of the wrong size: base-00001.safetensors"),
        (add_file, "of the wrong size: other.safetensors"),
        (cut_manifest, "manifest.json cannot be read"),
        (drop_manifest, "it has no manifest.json"),
        (empty_manifest, "manifest.json cannot be read"),
        (rename_cache, "its manifest belongs to another base"),
        (replace_by_file, "it has no manifest.json"),
    ],
)
def test_a_failed_cache_is_deleted_with_a_reason(
    model: Path, place: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    """It is not ready, the log says why, its room is free, and a new one takes its place."""
    spoil(place)
    with capture_logs() as logs:
        cache = open_cache(model, weights="nf4", device="cpu")
    assert BaseCache(place=place, ready=False, origin=f"{model} on cpu") == cache
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("cache_deleted", "warning")
    assert reason in line["reason"]
    assert not place.exists()
    assert write_cache(place, some_tensors(), spare_bytes=0) == ""
    assert open_cache(model, weights="nf4", device="cpu").ready


def test_a_cache_lies_where_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TRUSTEE_CACHE goes before XDG_CACHE_HOME, which goes before the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("TRUSTEE_CACHE", str(tmp_path / "own"))
    assert tmp_path / "own" == cache_root()
    monkeypatch.delenv("TRUSTEE_CACHE")
    assert tmp_path / "xdg" / "trustee" == cache_root()
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert tmp_path / "home" / ".cache" / "trustee" == cache_root()


def change_config(model: Path) -> None:
    """Write another config."""
    (model / "config.json").write_text('{"model_type": "llama"}')


def change_time(model: Path) -> None:
    """Set another time."""
    os.utime(model / "model-1.safetensors", ns=(1, 1))


def change_size(model: Path) -> None:
    """Add a byte and keep the time."""
    path = model / "model-2.safetensors"
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    path.write_bytes(path.read_bytes() + b"x")
    os.utime(path, ns=times)


def change_sample(model: Path) -> None:
    """Change a byte that the key knows."""
    path = model / "model-1.safetensors"
    set_byte(path, path.stat().st_size // SAMPLES + 5)


def change_name(model: Path) -> None:
    """Rename a weight file."""
    (model / "model-2.safetensors").rename(model / "model-3.safetensors")


def add_index(model: Path) -> None:
    """Say which tensor is in which file."""
    (model / "model.safetensors.index.json").write_text("{}")


@pytest.mark.parametrize(
    "change", [change_config, change_time, change_size, change_sample, change_name, add_index]
)
def test_a_changed_base_has_another_key(model: Path, change: Callable[[Path], None]) -> None:
    """Each thing that tells bases apart tells them apart by itself."""
    before = cache_key(model, quantiser="a")
    assert before == cache_key(model, quantiser="a")
    change(model)
    assert before != cache_key(model, quantiser="a")


def test_a_key_names_base_and_quantiser_alone(model: Path, tmp_path: Path) -> None:
    """Another folder, tokenizer or template changes nothing; another quantiser does."""
    before = cache_key(model, quantiser="a")
    shutil.copytree(model, tmp_path / "copy")
    (tmp_path / "copy" / "tokenizer.json").write_text("{}")
    assert before == cache_key(tmp_path / "copy", quantiser="a")
    assert before != cache_key(model, quantiser="b")


def test_a_disk_without_room_stays_as_it_is(place: Path) -> None:
    """Bytes to spare that the disk lacks are the reason, and nothing is written."""
    other = place.with_name("other")
    failure = write_cache(other, some_tensors(), spare_bytes=1 << 62)
    assert os.strerror(errno.ENOSPC) not in failure
    assert "are needed" in failure
    assert names_under(place.parent) == [place.name]


@pytest.fixture
def small_files() -> Iterator[None]:
    """A process whose files may have 2000 bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files")
def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """An error of the disk in the second file is a reason, and the first file is gone."""
    tensors = [("a", torch.zeros(100)), ("b", torch.zeros(2000))]
    failure = write_cache(tmp_path / "cache", tensors, file_bytes=500, spare_bytes=0)
    assert os.strerror(errno.EFBIG) in failure
    assert names_under(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_a_reason(tmp_path: Path) -> None:
    """A file where the cache folder should be hurts nobody."""
    (tmp_path / "file").write_text("")
    assert "File exists" in write_cache(tmp_path / "file" / "key", some_tensors(), spare_bytes=0)


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    """A half-written folder whose writer is gone does not stop the next one."""
    (tmp_path / "key.part").mkdir()
    (tmp_path / "key.part" / "base-00009.safetensors").write_bytes(b"half")
    assert write_cache(tmp_path / "key", some_tensors(), spare_bytes=0) == ""
    assert names_under(tmp_path) == ["key"]
    assert find_damage(tmp_path / "key", key="key") == ""


def test_two_runs_at_once_do_not_meet(tmp_path: Path) -> None:
    """While one writes, the other goes on without; afterwards it finds the work done."""
    place = tmp_path / "key"
    began, go_on = threading.Event(), threading.Event()

    def slowly() -> Iterator[tuple[str, torch.Tensor]]:
        began.set()
        assert go_on.wait(10)
        yield from some_tensors()

    answers: list[str] = []
    first = threading.Thread(
        target=lambda: answers.append(write_cache(place, slowly(), spare_bytes=0))
    )
    first.start()
    assert began.wait(10)
    assert write_cache(place, some_tensors(), spare_bytes=0) == "another run is writing it"
    go_on.set()
    first.join()
    assert answers == [""]
    assert find_damage(place, key="key") == ""
    assert write_cache(place, some_tensors(), spare_bytes=0) == "another run has already written it"


def test_a_new_cache_replaces_those_of_the_same_origin(tmp_path: Path) -> None:
    """A model that has changed leaves no 5 GB behind; other models and unknown ones keep theirs."""

    def write(name: str, origin: str, spare_bytes: int = 0) -> str:
        place = tmp_path / name
        return write_cache(place, some_tensors(), origin=origin, spare_bytes=spare_bytes)

    assert ["", "", ""] == [write("old", "a"), write("other", "b"), write("nameless", "")]
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / MANIFEST).write_text("{")
    kept = ["foreign", "nameless", "old", "other"]
    assert write("failed", "a", 1 << 60)
    assert kept == names_under(tmp_path), "the old one goes when the new one is whole"
    assert write("new", "a") == ""
    assert sorted({*kept, "new"} - {"old"}) == names_under(tmp_path)
    assert write("second_nameless", "") == ""
    assert "nameless" in names_under(tmp_path)
    assert [""] * 2 == [find_damage(tmp_path / name, key=name) for name in ("new", "other")]


def test_a_lock_ends_with_its_holder(tmp_path: Path) -> None:
    """The lock file stays, and does not stop the next writer once its holder has closed it."""
    with (tmp_path / "key.lock").open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert write_cache(tmp_path / "key", [], spare_bytes=0) == "another run is writing it"
    assert write_cache(tmp_path / "key", some_tensors(), spare_bytes=0) == ""


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("failure", "expected"),
    [("", ("base_cached", "info")), ("full", ("base_not_cached", "warning"))],
)
async def test_keeping_a_base_says_how_it_went(
    tmp_path: Path, failure: str, expected: tuple[str, str]
) -> None:
    """The engine's process is asked once, where there is no sound cache, and its answer logged."""
    calls: list[tuple[str, str, str]] = []

    async def call(method: str, place: str, origin: str) -> str:
        calls.append((method, place, origin))
        return failure

    await BaseCache(place=None).keep(call)
    await BaseCache(place=tmp_path, ready=True).keep(call)
    assert calls == []
    with capture_logs() as logs:
        await BaseCache(place=tmp_path, origin="a model").keep(call)
    assert calls == [("cache_base", str(tmp_path), "a model")]
    assert [expected] == [(line["event"], line["log_level"]) for line in logs]


def empty_between_samples(path: Path) -> None:
    """Make nearly all weights zeros, but keep size, times and the bytes that the key knows."""
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    size = path.stat().st_size
    step = size // SAMPLES
    with path.open("r+b") as file:
        for at in range(step, size, step):
            file.seek(at + KEY_SAMPLE_BYTES)
            file.write(bytes(max(0, min(at + step, size) - file.tell())))
    assert path.stat().st_size == size
    os.utime(path, ns=times)


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.timeout(300)
@pytest.mark.parametrize("weights", QUANTISED)
async def test_the_second_start_reads_the_cache_and_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: WeightFormat
) -> None:
    """A broken cache is rebuilt; the next start has its bytes, though the base is zeros by then."""
    from real_engine import Bench, engine_config, trainer_spec
    from trustee.engine.vllm import VllmEngine

    monkeypatch.setenv("TRUSTEE_CACHE", str(tmp_path / "caches"))
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    spec = msgspec.structs.replace(trainer_spec(), folder=str(folder))
    cache = open_cache(folder, weights=weights, device="cpu")
    assert cache.place is not None
    assert write_cache(cache.place, some_tensors(), spare_bytes=0) == ""
    cut_manifest(cache.place)
    events: list[list[str]] = []
    hashes: list[str] = []
    said: list[Completion] = []
    for start in range(2):
        with capture_logs() as logs:
            async with VllmEngine(engine_config(weights), spec) as engine:
                hashes.append(await engine.hash_base())
                bench = Bench(engine, tmp_path)
                said.append(await bench.sample(None))
                if start == 1:
                    again = tmp_path / "again"
                    assert await engine.call("cache_base", str(again), "") == ""
        events.append([line["event"] for line in logs if "cache" in line["event"]])
        empty_between_samples(folder / "model.safetensors")
    assert events == [["cache_deleted", "base_cached"], ["base_from_cache"]]
    assert hashes[0] == hashes[1]
    assert said[0] == said[1]
    assert read_manifest(cache.place).files == read_manifest(again).files


FAMILIES = ("qwen2", "llama", "qwen3", "retied")
QUANTISERS = {"nf4": "trustee_nf4", "int4": "trustee_int4"}


def write_family(family: str, folder: Path) -> None:
    """Write a tiny random model: biases on q, k, v; on all; head of its own; head like the table.

    The vocabulary of 300 makes vLLM pad the tables.
    """
    from safetensors.torch import save_file
    from transformers import (
        AutoModelForCausalLM,
        LlamaConfig,
        PretrainedConfig,
        Qwen2Config,
        Qwen3Config,
    )

    shape = {
        "vocab_size": 300,
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 256,
        "tie_word_embeddings": family in ("qwen2", "retied"),
    }
    config: PretrainedConfig
    if family == "qwen2":
        config = Qwen2Config(**shape)
    elif family == "llama":
        config = LlamaConfig(**shape, attention_bias=True)
    else:
        config = Qwen3Config(**shape)
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    model.save_pretrained(folder)
    if family == "retied":
        weights = load_file(folder / "model.safetensors")
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def load_twice(family: str, weights: str, folder: Path) -> dict[str, list[str]]:
    """Load a model by vLLM's own loaders, cache it, load the cache; give hashes and outputs.

    Runs in another process, for vLLM's parallel state is global.
    """
    os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    from vllm.config import set_current_vllm_config
    from vllm.distributed import ensure_model_parallel_initialized, init_distributed_environment
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader import get_model

    import trustee.trainer
    from trustee.trainer.shared_weights import shards_of, tensors_of_base

    trustee.trainer.register()
    # As vLLM's CPU worker does.
    torch.accelerator.empty_cache = lambda: None
    write_family(family, folder / "model")
    found: dict[str, list[str]] = {"files": [], "outputs": [], "names": []}
    for start in range(2):
        cache = BaseCache(place=folder / "cache0", ready=start == 1)
        config = EngineArgs(
            model=str(folder / "model"),
            quantization=QUANTISERS[weights],
            dtype="bfloat16",
            enforce_eager=True,
            skip_tokenizer_init=True,
            kv_cache_memory_bytes=1 << 20,
            **cache.engine_arguments,
        ).create_engine_config()
        with set_current_vllm_config(config):
            if not torch.distributed.is_initialized():
                init_distributed_environment(
                    world_size=1,
                    rank=0,
                    local_rank=0,
                    distributed_init_method=f"file://{folder}/store",
                    backend="gloo",
                )
                ensure_model_parallel_initialized(1, 1)
            model = get_model(vllm_config=config)
            worker = SimpleNamespace(model_runner=SimpleNamespace(model=model))
            place = folder / f"cache{start}"
            assert write_cache(place, tensors_of_base(worker), spare_bytes=0) == ""
            found["files"].append(read_manifest(place).files[0].sha256)
            x = torch.linspace(-1, 1, 3 * 128, dtype=torch.bfloat16).view(3, 128)
            layer = model.model.layers[1]
            outputs = [layer.self_attn.qkv_proj(x)[0], layer.mlp(x), model.compute_logits(x)]
            found["outputs"].append(str([out.double().sum().item() for out in outputs]))
        shards = shards_of(layer.self_attn.qkv_proj)
        shapes = [getattr(shard, "shape", None) or shard[1].shape for shard in shards]
        assert [(128, 128), (64, 128), (64, 128)] == [tuple(shape) for shape in shapes]
    found["names"] = sorted(name for name, _ in read_tensors(folder / "cache1"))
    return found


@pytest.fixture(scope="module")
def loading() -> Iterator[ProcessPoolExecutor]:
    """A process that may load models."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        yield pool


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("weights", QUANTISED)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_comes_back_from_its_cache(
    loading: ProcessPoolExecutor, family: str, weights: str, tmp_path: Path
) -> None:
    """The loaders of vLLM give the same bytes, statistics and outputs from checkpoint and cache."""
    found = loading.submit(load_twice, family, weights, tmp_path).result()
    assert found["files"][0] == found["files"][1]
    assert found["outputs"][0] == found["outputs"][1]
    names = found["names"]
    part = {"nf4": "nested_absmax", "int4": "zeros"}[weights]
    assert f"model.layers.1.self_attn.k_proj.{part}" in names
    assert ("lm_head.weight" in names) == (family != "qwen2")
    assert ("model.layers.0.self_attn.v_proj.bias" in names) == (family in ("qwen2", "llama"))
    assert ("model.layers.0.self_attn.o_proj.bias" in names) == (family == "llama")
    assert ("model.layers.0.self_attn.q_norm.weight" in names) == (family in ("qwen3", "retied"))
