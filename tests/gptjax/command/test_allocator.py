"""Freed memory stays with the process: the second large array costs no page faults."""

import subprocess
import sys

PROGRAM = """
import resource, sys
import numpy as np
from gptjax.command.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**26, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def second_array(mode: str) -> int:
    """Page faults of an array of 64 MiB after one like it was freed."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_second_large_array_reuses_the_memory_of_the_first():
    assert second_array("keep") < 100
    assert second_array("as shipped") > second_array("keep")
