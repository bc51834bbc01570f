"""emsmine: from a web crawl to a parallel corpus.

    encoder = emsmine.load_encoder("ems:default")
    vectors = encoder.encode(["Guten Tag."], lang="de")
    pairs = emsmine.mine(german, english, source_lang="de", target_lang="en")
    run = emsmine.run(["crawl/*.warc.gz"], pairs=["de-en"], output="out")

See docs/python.md. Names are loaded when they are first used: `import emsmine` alone loads no library.
"""

from emsmine._version import __version__

# Not from `typing`, whose import takes longer than all else here; type checkers know the name.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from emsmine import errors, languages
    from emsmine.encoder.protocol import Encoder
    from emsmine.encoder.registry import load_encoder
    from emsmine.mining.scoring.explain import Explanation
    from emsmine.pipelines.direct.api import mine, score, search
    from emsmine.pipelines.direct.explain import explain
    from emsmine.pipelines.direct.results import Embeddings, Funnel, Pair, Pairs, Rejects, Scores, SearchResult
    from emsmine.pipelines.direct.run import run
    from emsmine.pipelines.direct.run_directory import Run, read_embeddings

__all__ = [
    "Embeddings",
    "Encoder",
    "Explanation",
    "Funnel",
    "Pair",
    "Pairs",
    "Rejects",
    "Run",
    "Scores",
    "SearchResult",
    "__version__",
    "errors",
    "explain",
    "languages",
    "load_encoder",
    "mine",
    "read_embeddings",
    "run",
    "score",
    "search",
]

_HOMES = {
    "Encoder": "emsmine.encoder.protocol",
    "load_encoder": "emsmine.encoder.registry",
    **dict.fromkeys(("mine", "score", "search"), "emsmine.pipelines.direct.api"),
    "Explanation": "emsmine.mining.scoring.explain",
    "explain": "emsmine.pipelines.direct.explain",
    "run": "emsmine.pipelines.direct.run",
    **dict.fromkeys(
        ("Embeddings", "Funnel", "Pair", "Pairs", "Rejects", "Scores", "SearchResult"),
        "emsmine.pipelines.direct.results",
    ),
    **dict.fromkeys(("Run", "read_embeddings"), "emsmine.pipelines.direct.run_directory"),
}
_MODULES = ("errors", "languages")


if not TYPE_CHECKING:
    # Type checkers take a module with `__getattr__` for one that has every name.
    def __getattr__(name: str) -> object:
        """Load a name of the interface when it is first used (PEP 562)."""
        if name not in _HOMES and name not in _MODULES:
            raise AttributeError(f"module 'emsmine' has no attribute {name!r}")
        import importlib

        if name in _MODULES:
            return importlib.import_module(f"emsmine.{name}")
        value: object = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
