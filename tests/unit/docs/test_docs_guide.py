"""The documents name every command, flag, setting, column and reason that the code has, with the right defaults."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import click
import pytest

from emsmine.encoder.training.settings import TrainingConfig, load_training_config
from emsmine.mining.text.rules import default_rules
from emsmine.pipelines.cli.main import cli
from emsmine.pipelines.configuration import build_settings, read_config
from emsmine.pipelines.settings import STAGE_NAMES, STAGE_SETTINGS
from emsmine.pipelines.stages import load_stage
from emsmine.pipelines.store import schemas
from emsmine.pipelines.store.context import REJECTS_SCHEMA

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs/guide.md").read_text(encoding="utf-8")
FORMATS = (ROOT / "docs/formats.md").read_text(encoding="utf-8")
DOCUMENTS = (
    "docs/guide.md",
    "docs/formats.md",
    "docs/decisions.md",
    "docs/gpu-worklist.md",
    "docs/ablations.md",
    "docs/benchmarks.md",
    "docs/memory.md",
    "docs/models.md",
    "CONTRIBUTING.md",
)

RULES = [rule.name for rule in default_rules()]
SCHEMAS = {
    "documents": schemas.DOCUMENTS,
    "duplicates": schemas.DUPLICATES,
    "signatures": schemas.signatures_schema(512),
    "segments": schemas.SEGMENTS,
    "sentences": schemas.SENTENCES,
    "occurrences": schemas.OCCURRENCES,
    "embeddings": schemas.embeddings_schema(4, "x", "y"),
    "neighbours": schemas.neighbours_schema(4),
    "selected": schemas.SELECTED,
    "pairs": schemas.pairs_schema(RULES),
    "rejects": REJECTS_SCHEMA,
}
TRAINING_SETTINGS = [
    (table.name, field.name, field.default)
    for table in dataclasses.fields(TrainingConfig)
    for field in dataclasses.fields(getattr(TrainingConfig(), table.name))
]


def shown(value: Any) -> str:
    """Write a default as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def commands() -> list[tuple[str, click.Command]]:
    """Return all commands, and the tasks of groups, by their full name."""
    found = []
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        found.append((name, command))
        if isinstance(command, click.Group):
            found += [(f"{name} {task}", inner) for task, inner in command.commands.items()]
    return found


COMMANDS = commands()


@pytest.mark.parametrize("name", [name for name, _ in COMMANDS])
def test_the_guide_names_every_command(name: str) -> None:
    assert f"emsmine {name}" in GUIDE, f"docs/guide.md lacks the command: emsmine {name}"


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_the_guide_names_every_flag_that_is_no_setting(name: str, command: click.Command) -> None:
    settings = {field.name for kind in STAGE_SETTINGS.values() for field in dataclasses.fields(kind)}
    flags = [
        flag
        for option in command.params
        if isinstance(option, click.Option) and option.name not in settings
        for flag in option.opts
        if flag.startswith("--")
    ]
    missing = [flag for flag in flags if not re.search(rf"(?<![\w-]){flag}(?![\w-])", GUIDE)]
    assert not missing, f"docs/guide.md lacks flags of emsmine {name}: {missing}"


@pytest.mark.parametrize(
    ("stage", "field"), [(stage, field) for stage, kind in STAGE_SETTINGS.items() for field in dataclasses.fields(kind)]
)
def test_the_table_of_settings_has_a_row_with_the_default(stage: str, field: "dataclasses.Field[Any]") -> None:
    choices = field.metadata["choices"]
    meaning = field.metadata["help"] + (f": {', '.join(choices)}" if choices else "")
    row = f"| {stage} | `{field.name}` | `{shown(field.default)}` | {meaning} |"
    assert row in GUIDE, f"docs/guide.md lacks this row of the table of settings:\n{row}"


def test_the_table_of_settings_has_no_row_too_many() -> None:
    rows = re.findall(r"^\| (\w+) \| `(\w+)` \| `", GUIDE, re.MULTILINE)
    known = [(stage, field.name) for stage, kind in STAGE_SETTINGS.items() for field in dataclasses.fields(kind)]
    assert sorted(rows) == sorted(known)


@pytest.mark.parametrize(("table", "name", "default"), TRAINING_SETTINGS)
def test_the_table_of_training_settings_has_a_row_with_the_default(table: str, name: str, default: Any) -> None:
    assert f"| `{table}.{name}` | `{shown(default)}` |" in GUIDE, f"docs/guide.md lacks {table}.{name} = {default!r}"


def test_the_table_of_training_settings_has_no_row_too_many() -> None:
    rows = re.findall(r"^\| `(\w+)\.(\w+)` \| `", GUIDE, re.MULTILINE)
    assert sorted(rows) == sorted((table, name) for table, name, _ in TRAINING_SETTINGS)


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_formats_name_every_column(name: str) -> None:
    missing = [column for column in SCHEMAS[name].names if f"`{column}`" not in FORMATS]
    assert not missing, f"docs/formats.md lacks columns of {name}: {missing}"
    assert name in FORMATS


def test_the_formats_name_every_step() -> None:
    for stage in STAGE_NAMES:
        for step in load_stage(stage).steps:
            assert f"`{step.name}`" in FORMATS, f"docs/formats.md lacks the step {stage}.{step.name}"


def test_the_formats_name_every_reason() -> None:
    sources = [*sorted((ROOT / "pipelines/readers").glob("*.py")), *sorted((ROOT / "pipelines/stages").glob("*.py"))]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    reasons = set(RULES)
    for pattern in (
        r"(?:Problem|BodyError|_?BadRecord|Damage)\(\s*\"([a-z_0-9]+)\"",
        r"task\.drop\(\s*\"([a-z_0-9]+)\"",
        r"return \"([a-z]+_[a-z_]+|too_long)\"$",
    ):
        reasons.update(re.findall(pattern, code, re.MULTILINE))
    assert len(reasons) > 30, "the patterns no longer find the reasons in the code"
    missing = sorted(reason for reason in reasons if f"`{reason}`" not in FORMATS)
    assert not missing, f"docs/formats.md lacks reasons: {missing}"


def test_the_guide_names_every_rule() -> None:
    missing = [name for name in RULES if f"`{name}`" not in GUIDE]
    assert not missing, f"docs/guide.md lacks rules: {missing}"


def toml_blocks() -> list[tuple[str, int, str]]:
    """Return (document, number, content) of all TOML blocks."""
    blocks = []
    for name in DOCUMENTS:
        text = (ROOT / name).read_text(encoding="utf-8")
        blocks += [(name, n, block) for n, block in enumerate(re.findall(r"```toml\n(.*?)```", text, re.DOTALL))]
    return blocks


@pytest.mark.parametrize(("name", "number", "block"), toml_blocks())
def test_every_toml_block_is_a_valid_configuration(name: str, number: int, block: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(block, encoding="utf-8")
    if "[optimiser]" in block:
        assert load_training_config(path).data.train
    else:
        assert build_settings(read_config(path), {}).pairs


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_to_files_and_headings_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        path, _, heading = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), f"{name} links to {target}, which does not exist"
        if heading:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in headings}
            assert heading in anchors, f"{name} links to {target}; headings there: {sorted(anchors)}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_of_the_repository_that_a_document_names_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    named = set(
        re.findall(r"`((?:emsmine|encoder|mining|pipelines|tests|examples)/[\w./-]*\w\.(?:py|toml|md|tsv|gz))`", text)
    )
    missing = sorted(path for path in named if not (ROOT / path).exists() and "NAME" not in path)
    assert not missing, f"{name} names files that do not exist: {missing}"
