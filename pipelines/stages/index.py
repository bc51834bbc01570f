"""index: check the vectors of each language and describe how they will be searched.

Exact search needs no structure: the index of a language is a description of its shards. It is also where
the vectors of one language are seen to come from one encoder; `search` compares both sides.
"""

import json

from emsmine.errors import CorruptOutputError
from emsmine.pipelines.context import TaskContext
from emsmine.pipelines.schemas import embeddings_metadata
from emsmine.pipelines.stages.base import PlanContext, Stage, Step
from emsmine.pipelines.tasks import TaskSpec


def plan(step: Step, context: PlanContext) -> list[TaskSpec]:
    """One task per language."""
    params = context.settings.params("index")
    return [
        step.spec(dict(params), tuple(context.store.outputs("encode", "encode", f"embeddings/{lang}")), lang)
        for lang in context.settings.languages
    ]


def run(task: TaskContext) -> None:
    """Compare the encoders of all shards of a language and write its description."""
    seen: dict[str, str] = {}
    for ref in task.spec.inputs:
        described = embeddings_metadata(task.read(ref, ["sentence_id"]).schema)
        seen[ref.path] = json.dumps(described, sort_keys=True)
        task.count_in(ref.rows)
        task.count_out(ref.rows)
    if len(set(seen.values())) > 1:
        raise CorruptOutputError(
            f"index: the shards of {task.spec.partition} come from different encoders ({seen}); "
            "rerun with --redo encode"
        )
    description = {
        "engine": task.spec.param("engine", str),
        "rows": sum(ref.rows for ref in task.spec.inputs),
        "shards": [{"path": ref.path, "rows": ref.rows} for ref in task.spec.inputs],
        "vectors": json.loads(next(iter(seen.values()))),
    }
    with task.bytes_writer(f"index/{task.spec.partition}.json", rows=0) as file:
        file.write(json.dumps(description, indent=1, sort_keys=True).encode() + b"\n")


STAGE = Stage(
    "index", "prepare the search of each language", "indexed vectors", (Step("index", "index", 1, plan, run),)
)
