"""Write docs/reference.md from the code: commands, exit codes, settings, rules and reasons.

Run it with `make docs`. What it prints stands in help texts, in `setting(…)` and in docstrings of fields and rules, so
a correction belongs there. A test compares the page with what this module would write.
"""

import ast
import dataclasses
import inspect
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

PAGE = Path(__file__).with_name("reference.md")

_INTRODUCTION = """\
# Reference

<!-- Made from the code by `make docs`; a test compares them. Change help texts and docstrings there, not this page. -->

Every command, exit code, setting, rule and reason, as the code has them. The [guide](guide.md) shows how they are
used, file formats stand in [formats.md](formats.md).

- [Commands](#commands) · [Exit codes](#exit-codes) · [Run settings](#run-settings) · [Rules](#rules)
- [Reasons](#reasons) · [Training settings](#training-settings) ·
[Scorer settings](#scorer-settings) · [Bootstrap settings](#bootstrap-settings)
"""

_STAGES = """\
`emsmine run` runs all stages. Each is a command of its own, too, on a run directory that holds the results of those
before it.
"""

_SETTINGS = """\
A setting is a key of the TOML table named like its stage, and a flag: `near_duplicates` is `--near-duplicates` or
`--no-near-duplicates`, a list is comma-separated. Flags win over the file; unknown keys are errors. The settings of a
run are saved in `DIR/config.toml` and are the base of the next command on `DIR`. These three keys stand above the
tables:
"""

_EXAMPLE = """\
```toml
# emsmine run -c mine.toml -o out/mine
inputs = ["examples/crawl/sites.warc.gz", "examples/crawl/feeds.jsonl.gz"]
pairs = ["de-en", "en-fr"]

[select]
threshold = 1.1

[export]
formats = ["tsv", "jsonl"]
```
"""

_RULES = """\
The rules of `filter`, in the order in which they are asked; the first that refuses a pair is the reason of its drop.
All rules score every pair: the scores of kept pairs are the columns `rule_…` of the exported Parquet. `rules_off`
leaves rules out by name.
"""

_REASONS = """\
Why rows are dropped, by step. The funnel counts all of them; samples are in `rejects/` ([formats](formats.md#rejects)).
"""

_SUSPICIONS = """\
Chosen pairs may be marked as suspicious; nothing is dropped for that ([guide](scores.md#suspicious-pairs)):
"""


def reference() -> str:
    """Return the whole page."""
    parts = [_INTRODUCTION, *_commands(), *_exit_codes(), *_run_settings(), *_rules(), *_reasons()]
    parts += [*_training_settings(), *_scorer_settings(), *_bootstrap_settings()]
    return "\n".join(part.rstrip("\n") + "\n" for part in parts if part.strip())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("|  |", "| |")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _meaning(text: str, *remarks: str) -> str:
    """Return a help text or docstring as the words of a cell, in one style wherever it comes from."""
    text = " ".join(text.split())
    # What help texts write as `[default: …]`, because click writes defaults so.
    if ending := re.search(r"\s*\[(default: .*)\]$", text):
        text, remarks = text[: ending.start()], (*remarks, ending[1])
    text = text.removesuffix(".")
    said = "; ".join(filter(None, remarks))
    return text[:1].upper() + text[1:] + (f" ({said})" if said else "")


def _toml(value: Any) -> str:
    """Write a default as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def field_texts(kind: type[Any]) -> dict[str, str]:
    """Return what each field of a dataclass says of itself: the help text of `setting`, or the docstring below it.

    Python throws docstrings of fields away, hence the syntax tree.
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    texts: dict[str, str] = {}
    for node, following in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            said = following.value if isinstance(following, ast.Expr) else None
            texts[node.target.id] = str(said.value) if isinstance(said, ast.Constant) else ""
    for field in dataclasses.fields(kind):
        texts[field.name] = field.metadata.get("help") or texts.get(field.name, "")
    return texts


class _Summaries(click.HelpFormatter):
    """Catches the list of commands that `emsmine --help` prints."""

    rows: Sequence[tuple[str, str]] = ()

    def write_dl(self, rows: Iterable[tuple[str, str]], *args: Any, **kwargs: Any) -> None:
        """Keep the rows."""
        self.rows = list(rows)


