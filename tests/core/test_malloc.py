"""What the settings do to a process, as the kernel counts its memory and its page faults."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc is not in use")

# Blocks that glibc would map at first, and keep on its heap once one of them was freed.
SCRIPT = """
import ctypes, resource
from edgemtl.core import malloc
{setting}
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
size = 8 << 20
def touch():
    block = libc.malloc(size)
    libc.memset(block, 1, size)
    return block
for _ in range(3):
    libc.free(touch())
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    libc.free(touch())
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
below, above = touch(), libc.malloc(1000)
libc.free(below)
print(int(open("/proc/self/statm").read().split()[1]) * 4 >> 10)
"""


def measured(setting: str) -> tuple[int, int]:
    """Page faults of ten times the same 8 MiB, and the resident MiB once they are freed."""
    script = SCRIPT.format(setting=setting)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    faults, resident = done.stdout.split()
    return int(faults), int(resident)


def test_freed_memory_is_kept_for_the_next_request() -> None:
    faults, _ = measured("malloc.keep_freed_memory()")
    assert faults < 100


def test_large_blocks_go_back_to_the_system() -> None:
    faults, small = measured("malloc.return_large_blocks()")
    _, large = measured("malloc.keep_freed_memory()")
    assert faults > 10 * 1000
    assert small + 7 < large
