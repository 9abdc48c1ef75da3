"""What a process keeps of the memory that it has used."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
import numpy as np
import fitkit as fk

if sys.argv[1] == "kept":
    assert fk.keep_memory()
np.empty(8_000_000).fill(1.0)  # 64 MB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.empty(8_000_000).fill(1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps memory")
def test_memory_is_kept_on_request():
    faults = {
        name: int(subprocess.check_output([sys.executable, "-c", SCRIPT, name], text=True))
        for name in ("given back", "kept")
    }
    # 15,625 pages of 4 kB, or 31 of 2 MB where the system makes large ones.
    assert faults["kept"] < 5 < faults["given back"]
