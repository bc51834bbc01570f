"""search: embeddings → the k nearest neighbours of every sentence, in both directions."""

from emsmine.pipelines.stages.search.exact import STAGE

__all__ = ["STAGE"]
