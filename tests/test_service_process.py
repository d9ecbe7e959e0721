"""What `serve` sets for its whole process; in a process of its own, because it cannot be taken back."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, threading
import numpy as np
from threadpoolctl import threadpool_info
from service.process import allow_open_files, return_memory_early, share_cores

soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (min(64, soft), hard))
allow_open_files()
return_memory_early(trim_seconds=0.01)
share_cores()
np.ones((64, 64)) @ np.ones((64, 64))
print(resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard)
print(round(sys.getswitchinterval(), 6))
print({pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"})
print([thread.name for thread in threading.enumerate() if thread.daemon])
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="only glibc can be told about its heaps")
def test_a_serving_process_shares_cores_and_returns_memory():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split("\n")[:4] == ["True", "0.001", "{1}", "['bitfold-trim']"]
