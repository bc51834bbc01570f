"""The stages of the pipeline, one module each. A stage's name, its command and its manifests are the same word."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emsmine.pipelines.stages.base import Stage


def load_stage(name: str) -> "Stage":
    """Import a stage; only then are its libraries loaded."""
    stage: Stage = importlib.import_module(f"emsmine.pipelines.stages.{name}").STAGE
    return stage
