"""Settings are declared and checked in one place."""

from dataclasses import dataclass
from typing import Any

import pytest

from emsmine.errors import ConfigError
from emsmine.fields import check_table, setting


@dataclass(frozen=True)
class Toy:
    """A table with a field of every kind."""

    word: str = setting("a", "a word", choices=("a", "b"))
    words: tuple[str, ...] = setting((), "words", choices=("a", "b"))
    sizes: tuple[int, ...] = ()
    share: float = setting(0.5, "a share", low=0, high=1)
    count: int = setting(3, "a count", low=1)
    is_on: bool = setting(True, "a switch")
    free: float = 1.0


@pytest.mark.parametrize(
    ("name", "value", "result"),
    [
        ("word", "b", "b"),
        ("words", ["b", "a"], ("b", "a")),
        ("words", ("a",), ("a",)),
        ("sizes", [1, 2], (1, 2)),
        ("share", 1, 1.0),
        ("count", 7, 7),
        ("is_on", False, False),
        ("free", -1e9, -1e9),
    ],
)
def test_good_values(name: str, value: Any, result: Any) -> None:
    found = check_table(Toy, {name: value}, "toy: [x]")
    assert found == {name: result}
    assert type(found[name]) is type(result)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (3, r"toy: \[x\] must be a table, got int"),
        ({"wrod": "a", "b": 1}, r"toy: \[x\] has unknown keys b, wrod; known: word, words"),
        ({"word": 1}, "word is 1; it must be of type str"),
        ({"word": "c"}, "word is 'c'; choose from a, b"),
        ({"words": "a"}, "words is 'a'; it must be a list of strings"),
        ({"words": ["a", 1]}, "it must be a list of strings"),
        ({"words": ["c"]}, "words is 'c'; choose from a, b"),
        ({"sizes": [True]}, "it must be a list of integers"),
        ({"sizes": ["1"]}, "it must be a list of integers"),
        ({"share": 1.5}, "share is 1.5; it must be at least 0 and at most 1"),
        ({"share": True}, "share is True; it must be of type float"),
        ({"share": float("nan")}, "share is nan; it must be at least 0 and at most 1"),
        ({"count": 0}, "count is 0; it must be at least 1"),
        ({"count": True}, "count is True; it must be of type int"),
        ({"count": 2.0}, "it must be of type int"),
        ({"is_on": 1}, "it must be of type bool"),
        ({"free": float("inf")}, "free is inf; it must be finite"),
    ],
)
def test_bad_values(values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_table(Toy, values, "toy: [x]")


def test_a_dotted_name() -> None:
    with pytest.raises(ConfigError, match=r"config: x\.count is 0"):
        check_table(Toy, {"count": 0}, "config: x", ".")
