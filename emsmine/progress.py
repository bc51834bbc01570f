"""How far a long piece of work has come: told by whoever does it, heard by whoever shows it.

Work of any layer calls `report`; it need not know whether anybody listens, or where it runs. A report says which share
of the present piece of work (a task, or one call) has been done since the last one. Progress is for people only:
nothing that is computed may depend on it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Listener = Callable[[float], None]
_listeners: list[Listener] = []


def report(share: float) -> None:
    """Tell whoever listens, if anybody, that a further share of the present piece of work, from 0 to 1, is done."""
    if _listeners:
        _listeners[-1](share)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Hear the reports made within a `with` block; of blocks within each other, the innermost hears."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
