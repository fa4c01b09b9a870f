"""Memory that is freed is used again."""

import platform
import subprocess
import sys

import pytest

CODE = """
import resource
import numpy as np
from dtn_ray import memory
{}
def faults():
    for _ in range(5):
        np.ones(100 << 20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told anything")
def test_memory_once_freed_needs_no_clearing_by_the_kernel() -> None:
    def page_faults(line: str) -> int:
        return int(subprocess.run([sys.executable, "-c", CODE.format(line)], capture_output=True, check=True).stdout)

    assert page_faults("memory.keep()") < 5 < 50 < page_faults("")
