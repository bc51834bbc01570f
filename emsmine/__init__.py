"""emsmine: from a web crawl to a parallel corpus."""

from emsmine._version import __version__

__all__ = ["__version__"]
