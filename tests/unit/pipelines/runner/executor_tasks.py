"""Tasks for the executor tests; a module of its own, because spawned workers import it by name."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from emsmine.errors import InputError
from emsmine.pipelines.runner.executor import LocalExecutor
from emsmine.pipelines.store.tasks import TaskReport, TaskSpec
from emsmine.progress import report


def run(folder: str, spec: TaskSpec) -> TaskReport:
    """Do what the parameter `do` says, after noting this process in `folder`."""
    Path(folder, f"{spec.partition}.pid").write_text(str(os.getpid()))
    match spec.params.get("do"):
        case "raise":
            raise KeyError("no such thing")
        case "refuse":
            raise InputError("input x is empty; give another")
        case "exit":
            os._exit(7)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "orphan":
            # A process that outlives the worker and holds its files open.
            orphan = subprocess.Popen(["sleep", "30"], close_fds=False)
            Path(folder, "orphan").write_text(str(orphan.pid))
            os._exit(7)
        case "progress":
            for _ in range(4):
                time.sleep(0.1)
                report(0.25)
        case "sleep":
            time.sleep(60)
    return TaskReport(spec.task_id, spec.fingerprint(), rows_in=os.getpid())


def specs(*deeds: str) -> list[TaskSpec]:
    """Return one task per deed."""
    return [TaskSpec("toy", "do", 1, {"do": deed}, (), f"{i:05}") for i, deed in enumerate(deeds)]


def main(folder: str) -> None:
    """Run sleeping tasks, to be killed from outside."""
    from functools import partial

    for done in LocalExecutor(2).map(partial(run, folder), specs("sleep", "sleep", "sleep")):
        print(done.error, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
