"""What people add most takes few files: a stage, a rule, a reader and an encoder, each added to a copy of the code.

The files that are written or changed are counted, and the command line of the copy does the rest.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class House:
    """A copy of the code whose files are links, but for those that are added or edited."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.touched: list[str] = []
        shutil.copytree(ROOT / "emsmine", folder / "emsmine", copy_function=os.symlink)
        for name in ("encoder", "mining", "pipelines"):
            shutil.copytree(ROOT / name, folder / "emsmine" / name, copy_function=os.symlink)

    def add(self, path: str, text: str) -> None:
        """Write a new file."""
        file = self.folder / "emsmine" / path
        assert not file.exists()
        file.write_text(text, encoding="utf-8")
        self.touched.append(path)

    def edit(self, path: str, *changes: tuple[str, str]) -> None:
        """Put something before each place that is found once in a file."""
        file = self.folder / "emsmine" / path
        text = file.read_text(encoding="utf-8")
        for place, before in changes:
            assert text.count(place) == 1, place
            text = text.replace(place, before + place)
        file.unlink()
        file.write_text(text, encoding="utf-8")
        self.touched.append(path)

    def run(self, *args: object) -> str:
        """Call the command line of the copy and return what it printed."""
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        command = [sys.executable, "-m", "emsmine", *map(str, args)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, cwd=self.folder, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "house")


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """Return a finished run that may be changed."""
    return Path(shutil.copytree(finished, tmp_path / "copied"))


STAGE = '''"""shorten: kept pairs → the short ones among them."""

import pyarrow.compute as pc

from emsmine.pipelines.stages.base import PlanContext, Stage, Step
from emsmine.pipelines.store.context import TaskContext
from emsmine.pipelines.store.tasks import TaskSpec


def plan(step: Step, context: PlanContext) -> list[TaskSpec]:
    """One task per pair."""
    refs = context.store.outputs("filter", "filter", "pairs/")
    return [step.spec(context.settings.params("shorten"), (ref,), ref.path.split("/", 1)[1][:-8]) for ref in refs]


def run(task: TaskContext) -> None:
    """Keep pairs with short sources."""
    table = task.read(task.spec.inputs[0])
    short = table.filter(pc.less_equal(pc.utf8_length(table["source_text"]), task.spec.param("longest_source", int)))
    task.count_in(table.num_rows)
    task.drop("long_source", id="all", n=table.num_rows - short.num_rows)
    task.writer(f"short/{task.spec.partition.split('/')[0]}", table.schema, counted=True).write(short)


STAGE = Stage((Step("shorten", "cut", 1, plan, run),))
'''

ENTRY = """    shorten: ShortenSettings = _stage(
        ShortenSettings(), "keep short pairs", {"cut": StepEntry("→ short pairs", "by pair", takes="filter.filter")}
    )
"""

STAGE_SETTINGS = '''@dataclass(frozen=True)
class ShortenSettings:
    """From kept pairs to short ones."""

    longest_source: int = setting(50, "most characters of a source", low=1)


'''


def test_a_stage_is_its_file_and_an_entry_of_the_catalogue(house: House, copied: Path) -> None:
    house.add("pipelines/stages/shorten.py", STAGE)
    place = "@dataclass(frozen=True)\nclass ExportSettings:"
    house.edit("pipelines/settings.py", (place, STAGE_SETTINGS), ("    export: ExportSettings = _stage(", ENTRY))
    assert len(house.touched) == 2
    listed = house.run("--help")
    assert "Stage 10: keep short pairs." in listed
    assert "Stage 11: write TSV" in listed
    assert "--longest-source INTEGER" in house.run("shorten", "--help")
    house.run("shorten", "-o", copied, "--longest-source", "53", "-j", "1")
    house.run("run", "-o", copied, "--longest-source", "53", "-j", "1")
    row = next(line for line in house.run("report", copied).splitlines() if "→ short pairs" in line)
    assert row.split()[:5] == ["shorten", "→", "short", "pairs", "de-en"]
    came, stayed, dropped = map(int, row.split()[5:])
    assert came == stayed + dropped
    assert 0 < stayed < came
    assert "longest_source = 53" in (copied / "config.toml").read_text(encoding="utf-8")
    assert "no problem" in house.run("verify", copied)


RULE = '''@dataclass(frozen=True)
class ManyLetters:
    """Refuse a pair with too many of a letter."""

    most: int = 0
    name: str = field(default="many_letters", init=False)

    def score(self, pair: PairView) -> float:
        """Return their number."""
        return float((pair.source + pair.target).count("e"))

    def accept(self, score: float) -> bool:
        """Return whether there are few."""
        return score <= self.most


'''


