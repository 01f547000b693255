"""The block sizes of NF4 quantisation with nested statistics, as in the QLoRA paper."""

NF4_BLOCK = 64
"""Weights per scale."""
NESTED_BLOCK = 256
"""Scales per nested scale, and states per scale of an 8-bit optimiser; bitsandbytes supports no
other number."""
