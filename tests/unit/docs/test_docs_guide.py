"""The documents name every command, flag, setting, column and reason that the code has, and none that it has not."""

import ast
import dataclasses
import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest

from emsmine import errors
from emsmine.encoder.training.settings import TrainingConfig, load_training_config
from emsmine.mining.selection import suspicion
from emsmine.mining.text.rules import default_rules
from emsmine.pipelines.bootstrap.settings import BootstrapSettings
from emsmine.pipelines.cli.main import cli
from emsmine.pipelines.configuration import build_settings, read_config
from emsmine.pipelines.direct.train_scorer import ScorerConfig, load_scorer_config
from emsmine.pipelines.reasons import REASONS, SUSPICIONS
from emsmine.pipelines.settings import STAGE_NAMES, STAGE_SETTINGS
from emsmine.pipelines.stages import load_stage
from emsmine.pipelines.store import schemas
from emsmine.pipelines.store.context import REJECTS_SCHEMA

ROOT = Path(__file__).resolve().parents[3]
REFERENCE = (ROOT / "docs/reference.md").read_text(encoding="utf-8")
FORMATS = (ROOT / "docs/formats.md").read_text(encoding="utf-8")
DOCUMENTS = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").glob("*.md"))]
DOCUMENTS += ["README.md", "CONTRIBUTING.md", "examples/README.md", "encoder/pretrained/default/README.md"]
MAX_GUIDE_LINES = 350

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
    "candidates": schemas.CANDIDATES,
    "looked": schemas.LOOKED,
    "rescored": schemas.RESCORED,
    "selected": schemas.SELECTED,
    "pairs": schemas.pairs_schema(RULES),
    "rejects": REJECTS_SCHEMA,
}
RUN_SETTINGS = [(stage, field) for stage, kind in STAGE_SETTINGS.items() for field in dataclasses.fields(kind)]
FILE_SETTINGS = [
    (heading, table.name, field)
    for heading, config in [("## Training settings", TrainingConfig()), ("## Scorer settings", ScorerConfig())]
    for table in dataclasses.fields(config)
    for field in dataclasses.fields(getattr(config, table.name))
]
FILE_SETTINGS += [("## Bootstrap settings", "bootstrap", field) for field in dataclasses.fields(BootstrapSettings)]


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


def section(heading: str) -> str:
    """Return what stands in the reference below a heading, up to the next of the same level or above."""
    level = heading.index(" ")
    pattern = rf"^{re.escape(heading)}$(.*?)(?=^#{{2,{level}}} |\Z)"
    found = re.search(pattern, REFERENCE, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/reference.md lacks the heading: {heading}"
    return found[1]


def test_the_reference_is_what_the_code_says() -> None:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "docs/make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.reference() == REFERENCE, "docs/reference.md is not what the code says; run: make docs"


def test_the_guide_is_no_longer_than_a_day() -> None:
    lines = len((ROOT / "docs/guide.md").read_text(encoding="utf-8").splitlines())
    assert lines <= MAX_GUIDE_LINES, f"docs/guide.md has {lines} lines; what only some need belongs to another page"


# What follows does not trust the script that writes the reference: it could leave something out.
@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_the_reference_has_every_command_with_all_its_flags(name: str, command: click.Command) -> None:
    text = section("### Stages one by one" if name in STAGE_NAMES else f"### emsmine {name}")
    assert f"emsmine {name}" in text
    flags = [flag for option in command.params if isinstance(option, click.Option) for flag in option.opts]
    missing = [flag for flag in flags if not re.search(rf"(?<![\w-]){flag}(?![\w-])", text)]
    assert not missing, f"docs/reference.md lacks flags of emsmine {name}: {missing}"


@pytest.mark.parametrize(("stage", "field"), RUN_SETTINGS)
def test_the_reference_has_every_run_setting(stage: str, field: "dataclasses.Field[Any]") -> None:
    row = re.search(rf"^\| {stage} \| `{field.name}` \| `(.*?)` \| (.*) \|$", section("## Run settings"), re.MULTILINE)
    assert row is not None, f"docs/reference.md lacks {stage}.{field.name}"
    assert row[1] == shown(field.default)
    assert field.metadata["help"][1:] in row[2]
    assert all(choice in row[2] for choice in field.metadata["choices"])


@pytest.mark.parametrize(("heading", "table", "field"), FILE_SETTINGS)
def test_the_reference_has_every_setting_of_a_training_and_of_bootstrapping(
    heading: str, table: str, field: "dataclasses.Field[Any]"
) -> None:
    row = re.search(rf"^\| `{table}\.{field.name}` \| `(.*?)` \| (.*) \|$", section(heading), re.MULTILINE)
    assert row is not None, f"docs/reference.md lacks {table}.{field.name}"
    assert row[1] == shown(field.default)
    assert len(row[2]) > 10, f"{table}.{field.name} says nothing of itself: write a docstring below the field"


def test_the_reference_has_every_exit_code() -> None:
    codes = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type)}
    assert codes <= set(errors.EXIT_CODES)
    assert all(f"| {code} | " in section("## Exit codes") for code in errors.EXIT_CODES)