def test_a_rule_is_one_place(house: House, copied: Path) -> None:
    house.edit(
        "mining/text/rules.py",
        ("@dataclass(frozen=True)\nclass RulesConfig:", RULE),
        (
            "    rules_off: tuple",
            '    most_letters: int = setting(ManyLetters.most, "most letters e of a pair", low=0)\n',
        ),
        ("        WrongLanguage(config", "        ManyLetters(config.most_letters),\n"),
    )
    assert len(house.touched) == 1
    before = json.loads(house.run("report", copied, "--json"))
    house.run("filter", "-o", copied, "--redo", "filter", "--most-letters", "12", "-j", "1")
    rows = json.loads(house.run("report", copied, "--json"))
    old, new = ({row["group"]: row for row in found if row["step"] == "filter.filter"} for found in (before, rows))
    assert all(0 < new[pair]["dropped"]["many_letters"] < old[pair]["rows_out"] for pair in old)
    assert "most_letters = 12" in (copied / "config.toml").read_text(encoding="utf-8")


READER = '''"""Mail folders: a text after each line that starts with `From `."""

from collections.abc import Iterator

from emsmine.pipelines.readers.records import Problem, Record, finish, paragraphs
from emsmine.pipelines.readers.source import Source


def read_mail(source: Source) -> Iterator[Record | Problem]:
    """Yield the messages."""
    buffer, text, start = source.buffer(), "", 0
    while line := buffer.readline(source.limits.max_line_bytes):
        if line.startswith(b"From "):
            if text:
                yield finish(Record("", "", start, buffer.position - start, paragraphs(text)), source.limits)
            text, start = "", buffer.position
        else:
            text += line.decode("utf-8")
    yield finish(Record("", "", start, buffer.position - start, paragraphs(text)), source.limits)
'''


def test_a_reader_is_its_file_and_a_row_of_the_table(house: House, tmp_path: Path) -> None:
    house.add("pipelines/readers/mail.py", READER)
    row = """    "mail": Format(f"{_HERE}.mail:read_mail", (".mbox",), b"From "),\n"""
    house.edit("pipelines/readers/formats.py", ('    "text": Format(', row))
    assert len(house.touched) == 2
    assert "[auto|warc|wet|jsonl|parquet|mail|text]" in house.run("ingest", "--help")
    named, unnamed = tmp_path / "a.mbox", tmp_path / "b.txt"
    named.write_text("From me\nThe ferry is late.\nFrom you\nThe boat is early.\n", encoding="utf-8")
    unnamed.write_text("From her\nThe harbour is closed.\n", encoding="utf-8")
    house.run("ingest", named, unnamed, "-o", tmp_path / "run", "-j", "1")
    (row_of,) = json.loads(house.run("report", tmp_path / "run", "--json"))
    assert (row_of["rows_in"], row_of["rows_out"]) == (3, 3)


ENCODER = '''"""An encoder that counts letters."""

import numpy as np

from emsmine.encoder.protocol import unit_rows


class Letters:
    """Vectors of the counts of letters."""

    def __init__(self, dim: int) -> None:
        self.name, self.dim = f"letters:{dim}", dim

    def fingerprint(self):
        """Return what decides a vector."""
        return self.name

    def encode(self, sentences, *, lang):
        """Encode sentences."""
        rows = np.zeros((len(sentences), self.dim), np.float32)
        for row, text in zip(rows, sentences, strict=True):
            np.add.at(row, [ord(c) % self.dim for c in text], 1)
        return unit_rows(rows)


def load(rest, device):
    """Load `DIM`."""
    return Letters(int(rest))
'''


def test_an_encoder_is_its_file_and_a_row_of_the_registry(house: House, tmp_path: Path) -> None:
    house.add("encoder/letters.py", ENCODER)
    place = '    "sentence-transformers": "emsmine'
    house.edit("encoder/registry.py", (place, '    "letters": "emsmine.encoder.letters:load",\n'))
    assert len(house.touched) == 2
    source, target = tmp_path / "a.de", tmp_path / "b.en"
    source.write_text("das Boot\nein Haus im Wald\n", encoding="utf-8")
    target.write_text("ein Haus im Wald\ndas Boot\n", encoding="utf-8")
    args = ("-s", "de", "-t", "en", "--encoder", "letters:64", "--threshold", "0.1", "--device", "cpu", "--k", "1")
    lines = house.run("mine", source, target, *args).splitlines()
    assert sorted(line.split("\t")[1:] for line in lines) == [
        ["das Boot", "das Boot"],
        ["ein Haus im Wald", "ein Haus im Wald"],
    ]


def test_an_encoder_of_another_package_touches_no_file_of_ours(house: House, tmp_path: Path) -> None:
    (house.folder / "letters.py").write_text(ENCODER, encoding="utf-8")
    metadata = house.folder / "letters-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: letters\nVersion: 1.0\n", encoding="utf-8")
    (metadata / "entry_points.txt").write_text("[emsmine.encoders]\nletters = letters:load\n", encoding="utf-8")
    assert house.touched == []
    source, target = tmp_path / "a.de", tmp_path / "b.en"
    source.write_text("das Boot\n", encoding="utf-8")
    target.write_text("das Boot\n", encoding="utf-8")
    args = ("-s", "de", "-t", "en", "--encoder", "letters:8", "--threshold", "0.1", "--device", "cpu", "--k", "1")
    assert "das Boot\tdas Boot" in house.run("mine", source, target, *args)
