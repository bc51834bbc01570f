"""The exception tree: one base, documented exit codes, and a docstring that tells the truth."""

import inspect
import pickle
import re

import pytest

from emsmine import errors
from emsmine.errors import ConfigError, EmsmineError, LanguageError

CLASSES = [member for member in vars(errors).values() if inspect.isclass(member) and issubclass(member, EmsmineError)]
# A line of the tree in the module's docstring: `│   └── LanguageError         2   an unknown …`.
_TREE_LINE = re.compile(r"^ {4}(?P<branch>(?:│   |    )*(?:├── |└── )?)(?P<name>\w+) +(?P<code>\d)   \S", re.MULTILINE)


def documented_tree() -> dict[str, tuple[str, int]]:
    """Read class → (parent, exit code) from the docstring."""
    tree: dict[str, tuple[str, int]] = {}
    path: list[str] = []
    for line in _TREE_LINE.finditer(errors.__doc__ or ""):
        depth = len(line["branch"]) // 4
        path = [*path[:depth], line["name"]]
        tree[line["name"]] = (path[-2] if depth else "Exception", int(line["code"]))
    return tree


def test_the_docstring_shows_the_tree_and_the_exit_codes() -> None:
    tree = {member.__name__: (member.__mro__[1].__name__, member.exit_code) for member in CLASSES}
    assert documented_tree() == tree


def test_all_are_caught_by_the_base() -> None:
    assert LanguageError in CLASSES
    assert all(issubclass(member, EmsmineError) for member in CLASSES)
    # Not a system exit or the like: `except Exception` of a caller catches all.
    assert all(issubclass(member, Exception) for member in CLASSES)


def test_exit_codes_are_those_of_the_command_line() -> None:
    assert {member.exit_code for member in CLASSES} == {1, 2, 3}
    for member in CLASSES:
        assert (member.exit_code == 2) == issubclass(member, ConfigError)


@pytest.mark.parametrize("member", CLASSES)
def test_an_error_keeps_its_message_between_processes(member: type[EmsmineError]) -> None:
    # Workers hand their errors to the parent, which must get the same class and words.
    error = member("encode: shard eng_Latn/00003 has 3 non-finite rows")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is member
    assert str(copy) == str(error)
    assert copy.exit_code == member.exit_code


@pytest.mark.parametrize("member", CLASSES)
def test_each_says_what_it_is_for(member: type[EmsmineError]) -> None:
    assert inspect.cleandoc(member.__doc__ or "").endswith((".", ")."))
