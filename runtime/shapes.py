"""Sizes of what is computed together. Pure, and free of torch."""

from __future__ import annotations


def rounded(size: int) -> int:
    """The next larger of four sizes an octave; up to eight, the size itself.

    Kernels are built for each shape they first meet, which on CPUs costs many times what they then
    take.
    """
    step = 1 << max((size - 1).bit_length() - 3, 0)
    return -(-size // step) * step
