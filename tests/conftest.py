"""Strict by default: eight fake devices, shapes checked at run time, implicit broadcasting across ranks refused.

All of it is set while this file is imported, which pytest does before any test file, so before the first `import jax`.
"""

import atexit
import os
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
# LLVM at its level 0: most of a test's time is compilation, of which level 1 takes half as much again. A caller's own
# level counts instead; programs that tests start with flags of their own are compiled as a user's are.
os.environ["XLA_FLAGS"] = " ".join(
    ["--xla_backend_optimization_level=0", os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count=8"]
)
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow greets at import otherwise
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # many runs of one tiny recipe: compiled once a session
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="gptjax-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")  # small programs too, of which there are most

if "GPTJAX_CACHE" not in os.environ:  # what is kept for later runs is no other test's, nor the user's
    os.environ["GPTJAX_CACHE"] = tempfile.mkdtemp(prefix="gptjax-tests-")
    atexit.register(shutil.rmtree, os.environ["GPTJAX_CACHE"], ignore_errors=True)

import jax
import pytest
from jaxtyping import install_import_hook

install_import_hook("gptjax", "beartype.beartype")


@pytest.fixture(autouse=True, scope="module")
def _programs_end_with_their_file():
    """Compiled programs are freed after each file: a process that held them all would run out of memory maps.

    Linux grants 65,530 (vm.max_map_count), a program takes several, and what asks for one more ends the process in a
    segmentation fault.
    """
    yield
    jax.clear_caches()
