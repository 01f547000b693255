"""GGUF files are written of the types of which they say everything, and of no other."""

from __future__ import annotations

from typing import Any

import pytest

from golden_errors import ErrorCheck
from trustee.engine.model_config import read_model_config
from trustee.errors import InputError
from trustee.export.gguf_file import read_writable_shape
from trustee.planning.shapes import PACKAGED


def packaged(model: str) -> dict[str, Any]:
    """Return the packaged config of a model."""
    return read_model_config(PACKAGED / f"{model.replace('/', '--')}.json")


@pytest.mark.parametrize("model", ["ibm-granite/granite-4.1-3b", "HuggingFaceTB/SmolLM3-3B"])
def test_a_type_that_computes_more_is_refused(model: str, check_error: ErrorCheck) -> None:
    """A file that leaves out what multiplies or what has no positions would say something else."""
    with pytest.raises(InputError) as caught:
        read_writable_shape(packaged(model), name=model)
    check_error(caught, model, "--merged")


@pytest.mark.parametrize("model", ["Qwen/Qwen3-8B", "meta-llama/Llama-3.2-3B-Instruct"])
def test_the_types_that_are_written(model: str) -> None:
    """Their shapes are read."""
    assert read_writable_shape(packaged(model), name=model).layers > 0
