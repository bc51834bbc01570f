"""The training loop: what it learns, that it resumes exactly, and what stops it."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_tiny import (
    assert_same,
    corpus,
    dense_training,
    sentences,
    sparse_training,
    tensors,
    write_pairs,
)

from emsmine.encoder.data.pairs import Corpus, TokenCache, find_pair_files
from emsmine.encoder.data.sampler import PairSampler, split_validation
from emsmine.encoder.ems import EMSEncoder
from emsmine.encoder.model.tokenizer import Tokenizer
from emsmine.encoder.training.checkpoints import load_checkpoint
from emsmine.encoder.training.losses import contrastive_loss, reconstruction_loss
from emsmine.encoder.training.objective import language_numbers, to_torch
from emsmine.encoder.training.optimisers import learning_rate_factor
from emsmine.encoder.training.run import train
from emsmine.encoder.training.settings import OptimiserConfig, TrainingConfig
from emsmine.encoder.training.trainer import Trainer
from emsmine.errors import ConfigError, ModelError, StaleOutputError

CPU = torch.device("cpu")
Make = Callable[..., TrainingConfig]


@pytest.fixture(params=[sparse_training, dense_training], ids=["plain-sparse", "layer-dense-xtr"])
def make(request: pytest.FixtureRequest, pairs: Path, spm_path: Path) -> Make:
    def build(output: Path, **changes: dict[str, Any]) -> TrainingConfig:
        config: TrainingConfig = request.param(pairs, output, spm_path, **changes)
        return config

    return build


def final_state(output: Path) -> dict[str, Any]:
    state = load_checkpoint(output, CPU)
    assert state is not None
    return state


def test_twenty_steps_equal_ten_and_a_resumed_ten(make: Make, tmp_path: Path) -> None:
    train(make(tmp_path / "whole"), device="cpu")
    half = make(tmp_path / "half")
    train(half, device="cpu", stop_after=10)
    assert final_state(tmp_path / "half")["step"] == 10
    torch.manual_seed(99)  # nothing outside the checkpoint may matter
    torch.rand(7)
    train(half, device="cpu")
    whole, resumed = final_state(tmp_path / "whole"), final_state(tmp_path / "half")
    assert whole["step"] == resumed["step"] == 20
    assert {"model", "optimisers", "sampler", "torch_rng"} <= whole.keys()
    assert_same(resumed, whole)
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "whole/model" / file).read_bytes() == (tmp_path / "half/model" / file).read_bytes()


def test_training_again_after_the_end_changes_nothing(make: Make, tmp_path: Path) -> None:
    config = make(tmp_path / "run")
    train(config, device="cpu")
    before = final_state(tmp_path / "run")
    train(config, device="cpu")
    assert_same(final_state(tmp_path / "run"), before)


def test_the_seed_decides(make: Make, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(make(tmp_path / name, run={"seed": seed}), device="cpu", stop_after=2)
    a, b, c = (final_state(tmp_path / name)["model"] for name in "abc")
    assert_same(a, b)
    assert not torch.equal(a["network.embedding.tokens.weight"], c["network.embedding.tokens.weight"])


def test_the_loss_falls_and_translations_find_each_other(make: Make, tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    still = {"embedding_dropout": 0.0, "attention_dropout": 0.0, "hidden_dropout": 0.0}
    config = make(tmp_path / "run", optimiser={"steps": 60, "embedding_std": 0.2}, network=still)
    model = train(config, device="cpu", on_log=rows.append)
    first, last = rows[0], rows[-1]
    for name in {"xtr", "contrastive", "total"} & first.keys():
        assert last[name] < 0.8 * first[name], name
    encoder = EMSEncoder(model, device="cpu")
    german, english = (encoder.encode(sentences(lang), lang="eng_Latn") for lang in ("de", "en"))
    accuracy = float(((german @ english.T).argmax(1) == np.arange(125)).mean())
    assert accuracy > 0.05  # by chance: 0.008
    assert 0 <= rows[-1]["validation_accuracy"] <= 1


def test_logs_checkpoints_and_validation_come_when_they_should(make: Make, tmp_path: Path) -> None:
    settings = {"log_every": 4, "validate_every": 6, "checkpoint_every": 3}
    train(make(tmp_path / "run", run=settings, optimiser={"steps": 14}), device="cpu")
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in rows] == [4, 6, 8, 12, 14]
    assert [row["step"] for row in rows if "validation_accuracy" in row] == [6, 12, 14]
    found = sorted(path.name for path in (tmp_path / "run").glob("*checkpoint*"))
    assert found == ["checkpoint-000000012.pt", "checkpoint-000000014.pt"]


def test_the_rates_are_those_of_pairs_and_tokens(make: Make, tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    train(make(tmp_path / "run", run={"log_every": 20}), device="cpu", on_log=rows.append)
    # The same batches again.
    corpora, config = [], make(tmp_path / "run")
    cache = TokenCache(tmp_path / "run/cache", Tokenizer(Path(config.data.tokenizer)), config.network.max_tokens)
    corpora = [cache.corpus(file) for file in find_pair_files([Path(config.data.train[0])])]
    trainer = Trainer(config, corpora, CPU)
    sizes = []
    for _ in range(10):
        trainer.sampler.draw()
    for _ in range(10):
        batch = trainer.sampler.draw()
        sizes.append(len(batch.source.ids) + len(batch.target.ids))
        assert batch.num_tokens == sizes[-1]
    last = rows[-1]
    assert last["tokens_per_second"] / last["pairs_per_second"] == pytest.approx(sum(sizes) / (10 * 16))


def test_without_validation_pairs_the_log_stays_json(make: Make, tmp_path: Path) -> None:
    train(make(tmp_path / "run", data={"validation_pairs": 0}), device="cpu", stop_after=2)
    text = (tmp_path / "run/log.jsonl").read_text(encoding="utf-8")
    assert "NaN" not in text
    assert "validation_accuracy" not in text


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"loss": {"temperature": 0.2}}, ["loss.temperature: 0.1 → 0.2"]),
        ({"run": {"seed": 3}, "data": {"batch_size": 8}}, ["run.seed: 1 → 3", "data.batch_size: 16 → 8"]),
        ({"optimiser": {"steps": 30}}, ["optimiser.steps: 20 → 30"]),
    ],
)
def test_changed_settings_are_named(
    make: Make, tmp_path: Path, changes: dict[str, dict[str, Any]], named: list[str]
) -> None:
    train(make(tmp_path / "run"), device="cpu", stop_after=1)
    before = (tmp_path / "run/checkpoint-000000001.pt").read_bytes()
    with pytest.raises(StaleOutputError) as caught:
        train(make(tmp_path / "run", **changes), device="cpu")
    assert all(name in str(caught.value) for name in named)
    assert "choose another run.output" in str(caught.value)
    assert (tmp_path / "run/checkpoint-000000001.pt").read_bytes() == before


def test_changed_training_data_are_named(spm_path: Path, tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "pairs")
    config = sparse_training(data, tmp_path / "run", spm_path)
    train(config, device="cpu", stop_after=1)
    with (data / "de-en.tsv").open("a", encoding="utf-8") as stream:
        stream.write("sieben boote\tseven boats\n")
    with pytest.raises(StaleOutputError, match=r"changed: 0 de-en\); restore them"):
        train(config, device="cpu")
    (data / "en-fr.tsv.gz").unlink()
    with pytest.raises(StaleOutputError, match="0 de-en, 1 en-fr"):
        train(config, device="cpu")


def test_data_may_move(spm_path: Path, tmp_path: Path) -> None:
    config = sparse_training(write_pairs(tmp_path / "pairs"), tmp_path / "run", spm_path)
    train(config, device="cpu", stop_after=1)
    (tmp_path / "pairs").rename(tmp_path / "moved")
    moved = dataclasses.replace(config, data=dataclasses.replace(config.data, train=(str(tmp_path / "moved"),)))
    train(moved, device="cpu", stop_after=2)
    assert final_state(tmp_path / "run")["step"] == 2


def test_a_loss_that_is_not_finite_stops_the_training(make: Make, tmp_path: Path) -> None:
    config = make(tmp_path / "run", run={"checkpoint_every": 1})
    train(config, device="cpu", stop_after=2)
    files = sorted((tmp_path / "run").glob("checkpoint-*"))
    state = torch.load(files[-1], weights_only=True)
    state["model"]["network.embedding.tokens.weight"][5:] = float("nan")
    torch.save(state, files[-1])
    with pytest.raises(ModelError, match="the loss is nan at step 2; lower"):
        train(config, device="cpu")
    assert sorted((tmp_path / "run").glob("checkpoint-*")) == files


# ---- pieces ----


def toy(*corpora: Corpus, **changes: dict[str, Any]) -> Trainer:
    tables: dict[str, dict[str, Any]] = {"network": {"vocab_size": 40}, "data": {"batch_size": 6}} | changes
    config = dense_training(Path("pairs"), Path("run"), Path("x.model"), **tables)
    return Trainer(config, list(corpora), CPU)


def test_the_losses_are_those_of_the_equations() -> None:
    pairs = [([2 + n, 3, 4], [10 + n, 11 + n]) for n in range(6)]
    trainer = toy(corpus(pairs), data={"batch_size": 6, "validation_pairs": 0})
    model = trainer.model.eval()
    batch = to_torch(trainer.sampler.draw(), trainer.sampler.corpora, CPU, mask_duplicates=False)
    assert batch.duplicates is None
    order = (batch.source_ids[batch.source_offsets[:-1].long()] - 2).tolist()
    source_ids, target_ids = (tensors([pairs[n][side] for n in order]) for side in (0, 1))
    numbers = language_numbers([])
    german, english = (torch.full((6,), numbers[lang]) for lang in ("deu_Latn", "eng_Latn"))
    with torch.inference_mode():
        found = model.losses(batch)
        source, target = model.network(*source_ids), model.network(*target_ids)
        assert model.reconstruction is not None
        assert model.projection is not None
        # The source is asked for the target's tokens in the target's language, and the other way round.
        xtr = reconstruction_loss(model.reconstruction(source, english), *target_ids)
        xtr = xtr + reconstruction_loss(model.reconstruction(target, german), *source_ids)
        contrastive = contrastive_loss(model.projection(source), model.projection(target), 0.1)
    torch.testing.assert_close(found["xtr"], xtr)
    torch.testing.assert_close(found["contrastive"], contrastive)
    torch.testing.assert_close(found["total"], xtr + 2 * contrastive)


def test_each_pair_keeps_its_languages_when_a_corpus_is_empty() -> None:
    """An empty corpus before another once shifted the languages of all that follow."""
    french = corpus([([2 + n], [20 + n]) for n in range(9)], source="fra_Latn", target="spa_Latn")
    trainer = toy(corpus([]), french)
    seen: list[Any] = []
    losses = trainer.model.losses
    trainer.model.losses = lambda batch: seen.append(batch) or losses(batch)  # type: ignore[method-assign, func-returns-value]
    trainer.train_step()
    numbers = language_numbers([])
    assert set(seen[0].source_language.tolist()) == {numbers["fra_Latn"]}
    assert set(seen[0].target_language.tolist()) == {numbers["spa_Latn"]}


def test_languages_beyond_those_of_ems_follow_by_name() -> None:
    others = [corpus([], source="cym_Latn", target="eng_Latn"), corpus([], source="bre_Latn", target="cym_Latn")]
    numbers = language_numbers(others)
    assert (numbers["eng_Latn"], numbers["bre_Latn"], numbers["cym_Latn"]) == (0, 62, 63)
    with pytest.raises(ConfigError, match=r"heads\.num_languages 62; raise it to 63"):
        toy(corpus([([2], [3])] * 9, source="cym_Latn"))


def test_duplicates_of_a_batch_are_marked() -> None:
    same = corpus([([2], [3]), ([2], [4]), ([5], [6])])
    sampler = PairSampler([same], batch_size=3, exponent=1.0, seed=0)
    batch = sampler.draw()
    mask = to_torch(batch, sampler.corpora, CPU, mask_duplicates=True).duplicates
    assert mask is not None
    first = [bool(token == 2) for token in batch.source.ids]
    expected = [[a and b and row != column for column, b in enumerate(first)] for row, a in enumerate(first)]
    assert mask.tolist() == expected
    assert sum(map(sum, expected)) == 2


def test_the_contrastive_objective_is_not_rounded_by_bf16(pairs: Path, spm_path: Path, tmp_path: Path) -> None:
    made = [(list(range(2, 2 + n)), list(range(12, 12 + n))) for n in range(1, 9)]
    found = {}
    for precision in ("fp32", "bf16"):
        config = sparse_training(pairs, tmp_path, spm_path, run={"precision": precision}, data={"validation_pairs": 0})
        found[precision] = Trainer(config, [corpus(made)], CPU).train_step()["contrastive"]
    assert found["bf16"] == pytest.approx(found["fp32"], rel=1e-5)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.25 * 1.0), (1, 0.5 * 0.95), (3, 1.0 * 0.85), (10, 0.5), (19, 0.05)],
)
def test_linear_decay_by_hand(step: int, expected: float) -> None:
    settings = OptimiserConfig(steps=20, warmup_steps=4, schedule="linear")
    assert learning_rate_factor(step, settings) == pytest.approx(expected)


def test_cosine_decay_by_hand() -> None:
    settings = OptimiserConfig(steps=20, warmup_steps=0, schedule="cosine", final_fraction=0.1)
    assert learning_rate_factor(0, settings) == pytest.approx(1.0)
    assert learning_rate_factor(10, settings) == pytest.approx(0.55)
    assert learning_rate_factor(5, settings) == pytest.approx(0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)
    assert learning_rate_factor(20, settings) == pytest.approx(0.1)


@pytest.mark.parametrize(("size", "wanted", "held_out"), [(100, 7, 7), (100, 50, 10), (9, 5, 0), (0, 5, 0), (20, 0, 0)])
def test_validation_is_the_end_and_at_most_a_tenth(size: int, wanted: int, held_out: int) -> None:
    whole = corpus([([n], [n, n]) for n in range(2, size + 2)])
    [kept], [validation] = split_validation([whole], wanted)
    assert (len(kept), len(validation)) == (size - held_out, held_out)
    assert kept.sentences.ids.tolist() + validation.sentences.ids.tolist() == whole.sentences.ids.tolist()
    assert validation.sentences.offsets[0] == 0
    assert kept.hashes.tolist() + validation.hashes.tolist() == whole.hashes.tolist()


def test_validation_pairs_are_never_trained_on() -> None:
    whole = corpus([([2 + n], [2 + n]) for n in range(30)])
    trainer = toy(whole, data={"batch_size": 6, "validation_pairs": 3})
    seen = {int(token) for _ in range(20) for token in trainer.sampler.draw().source.ids}
    assert seen == set(range(2, 29))


def test_settings_of_the_sparse_table_reach_it_alone(pairs: Path, spm_path: Path, tmp_path: Path) -> None:
    config = sparse_training(pairs, tmp_path, spm_path)
    trainer = Trainer(config, [corpus([([2], [3])] * 20)], CPU)
    [(optimiser, rate)] = trainer.optimisers
    assert isinstance(optimiser, torch.optim.SparseAdam)
    assert rate == 0.02
    before = trainer.model.network.embedding.tokens.weight.detach().clone()
    trainer.train_step()
    moved = (trainer.model.network.embedding.tokens.weight.detach() != before).any(1)
    assert set(torch.nonzero(moved).flatten().tolist()) <= {2, 3}