def test_the_reference_has_every_rule() -> None:
    missing = [
        name for name in RULES if not re.search(rf"^\| `{name}` \| .{{10,}} \|$", section("## Rules"), re.MULTILINE)
    ]
    assert not missing, f"docs/reference.md lacks rules: {missing}"


def test_every_reason_in_the_code_is_explained() -> None:
    """A reason belongs to the step of the file that drops for it: readers to ingest.read, a stage to its own steps."""
    found = set()
    for path in [*(ROOT / "pipelines/readers").glob("*.py"), *(ROOT / "pipelines/stages").rglob("*.py")]:
        stage = "ingest" if path.parent.name == "readers" else path.parent.name.replace("stages", path.stem)
        for pattern in (
            r"(?:Problem|BodyError|_?BadRecord|Damage)\(\s*\"([a-z_0-9]+)\"",
            r"_damaged\(\s*\"([a-z_0-9]+)\"",
            r"task\.drop\(\s*\"([a-z_0-9]+)\"",
            r"return \"([a-z]+_[a-z_]+|too_long)\"$",
        ):
            found.update((stage, name) for name in re.findall(pattern, path.read_text(encoding="utf-8"), re.MULTILINE))
    assert len(found) > 30, "the patterns no longer find the reasons in the code"
    explained = {(step.split(".")[0], name) for step, reasons in REASONS.items() for name in reasons}
    assert not found - explained, f"pipelines/reasons.py lacks reasons: {sorted(found - explained)}"


def test_every_reason_that_is_explained_is_in_the_code() -> None:
    words = set()
    for folder in ("pipelines", "mining"):
        for path in (ROOT / folder).rglob("*.py"):
            if path.name != "reasons.py":
                tree = ast.parse(path.read_text(encoding="utf-8"))
                words |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    names = {name for reasons in REASONS.values() for name in reasons}
    # `duplicate_` and the kind are joined when a document is dropped.
    unknown = sorted(name for name in names if name not in words and name.removeprefix("duplicate_") not in words)
    assert not unknown, f"pipelines/reasons.py explains what no code drops for: {unknown}"
    assert set(SUSPICIONS) == set(suspicion.REASONS)


def test_steps_with_reasons_exist_and_the_formats_tell_their_ids() -> None:
    steps = {f"{stage}.{step.name}" for stage in STAGE_NAMES for step in load_stage(stage).steps}
    assert set(REASONS) <= steps
    assert all(f"| {step} | " in FORMATS for step in [*REASONS, "filter.filter"])


def calls_of_emsmine() -> list[tuple[str, str, str]]:
    """Return (document, command, the words after it) of every call in a code span or an indented line of a document."""
    calls = []
    for name in DOCUMENTS:
        text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
        spans = [span for line in text.splitlines() for span in re.findall(r"`([^`]+)`", line)]
        for span in [*spans, *re.findall(r"^    (.+)$", text, re.MULTILINE)]:
            for words, rest in re.findall(
                r"(?:^|[\s/])emsmine(?: -[qv]+)? ((?:eval )?[a-z]+(?:-[a-z]+)*)\b([^#|;`]*)", span
            ):
                calls.append((name, words, rest))
    return calls


def test_the_documents_call_commands_and_flags_that_exist() -> None:
    calls = calls_of_emsmine()
    assert len(calls) > 100, "the pattern no longer finds the calls in the documents"
    known = dict(COMMANDS)
    for name, words, rest in calls:
        assert words in known, f"{name} calls a command that does not exist: emsmine {words}"
        flags = {flag for option in known[words].params for flag in [*option.opts, *option.secondary_opts, "--help"]}
        unknown = [flag for flag in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", rest) if flag not in flags]
        assert not unknown, f"{name}: emsmine {words} has no {unknown} in: emsmine {words}{rest}"


def test_the_documents_name_settings_that_exist() -> None:
    tables: dict[str, set[str]] = {}
    for table, field in [*(item[1:] for item in FILE_SETTINGS), *RUN_SETTINGS]:
        tables.setdefault(table, set()).add(field.name)
    for stage in STAGE_NAMES:
        tables[stage] |= {step.name for step in load_stage(stage).steps}
    named = 0
    for name in DOCUMENTS:
        text = (ROOT / name).read_text(encoding="utf-8")
        for table, key in re.findall(r"`(?:train\.|mine\.)?([a-z]+)\.([a-z_]+)(?: = [^`]*)?`", text):
            if table in tables and key not in ("json", "py", "toml"):
                named += 1
                assert key in tables[table], f"{name} names a setting that does not exist: {table}.{key}"
    assert named > 150, "the pattern no longer finds the settings in the documents"


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_formats_name_every_column(name: str) -> None:
    missing = [column for column in SCHEMAS[name].names if f"`{column}`" not in FORMATS]
    assert not missing, f"docs/formats.md lacks columns of {name}: {missing}"
    assert name in FORMATS


def test_the_formats_name_every_step() -> None:
    for stage in STAGE_NAMES:
        for step in load_stage(stage).steps:
            assert f"`{step.name}`" in FORMATS, f"docs/formats.md lacks the step {stage}.{step.name}"


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
    tables = tomllib.loads(block)
    if "optimiser" in tables:
        assert load_training_config(path).data.train
    elif "encoder" in tables.get("run", {}):
        assert load_scorer_config(path).data.train
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
