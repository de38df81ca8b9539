"""How the C library manages the memory of a training."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed() -> None:
    """Keep freed memory for the next step of a training on a CPU, until the process ends.

    By default, glibc returns every block of more than 32 MB to the kernel, which zeroes all of its pages when the next step
    needs them. Has no effect with other C libraries.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
