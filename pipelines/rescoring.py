"""The pair scorer of a model, with its tokeniser: what turns texts and candidates into probabilities.

Which scorer a command uses is decided here: the encoder's own if its model has one, else that of `ems:default` if
rescoring is asked for.
"""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from emsmine.encoder.folders import ems_folder
from emsmine.errors import ConfigError
from emsmine.pipelines.settings import STEPS, EncodeSettings, RescoreSettings, Settings

if TYPE_CHECKING:
    from emsmine.encoder.model.tokenizer import Tokenizer
    from emsmine.mining.scoring.ragged import TokenLists
    from emsmine.mining.scoring.scorer import PairScorer, Side

SCORER_FILE = "scorer.safetensors"
DEFAULT_SCORER = EncodeSettings.encoder

LEAST_MARGIN = {"ratio": 0.95, "distance": -0.02}
"""Candidates with a smaller margin are not read again: their sentences are farther apart than from those around them.
Of the gold pairs among the candidates of the mining development sets 1 to 2 % are lost so (at 1.0: 2 to 6 %), and seven
of ten candidates need no reading."""


def scorer_of(encoder: str, settings: RescoreSettings) -> str:
    """Return the model whose scorer is to be used; "" for none.

    Args:
        encoder: name of the encoder.
        settings: what the user asks for.

    Raises:
        ConfigError: a scorer is named, and rescoring is switched off.
    """
    if settings.rescore is False:
        if settings.scorer != "auto":
            raise ConfigError(f"rescore: the scorer {settings.scorer} is named, but rescoring is off; leave one out")
        return ""
    if settings.scorer != "auto":
        return settings.scorer
    if has_scorer(encoder):
        return encoder
    return DEFAULT_SCORER if settings.rescore else ""


def filled_in(settings: Settings) -> Settings:
    """Return the settings of a run with what follows from others: scorer, score and threshold, as tasks have them.

    Raises:
        ConfigError: they do not fit each other.
    """
    scorer = scorer_of(settings.encode.encoder, settings.rescore)
    select, rescored = settings.select, bool(scorer)
    return replace(
        settings,
        rescore=replace(settings.rescore, rescore=rescored, scorer=scorer or settings.rescore.scorer),
        select=replace(
            select, sort_by=select.score(rescored=rescored), threshold=select.lowest_score(rescored=rescored)
        ),
    )


def unused_steps(settings: Settings) -> frozenset[str]:
    """Return the steps of a run that have no task, as nothing is rescored."""
    if scorer_of(settings.encode.encoder, settings.rescore):
        return frozenset()
    return frozenset(name for name in STEPS if name.startswith("rescore."))


def has_scorer(encoder: str) -> bool:
    """Tell whether the model of an encoder brings a scorer."""
    folder = ems_folder(encoder)
    return folder is not None and (folder / SCORER_FILE).is_file()


@dataclass(frozen=True, eq=False)
class Rescorer:
    """A scorer and the tokeniser of its model."""

    name: str
    fingerprint: str
    scorer: "PairScorer"
    tokenizer: "Tokenizer"
    preprocessing: str

    def tokens(self, texts: Sequence[str], lang: str) -> "TokenLists":
        """Return the tokens of sentences that are compared."""
        from emsmine.encoder.model.preprocessing import preprocess
        from emsmine.mining.scoring.interaction import MAX_TOKENS

        return self.tokenizer.encode(preprocess(texts, lang, self.preprocessing), MAX_TOKENS)[0]

    def side(self, texts: Sequence[str], lang: str) -> "Side":
        """Read the sentences of a side (canonical code)."""
        from emsmine.mining.scoring.scorer import Side

        return Side.of(texts, lang, self.tokens(texts, lang), self.scorer.vectors)


def load_rescorer(spec: str) -> Rescorer:
    """Load the scorer of a model.

    Args:
        spec: `ems:NAME` or `ems:FOLDER`, or the folder.

    Raises:
        ConfigError: it is no model of ours.
        ModelError: the model has no scorer, or one of both is damaged.
    """
    folder = ems_folder(spec)
    if folder is None:
        raise ConfigError(f"rescore: scorer {spec!r} is no model directory with a scorer; give ems:NAME or a folder")
    path = folder / SCORER_FILE
    changed = (path.stat().st_mtime_ns, path.stat().st_size) if path.exists() else (0, 0)
    return _load(spec, folder, changed)


@functools.lru_cache(maxsize=1)
def _load(spec: str, folder: Path, changed: tuple[int, int]) -> Rescorer:
    """Load a scorer once; `changed` tells one that was trained again from the one before."""
    from emsmine.encoder.ems import EMSEncoder
    from emsmine.mining.scoring.files import read_scorer

    encoder = EMSEncoder(folder, device="cpu")
    path = folder / SCORER_FILE
    scorer = read_scorer(path, encoder.token_table(), encoder.fingerprint())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    # Not the encoder: its table would stay in memory.
    return Rescorer(spec, digest, scorer, encoder.tokenizer, encoder.preprocessing)
