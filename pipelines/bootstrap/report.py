"""What a bootstrap's rounds did: the record that makes a round finished, and the report over all rounds."""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from emsmine.errors import StaleOutputError
from emsmine.pipelines.store import inside
from emsmine.pipelines.store.files import hash_inside, new_attempt, write_atomically

logger = logging.getLogger(__name__)

ROUND_NAME = "round.json"


@dataclass(frozen=True)
class Round:
    """The record of a finished round. It holds no time and no path of the machine: the same work gives the same bytes.

    Args:
        number: from 1.
        encoder: that mined, if it was not trained in this round.
        training: pairs of the seed and mined pairs that were trained on, by language pair.
        retrieval: what `measure` found, by language pair.
        mean: mean accuracy over language pairs, percent.
        mined: pairs kept, and dropped by reason, by language pair.
        files: SHA-256 of pair files and model, by path in the round's folder.
        previous: SHA-256 of the record of the round before, whose pairs were trained on.
    """

    number: int
    encoder: str
    training: dict[str, dict[str, int]]
    retrieval: dict[str, dict[str, Any]]
    mean: float
    mined: dict[str, dict[str, Any]]
    files: dict[str, str]
    previous: str

    def save(self, folder: Path) -> None:
        """Write the record: the round is finished."""
        body = asdict(self)
        content = _encode({**body, "checksum": _checksum(body)})
        write_atomically(folder / ROUND_NAME, content, new_attempt(), root=folder)


def _encode(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode("utf-8") + b"\n"


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_encode(body)).hexdigest()


def load_round(folder: Path, previous: str) -> Round | None:
    """Return the record of a finished round whose files are whole; None, with a warning for damage, if there is none.

    Args:
        folder: of the round.
        previous: SHA-256 of the record of the round before.

    Raises:
        StaleOutputError: the round was made from another round before it.
        ForeignPathError: the folder holds links, or the record names a path that leads out of it.
    """
    path = folder / ROUND_NAME
    if not inside.exists(folder, ROUND_NAME):
        return None
    try:
        body = json.loads(inside.read_bytes(folder, ROUND_NAME))
        if body.pop("checksum") != _checksum(body):
            raise ValueError("its checksum is wrong")
        record = Round(**body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        logger.warning("%s runs again: %s is damaged (%s)", folder.name, path, error)
        return None
    if record.previous != previous:
        raise StaleOutputError(
            f"bootstrap: {folder} was made from another round before it (record {record.previous[:12]}, now "
            f"{previous[:12]}); delete it and the rounds after it, then run the same command again"
        )
    for name, expected in record.files.items():
        found = hash_inside(folder, name)[0] if inside.exists(folder, name) else "no file"
        if found != expected:
            logger.warning("%s runs again: %s does not match %s", folder.name, folder / name, ROUND_NAME)
            return None
    return record


def record_hash(folder: Path) -> str:
    """Return the SHA-256 of a round's record."""
    return hash_inside(folder, ROUND_NAME)[0]


def best_round(rounds: Sequence[Round]) -> Round:
    """Return the round with the highest mean accuracy; the first of equal ones."""
    return max(rounds, key=lambda item: (item.mean, -item.number))


def build_report(rounds: Sequence[Round], seconds: Mapping[int, Mapping[str, float]]) -> dict[str, Any]:
    """Put the rounds side by side.

    Args:
        rounds: all of them, in order.
        seconds: wall time by round and phase.

    Returns:
        `rounds` (the records, with `change` of the mean accuracy and `seconds`), `best_round`, and `worse`: the rounds
        with a lower accuracy than the round before.
    """
    rows = []
    for place, item in enumerate(rounds):
        row = asdict(item)
        del row["files"], row["previous"]
        change = round(item.mean - rounds[place - 1].mean, 2) if place else None
        rows.append({**row, "change": change, "seconds": dict(seconds.get(item.number, {}))})
    worse = [row["number"] for row in rows if row["change"] is not None and row["change"] < 0]
    return {"rounds": rows, "best_round": best_round(rounds).number, "worse": worse}


_HEAD = ("round", "pair", "seed", "mined before", "dev pairs", "→", "←", "mean", "change", "kept", "dropped", "seconds")
_WIDTHS = (5, 10, 10, 12, 9, 7, 7, 7, 7, 10, 8, 8)


def format_report(report: Mapping[str, Any], output: str) -> str:
    """Lay the report out as text: one line per round and language pair, one for the round as a whole.

    Args:
        report: as from `run_bootstrap`.
        output: folder of the rounds, to show where the model is.
    """
    lines = [_line(_HEAD)]
    before: dict[str, float] = {}
    for row in report["rounds"]:
        for name in sorted({*row["training"], *row["retrieval"], *row["mined"]}):
            training, mined = row["training"].get(name, {}), row["mined"].get(name, {})
            found = row["retrieval"].get(name, {})
            change = _signed(found["mean"] - before[name]) if name in before else ""
            accuracies = [f"{found[key]:.2f}" for key in ("source_to_target", "target_to_source", "mean") if found]
            counts = [training.get("seed"), training.get("mined"), found.get("pairs")]
            kept = [mined.get("kept"), sum(mined["dropped"].values()) if mined else None]
            lines.append(
                _line(
                    (row["number"], name, *map(_count, counts), *(accuracies or [""] * 3), change, *map(_count, kept))
                )
            )
            before |= {name: found["mean"]} if found else {}
        change = "" if row["change"] is None else _signed(row["change"])
        total = f"{sum(row['seconds'].values()):,.0f}"
        blank = [""] * 5
        lines.append(_line((row["number"], "all", *blank, f"{row['mean']:.2f}", change, "", "", total)))
    numbers = ", ".join(map(str, report["worse"]))
    lines += [f"worse than the round before: {numbers}"] if numbers else []
    return "\n".join([*lines, f"best round: {report['best_round']}   {_describe_model(report, output)}"])


def _describe_model(report: Mapping[str, Any], output: str) -> str:
    if not report["model"]:
        return "no model was trained"
    given = [row for row in report["rounds"] if row["number"] == report["best_round"] and row["encoder"]]
    note = f" (the encoder given, {given[0]['encoder']}, retrieves better)" if given else ""
    return f"model: {output}/{report['model']}, of round {report['model_round']}{note}"


def _line(cells: Sequence[Any]) -> str:
    shown = [f"{cells[0]:>{_WIDTHS[0]}}", f"{cells[1]:<{_WIDTHS[1]}}"]
    shown += [f"{cell:>{width}}" for cell, width in zip(cells[2:], _WIDTHS[2:], strict=False)]
    return "  ".join(shown).rstrip()


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _signed(value: float) -> str:
    return f"{value:+.2f}"
