"""Run the first task of a step of a run directory, and print by how many bytes this process grew at its largest.

python plan_task_memory.py DIR STAGE STEP
"""

import sys
from pathlib import Path

import numpy as np

from emsmine.errors import ConfigError
from emsmine.mining.exact.search import search_both
from emsmine.pipelines.configuration import build_settings, read_config
from emsmine.pipelines.runner.run import execute
from emsmine.pipelines.stages import load_stage
from emsmine.pipelines.stages.base import PlanContext
from emsmine.pipelines.store.store import Store
from emsmine.pipelines.store.tasks import Runtime


def load_libraries(engine: str) -> None:
    """Load what worker processes have loaded after their first tasks, so that growth is that of arrays."""
    rows = np.eye(64, dtype=np.float32)
    try:
        search_both(rows, rows, 1, precision="int8")
    except ConfigError:
        import torch

        assert torch.ones(1).sum() == 1
    if engine != "exact":
        from emsmine.mining.approximate.loader import load_faiss

        load_faiss()


def resident_bytes(field: str) -> int:
    # Not `ru_maxrss`: it begins with the size of the process that this one was forked from.
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def main(root: Path, stage: str, name: str) -> None:
    settings = build_settings(read_config(root / "config.toml"), {})
    step = next(step for step in load_stage(stage).steps if step.name == name)
    load_libraries(settings.index.engine)
    (first, *_) = step.plan(step, PlanContext(Store(root), settings))
    before = resident_bytes("VmRSS")
    report = execute(root, Runtime(), first)
    assert report.error is None, report.error
    print(resident_bytes("VmHWM") - before)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
