"""`emsmine train-scorer`, as a user calls it, and what mines with it."""

import importlib
import os
import shutil
import sys
from pathlib import Path

import pipeline_kit as kit
import pytest

from emsmine.encoder.folders import pretrained_folder
from emsmine.encoder.model.directory import save_model
from emsmine.pipelines.rescoring import SCORER_FILE

LANGS = ("-s", "de", "-t", "en")
_ENCODER_TESTS = Path(__file__).resolve().parents[1] / "unit" / "encoder"


def write(path: Path, rows: list[str]) -> Path:
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def mined(*args: object) -> list[tuple[float, str, str]]:
    result = kit.emsmine("mine", *args, *LANGS)
    assert result.code == 0, result.err
    rows = [line.split("\t") for line in result.out.splitlines()]
    return [(float(score), source, target) for score, source, target in rows]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny model, and files of pairs that it finds: line n has the words of line n."""
    if str(_ENCODER_TESTS) not in sys.path:
        sys.path.append(str(_ENCODER_TESTS))
    tools = importlib.import_module("encoder_tiny")
    root = tmp_path_factory.mktemp("tiny")
    spm = tools.train_tiny_tokenizer(root / "tiny.model")
    save_model(tools.build(tools.plain_network()), spm, root / "model", name="tiny")
    texts = tools.sentences("en")
    pairs = []
    for n in range(300):
        one, other = texts[n % 125], texts[(7 * n + n // 125) % 125]
        pairs.append(f"{other} {one}\t{one} {other}")
    (root / "pairs").mkdir()
    write(root / "pairs" / "de-en.tsv", pairs)
    return root


def config(folder: Path, tiny: Path, model: Path, extra: str = "", **training: int) -> Path:
    numbers = {"width": 8, "hidden": 8, "token_steps": 12, "epochs": 1, "batch_size": 64, **training}
    lines = [
        "[run]",
        f'encoder = "ems:{model}"',
        "[data]",
        f'train = ["{tiny / "pairs"}"]',
        "crawls = 1",
        "[training]",
        *(f"{name} = {value}" for name, value in numbers.items()),
        extra,
    ]
    return write(folder / "scorer.toml", lines)


def test_a_scorer_is_trained_and_used(tiny: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(tiny / "model", tmp_path / "model"))
    rows = [line.split("\t") for line in (tiny / "pairs" / "de-en.tsv").read_text("utf-8").splitlines()[:40]]
    files = [write(tmp_path / f"x.{lang}", [row[n] for row in rows]) for n, lang in enumerate(("de", "en"))]
    encoder = ("--encoder", f"ems:{model}")
    before = mined(*files, *encoder, "--threshold", "0.5")
    result = kit.emsmine("train-scorer", config(tmp_path, tiny, model))
    assert result.code == 0, result.err
    assert result.out == f"{model / SCORER_FILE}\n"
    after = mined(*files, *encoder, "--threshold", "0")
    assert after
    assert all(0 <= score <= 1 for score, _, _ in after)
    assert after != before
    assert mined(*files, *encoder, "--no-rescore", "--threshold", "0.5") == before
    # The same training writes the same bytes, here into another file.
    other = tmp_path / "other.safetensors"
    again = kit.emsmine("train-scorer", config(tmp_path, tiny, model, f'[run2]\noutput = "{other}"'))
    assert (again.code, again.out) == (2, "")
    assert "unknown tables run2" in again.err
    content = (model / SCORER_FILE).read_bytes()
    text = config(tmp_path, tiny, model).read_text("utf-8").replace("[data]", f'output = "{other}"\n[data]')
    again = kit.emsmine("train-scorer", write(tmp_path / "other.toml", [text]))
    assert again.code == 0, again.err
    assert other.read_bytes() == content


def test_a_scorer_of_another_model_is_refused(tiny: Path, tmp_path: Path) -> None:
    sides = [write(tmp_path / f"x.{lang}", kit.PARALLEL[lang]) for lang in ("de", "en")]
    model = Path(shutil.copytree(tiny / "model", tmp_path / "model"))
    shutil.copy(pretrained_folder("default") / SCORER_FILE, model)
    result = kit.emsmine("mine", *sides, *LANGS, "--encoder", f"ems:{model}")
    assert (result.code, result.out) == (1, "")
    assert "was trained with another model" in result.err


@pytest.mark.parametrize(
    ("old", "new", "code", "words"),
    [
        ("crawls = 1", "crawl = 1", 2, ["[data]", "crawl"]),
        ("[training]", "[trainings]", 2, ["trainings", "known: data, run, training"]),
        ("width = 8", 'width = "8"', 2, ["width"]),
        ("epochs = 1", "epochs = 0", 2, ["epochs"]),
        ("crawls = 1", 'kinds = ["typo"]', 2, ["kinds", "typo"]),
        ("crawls = 1", "near = 2", 2, ["near"]),
        ("ems:", "sbert:", 2, ["run.encoder", "ems:FOLDER"]),
        ("pairs", "nothing", 1, ["nothing"]),
        ("train = ", "alone = ", 2, ["[data] train names no pair file"]),
        ("[run]", "[run", 2, ["scorer.toml"]),
    ],
)
def test_a_wrong_configuration_is_refused(
    tiny: Path, tmp_path: Path, old: str, new: str, code: int, words: list[str]
) -> None:
    path = config(tmp_path, tiny, tiny / "model")
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    result = kit.emsmine("train-scorer", path)
    assert (result.code, result.out) == (code, ""), result.err
    for word in words:
        assert word in result.err
    assert "Traceback" not in result.err
    assert not (tiny / "model" / SCORER_FILE).exists()


def test_too_few_pairs_are_refused(tiny: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    lines = (tiny / "pairs" / "de-en.tsv").read_text("utf-8").splitlines()
    write(few / "de-en.tsv", lines[:150])
    path = config(tmp_path, tiny, tiny / "model")
    path.write_text(path.read_text("utf-8").replace(str(tiny / "pairs"), str(few)), encoding="utf-8")
    result = kit.emsmine("train-scorer", path)
    assert (result.code, result.out) == (1, "")
    assert "200 pairs" in result.err
    assert os.listdir(few) == ["de-en.tsv"]
