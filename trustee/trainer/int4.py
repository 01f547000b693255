"""The sizes of the int4 format: four bits a weight, a scale and a zero point per group."""

INT4_GROUP = 64
"""Weights of a row per scale and zero point, where this program quantises a model itself."""
INT4_GROUPS = (32, 64, 128)
"""Group sizes that vLLM's Marlin kernels have, and that a checkpoint may bring."""
INT4_COLUMNS = 64
"""Outputs of a layer are packed this many at a time, so each part of a fused layer has a multiple
of them."""
INT4_LEVELS = 15
"""Largest code."""
INT4_VERSION = 1
"""Changes with the numbers that quantising gives, so that older caches are not read."""
