"""The format of the weights follows the device and what the processor can do."""

from __future__ import annotations

from pathlib import Path

import pytest

from trustee.engine import weights
from trustee.engine.vllm import VllmConfig
from trustee.engine.weights import choose_format, explain_format, read_processor

XEON = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) CPU\nflags\t\t: fpu avx2 avx512f\n"
EPYC = "processor\t: 0\nmodel name\t: AMD EPYC 9R14\nflags\t\t: fpu avx512f avx512_bf16\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16\n"


def processor(monkeypatch: pytest.MonkeyPatch, path: Path, text: str) -> None:
    """Make this machine's processor another one."""
    path.write_text(text)
    found = read_processor(path)
    monkeypatch.setattr(weights, "read_processor", lambda: found)


@pytest.mark.parametrize(
    ("text", "expected", "sentence"),
    [
        (XEON, "fp32", "this processor (Intel(R) Xeon(R) CPU) has no BF16 instructions"),
        (EPYC, "bf16", "this processor (AMD EPYC 9R14) has BF16 instructions"),
        (ARM, "bf16", "this processor (unknown) has BF16 instructions"),
        ("", "fp32", "this processor (unknown) has no BF16 instructions"),
    ],
)
def test_auto_on_a_cpu_follows_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: str, sentence: str
) -> None:
    """And says so in one sentence."""
    processor(monkeypatch, tmp_path / "cpuinfo", text)
    assert expected == choose_format("auto", "cpu") == VllmConfig(device="cpu").weight_format
    assert f"weights in {expected}, because {sentence}" == explain_format("auto", "cpu")


def test_auto_on_a_gpu_is_nf4() -> None:
    """A consumer card holds an 8B model in no other format."""
    assert "nf4" == choose_format("auto", "cuda")
    assert "weights in nf4, the default on a GPU" == explain_format("auto", "cuda")


def test_a_setting_is_kept() -> None:
    """Whatever the processor can do."""
    assert "fp32" == choose_format("fp32", "cpu")
    assert "weights in fp32, as engine.weights says" == explain_format("fp32", "cpu")


def test_a_machine_that_does_not_tell(tmp_path: Path) -> None:
    """No file, no name and no flags."""
    assert ("", frozenset()) == read_processor(tmp_path / "none")
