"""The memory that a process keeps between two steps of a fit."""

import ctypes
import sys

# Options of `mallopt` of glibc, by the numbers of <malloc.h>, which takes 32 bits: the size from
# which on an array comes from the operating system and goes back to it; how much is kept that
# nobody uses; and how many heaps there are, since those of threads hold no array above 64 MB.
_MOST = 2**31 - 1
_OPTIONS = {-3: _MOST, -1: _MOST, -8: 1}


def keep_memory() -> bool:
    """Keep the memory of large arrays on the CPU from one step to the next.

    Without, each array above 32 MB comes from the operating system page by page, and goes back: a
    tenth to a third of the time of models such as FFTs of images. With it the process holds the
    most memory that it ever needed. It is for all of the process, up to 2 GB for an array; call it
    before the first fit. Only Linux's usual C library (glibc) can do this.

    Returns
    -------
    bool
        Whether it is done.

    Examples
    --------
    >>> import fitkit as fk
    >>> fk.keep_memory() in (True, False)
    True
    """
    if sys.platform != "linux":
        return False
    # Other C libraries of Linux have no `mallopt`.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(*one) == 1 for one in _OPTIONS.items())
