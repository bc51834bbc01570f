"""The exceptions that emsmine raises, and the exit code that the command line gives each.

    EmsmineError                  1   anything below
    ├── ConfigError               2   a setting or argument is wrong
    │   └── LanguageError         2   an unknown or ambiguous language code
    ├── InputError                1   an input file cannot be used at all
    ├── StaleOutputError          1   the output directory holds results of other settings
    ├── CorruptOutputError        1   a file of ours does not match its manifest
    │   └── ForeignPathError      1   a link or a path that leads out of the directory
    ├── AccountingError           1   rows went missing without a reason (a bug)
    ├── TaskFailedError           1   one or more tasks of a stage failed
    ├── MissingDependencyError    1   an optional package is not installed
    ├── ModelError                1   a model directory or checkpoint cannot be used
    └── DirectoryInUseError       3   another run holds the output directory

Every message says what happened, the value got, where, and the next step.
"""

EXIT_CODES = {
    0: "done",
    1: "failed: input, data, model, or tasks; finished work is kept",
    2: "usage: a wrong option, setting, or language code",
    3: "another run holds the directory",
    130: "interrupted by Ctrl-C, resumable",
    143: "terminated by SIGTERM, resumable",
}
"""What the exit codes of the command line mean."""


class EmsmineError(Exception):
    """Base of all errors that a user can act on."""

    exit_code = 1


class ConfigError(EmsmineError):
    """A setting or argument is wrong."""

    exit_code = 2


class LanguageError(ConfigError):
    """A language code is unknown or ambiguous."""


class InputError(EmsmineError):
    """An input file cannot be used at all (missing, unreadable, wrong columns)."""


class StaleOutputError(EmsmineError):
    """The output directory holds results that other settings or inputs made."""


class CorruptOutputError(EmsmineError):
    """A file that we wrote does not match its manifest."""


class ForeignPathError(CorruptOutputError):
    """A run directory holds a link, or names a path, that leads out of it or is no plain file. Nothing was touched."""


class AccountingError(EmsmineError):
    """rows_in differs from rows_out plus the counted drops."""


class TaskFailedError(EmsmineError):
    """One or more tasks of a stage failed; the others are done and kept."""


class MissingDependencyError(EmsmineError):
    """An optional package is needed and not installed."""


class ModelError(EmsmineError):
    """A model directory or checkpoint cannot be used."""


class DirectoryInUseError(EmsmineError):
    """Another run holds the output directory."""

    exit_code = 3
