"""What a stage is: steps that plan tasks and run them.

A stage is one file in this folder, one command and one manifest name, all the same word. Its steps run one after the
other; a step plans its tasks from the manifests of finished steps and the settings only, never from directory order,
worker count or clock.
"""

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass

from emsmine.pipelines.settings import Settings
from emsmine.pipelines.store.context import TaskContext
from emsmine.pipelines.store.store import Store
from emsmine.pipelines.store.tasks import JSON, FileRef, Runtime, TaskSpec


@dataclass(frozen=True)
class PlanContext:
    """What a plan may depend on."""

    store: Store
    settings: Settings


@dataclass(frozen=True)
class Step:
    """One wave of independent tasks.

    Args:
        stage: name of the stage.
        name: name of the step.
        version: raised by hand when the code changes its results.
        plan: gives the tasks.
        run: does one of them.
    """

    stage: str
    name: str
    version: int
    plan: Callable[["Step", PlanContext], list[TaskSpec]]
    run: Callable[[TaskContext], None]

    def spec(self, params: dict[str, JSON], inputs: tuple[FileRef, ...], partition: str) -> TaskSpec:
        """Build a task of this step."""
        return TaskSpec(self.stage, self.name, self.version, params, inputs, partition)


@dataclass(frozen=True)
class Stage:
    """What a part of the pipeline does; what is said of it is in the catalogue, see `emsmine.pipelines.settings`."""

    steps: tuple[Step, ...]
    check: Callable[[Settings, Runtime], None] | None = None
    """Refuses settings that only this stage understands; called before any stage of a run starts."""


def library_versions(*names: str) -> dict[str, JSON]:
    """Return the installed versions of libraries that decide a result, to be part of a task's parameters."""
    return {name: importlib.metadata.version(name) for name in names}