def all_commands() -> Iterator[tuple[str, click.Command, click.Context]]:
    """Yield every command with its full name, a group before its tasks, in the order of `emsmine --help`."""
    from emsmine.pipelines.cli.main import cli

    # With its settings: click keeps the names of the help option that it sees first, also for whoever calls next.
    root = click.Context(cli, info_name="emsmine", **cli.context_settings)
    for name in cli.list_commands(root):
        command = cli.get_command(root, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=root)
        yield name, command, context
        if isinstance(command, click.Group):
            for task, inner in command.commands.items():
                yield f"{name} {task}", inner, click.Context(inner, info_name=task, parent=context)


def _commands() -> Iterator[str]:
    from emsmine.pipelines.cli.main import cli
    from emsmine.pipelines.settings import STAGE_NAMES

    summaries = _Summaries()
    cli.format_commands(click.Context(cli), summaries)
    yield "## Commands\n"
    anchors = {name: "stages-one-by-one" if name in STAGE_NAMES else f"emsmine-{name}" for name, _ in summaries.rows}
    yield _table(
        ("command", "does"), [(f"[`emsmine {n}`](#{anchors[n]})", _meaning(text)) for n, text in summaries.rows]
    )
    yield "Global options stand before the command, as in `emsmine -q run …`; every command has `--help`.\n"
    yield _option_table(_options(cli))
    stages = []
    for name, command, context in all_commands():
        if name in STAGE_NAMES:
            stages.append((name, command, context))
            continue
        yield f"### emsmine {name}\n"
        yield f"    {_usage(name, command, context)}\n"
        yield f"{_paragraphs(command.help or '')}\n"
        yield _option_table(_own_options(command))
        if flags := _setting_flags(command):
            yield f"[Settings](#run-settings) as flags: {flags}.\n"
    yield from _stages(stages)


def _usage(name: str, command: click.Command, context: click.Context) -> str:
    pieces = [piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]"]
    return " ".join(["emsmine", name, *pieces, "[OPTIONS]"])


def _stages(commands: Sequence[tuple[str, click.Command, click.Context]]) -> Iterator[str]:
    """Tell the commands of the stages together: they are one command with other settings."""
    from emsmine.pipelines.stages import load_stage

    yield "### Stages one by one\n"
    yield _STAGES
    rows = []
    for name, command, context in commands:
        steps = ", ".join(f"`{step.name}`" for step in load_stage(name).steps)
        rows.append((f"`{_usage(name, command, context)}`", steps, _setting_flags(command)))
    yield _table(("command", "steps", "[settings](#run-settings) as flags"), rows)
    shared = set.intersection(*({str(option.name) for option in _own_options(command)} for _, command, _ in commands))
    yield _option_table([option for option in _own_options(commands[0][1]) if option.name in shared])
    for name, command, _ in commands:
        others = [option for option in _own_options(command) if option.name not in shared]
        if others:
            yield f"Of `emsmine {name}` alone:\n"
            yield _option_table(others)


def _paragraphs(text: str) -> str:
    cleaned = inspect.cleandoc(text)
    return "\n\n".join(" ".join(part.split()) for part in cleaned.split("\n\n"))


def _options(command: click.Command) -> list[click.Option]:
    return [item for item in command.params if isinstance(item, click.Option)]


def _is_setting(option: click.Option) -> bool:
    """Tell whether `stage_options` made an option of a setting, by the end of its help."""
    return re.search(r"\[\w+; default: ", option.help or "") is not None


def _own_options(command: click.Command) -> list[click.Option]:
    return [option for option in _options(command) if not _is_setting(option)]


def _setting_flags(command: click.Command) -> str:
    """Return the flags of a command that are settings, as in `` `--k`, `--margin` ``."""
    return ", ".join(f"`{flag}`" for option in _options(command) if _is_setting(option) for flag in _flags(option))


def _flags(option: click.Option) -> list[str]:
    return [*option.opts, *option.secondary_opts]


def _option_table(options: Sequence[click.Option]) -> str:
    return _table(("option", "meaning"), [_option_row(option) for option in options]) if options else ""


def _option_row(option: click.Option) -> tuple[str, str]:
    names = ", ".join(f"`{flag}`" for flag in _flags(option))
    if not option.is_flag and not option.count:
        kinds = {"integer range": "N", "float range": "X", "float": "X", "choice": "WORD"}
        names = f"{names[:-1]} {option.metavar or kinds.get(option.type.name, 'TEXT')}`"
    choices = ", ".join(option.type.choices) if isinstance(option.type, click.Choice) else ""
    default = option.show_default if isinstance(option.show_default, str) else f"`{option.default}`"
    remarks = [
        choices,
        f"default: {default}" if option.show_default else "",
        "must be given" if option.required else "",
    ]
    remarks.append("may be given several times" if option.multiple else "")
    return names, _meaning(option.help or "", *remarks)


