"""What a machine has to offer a run: memory, disk, cores, GPUs, and how fast it multiplies.

Nothing here decides a result; it tells early what cannot fit (see `plan`).
"""

import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emsmine.memory import available_memory

_TILE_ROWS = 2048
_GPU_SECONDS = 5
"""How long nvidia-smi may take before the machine counts as one without a GPU."""


@dataclass(frozen=True)
class GpuMemory:
    """A visible GPU."""

    name: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class SearchLimits:
    """What a search may use of a machine; nothing here changes a result.

    Args:
        memory_gb: GiB that all processes may take together; None: what is available.
        device: where large products are taken: `cpu`, `cuda`, `cuda:N`, or `auto`, which takes a GPU if there is one.
        gpu_memory_gb: GiB of that GPU that all processes may take together; None: nine tenths of it.
    """

    memory_gb: float | None = None
    device: str = "cpu"
    gpu_memory_gb: float | None = None

    @property
    def gpu_memory_bytes(self) -> int | None:
        """The same in bytes."""
        return None if self.gpu_memory_gb is None else round(self.gpu_memory_gb * (1 << 30))


@dataclass(frozen=True)
class Machine:
    """The facts that a plan is held against.

    Args:
        memory_bytes: what processes may still take; None where the system does not tell.
        memory_source: who says so, for messages.
        disk_bytes: free space of the output's file system.
        cores: processor cores that this process may use.
        gpus: visible GPUs.
    """

    memory_bytes: int | None
    memory_source: str
    disk_bytes: int
    cores: int
    gpus: tuple[GpuMemory, ...] = ()


def look_at_machine(output: Path, max_memory_gb: float | None = None) -> Machine:
    """Read the facts of this machine.

    Args:
        output: where results will be written; need not exist.
        max_memory_gb: GiB that may be taken at most, whatever the machine has.
    """
    memory, source = available_memory()
    limit = None if max_memory_gb is None else round(max_memory_gb * (1 << 30))
    if limit is not None and (memory is None or limit < memory):
        memory, source = limit, "--max-memory"
    return Machine(memory, source, shutil.disk_usage(_existing(output)).free, _cores(), visible_gpus())


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> tuple[GpuMemory, ...]:
    """List the GPUs that nvidia-smi shows; none if it is missing or CUDA_VISIBLE_DEVICES hides them.

    Asking torch would load it and take memory of the GPU.
    """
    program = shutil.which("nvidia-smi")
    if program is None or os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return ()
    query = [program, "--query-gpu=name,memory.free,memory.total", "--format=csv,noheader,nounits"]
    try:
        shown = subprocess.run(query, capture_output=True, text=True, timeout=_GPU_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return parse_gpus(shown)


def parse_gpus(shown: str) -> tuple[GpuMemory, ...]:
    """Read lines of `name, free MiB, total MiB`; a line without numbers (`[N/A]`) is left out."""
    gpus = []
    for line in shown.splitlines():
        name, *numbers = (word.strip() for word in line.rsplit(",", 2))
        if len(numbers) == 2 and all(number.isdecimal() for number in numbers):
            free, total = (int(number) << 20 for number in numbers)
            gpus.append(GpuMemory(name, free, total))
    return tuple(gpus)


def measure_multiplication(dim: int) -> float:
    """Measure float32 operations per processor second, by the product of one tile of a search.

    Args:
        dim: dimension of the vectors.
    """
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((_TILE_ROWS, dim), dtype=np.float32) for _ in range(2))
    scores = np.empty((_TILE_ROWS, _TILE_ROWS), dtype=np.float32)
    np.matmul(left[:64], right[:64].T)  # the first product of a process loads and chooses code
    best = float("inf")
    for _ in range(3):
        started = time.process_time()
        np.matmul(left, right.T, out=scores)
        best = min(best, time.process_time() - started)
    return 2.0 * _TILE_ROWS * _TILE_ROWS * dim / max(best, 1e-6)


def torch_sees_gpu() -> bool:
    """Tell whether the installed torch can use a GPU; nvidia-smi shows one also to a build without CUDA. Loads it."""
    import torch

    return torch.cuda.is_available()


def multiplies_int8() -> bool:
    """Tell whether large exact searches multiply int8 here, which is faster. Loads torch."""
    from emsmine.errors import ConfigError
    from emsmine.mining.exact.search import search_both

    rows = np.eye(64, dtype=np.float32)
    try:
        search_both(rows, rows, 1, precision="int8")
    except ConfigError:
        return False
    return True


def peak_rss_bytes() -> int:
    """Return the most memory that this process has had.

    Linux keeps it per program (`VmHWM`); `ru_maxrss` would also count what the launcher had when it started this one.
    """
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