def _exit_codes() -> Iterator[str]:
    from emsmine.errors import EXIT_CODES

    yield "## Exit codes\n"
    yield _table(("code", "meaning"), [(str(code), _meaning(text)) for code, text in EXIT_CODES.items()])


def _run_settings() -> Iterator[str]:
    from emsmine.pipelines.settings import STAGE_SETTINGS, Settings

    yield "## Run settings\n"
    yield _SETTINGS
    texts = field_texts(Settings)
    top = [field for field in dataclasses.fields(Settings) if field.name not in STAGE_SETTINGS]
    yield _table(
        ("key", "default", "meaning"),
        [(f"`{field.name}`", f"`{_toml(field.default)}`", _meaning(texts[field.name])) for field in top],
    )
    yield _EXAMPLE
    rows = []
    for stage, kind in STAGE_SETTINGS.items():
        texts = field_texts(kind)
        for field in dataclasses.fields(kind):
            words = _meaning(texts[field.name], ", ".join(field.metadata["choices"]), _range(field))
            rows.append((stage, f"`{field.name}`", f"`{_toml(field.default)}`", words))
    yield _table(("stage", "setting", "default", "meaning"), rows)


def _range(field: "dataclasses.Field[Any]") -> str:
    low, high = field.metadata["low"], field.metadata["high"]
    if math.isfinite(low) and math.isfinite(high):
        return f"{low:g} to {high:g}"
    return f"at least {low:g}" if math.isfinite(low) else f"at most {high:g}" if math.isfinite(high) else ""


def _rules() -> Iterator[str]:
    from emsmine.mining.text.rules import default_rules

    yield "## Rules\n"
    yield _RULES
    yield _table(
        ("rule", "meaning"), [(f"`{rule.name}`", _meaning(type(rule).__doc__ or "")) for rule in default_rules()]
    )


def _reasons() -> Iterator[str]:
    from emsmine.pipelines.reasons import REASONS, SUSPICIONS

    yield "## Reasons\n"
    yield _REASONS
    rows = [(step, f"`{name}`", _meaning(text)) for step, reasons in REASONS.items() for name, text in reasons.items()]
    yield _table(("step", "reason", "meaning"), [*rows, ("filter.filter", "the name of a rule", "See [Rules](#rules)")])
    yield _SUSPICIONS
    yield _table(("mark", "meaning"), [(f"`{name}`", _meaning(text)) for name, text in SUSPICIONS.items()])


def _training_settings() -> Iterator[str]:
    from emsmine.encoder.training.settings import TrainingConfig

    yield "## Training settings\n"
    yield "The tables of a [training](training.md); `network.dim` is the key `dim` of the table `[network]`.\n"
    tables = dataclasses.asdict(TrainingConfig()).keys()
    rows = [row for name in tables for row in _field_rows(type(getattr(TrainingConfig(), name)), f"{name}.")]
    yield _table(("setting", "default", "meaning"), rows)


def _scorer_settings() -> Iterator[str]:
    from emsmine.pipelines.direct.scorer_data import ScorerData
    from emsmine.pipelines.direct.train_scorer import ScorerRun, ScorerTraining

    yield "## Scorer settings\n"
    yield "The tables of a configuration of `emsmine train-scorer`; see [A pair scorer](training.md#a-pair-scorer).\n"
    for name, kind in (("run", ScorerRun), ("data", ScorerData), ("training", ScorerTraining)):
        yield f"`[{name}]`\n"
        yield _table(("setting", "default", "meaning"), list(_field_rows(kind, f"{name}.")))


def _bootstrap_settings() -> Iterator[str]:
    from emsmine.pipelines.bootstrap.settings import BootstrapSettings

    yield "## Bootstrap settings\n"
    yield "The table `[bootstrap]`; the tables beside it stand in [Bootstrapping](training.md#bootstrapping).\n"
    yield _table(("setting", "default", "meaning"), list(_field_rows(BootstrapSettings, "bootstrap.")))


def _field_rows(kind: type[Any], prefix: str) -> Iterator[tuple[str, str, str]]:
    texts = field_texts(kind)
    for field in dataclasses.fields(kind):
        yield f"`{prefix}{field.name}`", f"`{_toml(field.default)}`", _meaning(texts[field.name])


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
