"""Training settings from TOML: every mistake is named."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from emsmine.encoder.training.settings import TrainingConfig, load_training_config
from emsmine.errors import ConfigError
from emsmine.pipelines.direct.train_scorer import load_scorer_config

RECIPES = Path(__file__).resolve().parents[4] / "encoder" / "recipes"
OF_A_SCORER = RECIPES / "scorer.toml"


def load(tmp_path: Path, text: str) -> TrainingConfig:
    path = tmp_path / "train.toml"
    path.write_text(text, encoding="utf-8")
    return load_training_config(path)


def test_an_empty_file_gives_the_published_recipe(tmp_path: Path) -> None:
    config = load(tmp_path, "")
    assert config == TrainingConfig()
    assert (config.loss.xtr_weight, config.loss.contrastive_weight, config.loss.temperature) == (1.0, 2.0, 0.1)
    assert (config.loss.xtr_targets, config.network.num_layers) == ("paper", 6)


def test_values_are_read(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        """
        [data]
        train = ["a", "b"]
        exponent = 1
        [optimiser]
        steps = 7
        [network]
        dim = 32
        num_heads = 4
        """,
    )
    assert config.data.train == ("a", "b")
    assert (config.data.exponent, config.optimiser.steps, config.network.dim) == (1, 7, 32)


def test_the_published_recipe() -> None:
    """The numbers of reference/FACTS.md, section 1."""
    config = load_training_config(RECIPES / "paper.toml")
    # The network and the heads are the defaults, which the golden values check.
    assert (config.network, config.heads) == (TrainingConfig().network, TrainingConfig().heads)
    loss, optimiser, run = config.loss, config.optimiser, config.run
    assert (loss.xtr_weight, loss.contrastive_weight, loss.temperature, loss.xtr_targets) == (1.0, 2.0, 0.1, "paper")
    assert (loss.gather_negatives, loss.mask_duplicates, loss.learn_temperature, loss.margin) == (
        False,
        False,
        False,
        0,
    )
    assert (optimiser.learning_rate, optimiser.warmup_steps, optimiser.schedule) == (3e-4, 10_000, "cosine")
    assert (optimiser.weight_decay, optimiser.amsgrad, optimiser.gradient_clip) == (1e-5, True, 0.0)
    assert (config.data.batch_size, config.data.preprocessing, run.precision) == (8 * 152, "ems", "fp16")


@pytest.mark.parametrize("recipe", sorted({*RECIPES.glob("*.toml")} - {OF_A_SCORER}), ids=lambda path: path.name)
def test_the_recipes_that_ship_are_valid(recipe: Path) -> None:
    config = load_training_config(recipe)
    assert config.data.train
    assert config.run.output != TrainingConfig().run.output


def test_the_recipe_of_the_scorer_is_valid() -> None:
    config = load_scorer_config(OF_A_SCORER)
    assert config.data.train
    assert config.run.encoder


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[optimizer]\nsteps = 1\n[extra]", "unknown tables extra, optimizer; known: data, heads, loss, network"),
        ("[optimiser]\nstep = 1\nlr = 2", "[optimiser] has unknown keys lr, step; known: steps"),
        ("[network]\nlayers = 2", "[network] has unknown keys layers"),
        ("optimiser = 3", "[optimiser] must be a table, got int"),
        ("steps = 3", "unknown tables steps"),
        ("[optimiser]\nsteps = 'many'", "[optimiser] steps is 'many'; it must be of type int"),
        ("[optimiser]\nsteps = 1.5", "steps is 1.5; it must be of type int"),
        ("[optimiser]\nsteps = true", "steps is True; it must be of type int"),
        ("[optimiser]\nlearning_rate = true", "learning_rate is True; it must be of type float"),
        ("[optimiser]\namsgrad = 1", "amsgrad is 1; it must be of type bool"),
        ("[data]\ntrain = 'folder'", "train is 'folder'; it must be a list of strings"),
        ("[data]\ntrain = [1]", "train is [1]; it must be a list of strings"),
        ("[data]\ntokenizer = ['x']", "tokenizer is ['x']; it must be of type str"),
        ("[network]\nnum_heads = 7", "[network]: network: dim 1024 is not a multiple of num_heads 7"),
        ("[loss]\nxtr_targets = 'bag'", "loss.xtr_targets is 'bag'; choose from paper, counts"),
        ("[loss]\ntemperature = 0", "loss.temperature is 0.0; it must be positive"),
        ("[loss]\ntemperature = nan", "loss.temperature is nan"),
        ("[loss]\nxtr_weight = -1", "loss.xtr_weight is -1"),
        ("[loss]\nxtr_weight = 0\ncontrastive_weight = 0", "both loss weights are 0"),
        ("[heads]\nxtr = false", "loss.xtr_weight is not 0 but heads.xtr is false"),
        ("[heads]\nprojection_dim = 0", "heads.projection_dim is 0"),
        ("[data]\nbatch_size = 0", "data.batch_size is 0"),
        ("[data]\nbatch_size = 1", "data.batch_size is 1, but the contrastive objective needs"),
        ("[data]\ngroups = 4000", "data.groups is 4000; it must not exceed batch_size 2048"),
        ("[data]\nvalidation_pairs = -1", "data.validation_pairs is -1"),
        ("[optimiser]\nsteps = 0", "optimiser.steps is 0"),
        ("[optimiser]\nschedule = 'constant'", "optimiser.schedule is 'constant'; choose cosine or linear"),
        ("[optimiser]\nlearning_rate = inf", "optimiser.learning_rate is inf"),
        ("[run]\nprecision = 'fp8'", "run.precision is 'fp8'; choose from fp32, bf16, fp16"),
        ("[run]\nexport = 'first'", "run.export is 'first'; choose from last, best, ema"),
        ("[run]\nexport = 'ema'", "run.export is ema, but optimiser.ema_decay is 0"),
        ("[run]\nexport = 'best'\n[data]\nvalidation_pairs = 0", "run.export is best, but data.validation_pairs is 0"),
        ("[optimiser]\nema_decay = 1.0", "optimiser.ema_decay is 1.0; it must be at least 0 and below 1"),
        ("[data]\nchunk_size = -1", "data.chunk_size is -1"),
        ("[data]\nchunk_tokens = -1", "data.chunk_tokens is -1"),
        ("[data]\nchunk_size = 8\nchunk_tokens = 99", "data.chunk_size is 8 and data.chunk_tokens is 99; set one"),
        ("[data]\nshuffle_buffer = -5", "data.shuffle_buffer is -5"),
        ("[data]\nhard_negatives = -1", "data.hard_negatives is -1"),
        ("[data]\nhard_negatives = 2", "data.hard_negatives is 2 and data.negatives is ''; set both"),
        ("[data]\nnegatives = 'ems:default'", "data.hard_negatives is 0 and data.negatives is 'ems:default'; set both"),
        ("[data]\nbatch_size = 4\nhard_negatives = 4\nnegatives = 'ems:x'", "is 4; it must be below batch_size 4"),
        ("[data]\nnegatives_limit = 1.5", "data.negatives_limit is 1.5; it must be above 0 and at most 1"),
        ("[data]\nnegatives_among = 1", "data.negatives_among is 1; it must be a finite number of at least 2"),
        ("[data]\nnegatives_limit = nan", "data.negatives_limit is nan"),
        ("[data]\nhard_negatives = 1\nnegatives = 'ems:x'", "set loss.mask_duplicates to true"),
        (
            "[data]\nhard_negatives = 1\nnegatives = 'ems:x'\n[loss]\nmask_duplicates = true\ncontrastive_weight = 0",
            "data.hard_negatives are negatives of the contrastive objective",
        ),
        ("[data]\npreprocessing = 'moses'", "data.preprocessing is 'moses'; choose from none, ems"),
        ("[data]\nteacher = 'ems:default'", "loss.distill_weight is 0.0 and data.teacher is 'ems:default'; set both"),
        ("[loss]\ndistill_weight = 1", "loss.distill_weight is 1.0 and data.teacher is ''; set both"),
        ("[loss]\nmargin = -0.1", "loss.margin is -0.1"),
        ("[loss]\nmatryoshka = [64]", "set heads.projection to false"),
        ("[loss]\nmatryoshka = [2048]\n[heads]\nprojection = false", "has the width 2048, but network.dim is 1024"),
        ("[loss]\nmatryoshka = [0]\n[heads]\nprojection = false", "loss.matryoshka is [0]; widths must be at least 1"),
        ("[loss]\nmatryoshka = ['64']", "matryoshka is ['64']; it must be a list of integers"),
        ("[loss]\nmatryoshka = [true]", "matryoshka is [True]; it must be a list of integers"),
        ("[loss]\ncontrastive_weight = 0\nmargin = 0.1", "but loss.contrastive_weight is 0"),
        ("[heads]\nshared_embedding = true\n[loss]\nxtr_weight = 0", "heads.shared_embedding needs the reconstruction"),
        ("[heads]\nshared_embedding = true\n[optimiser]\nsparse_learning_rate = 0.1", "dense gradients; set"),
        ("[run]\ntable = 'int4'", "run.table is 'int4'; choose from float32, float16, int8"),
        ("[run]\nlog_every = 0", "run.log_every is 0"),
        ("[run]\nseed = -1", "run.seed is -1"),
        ("[run", "is not TOML"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert named in str(caught.value)
    assert caught.value.exit_code == 2


def test_the_file_is_named_when_it_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none\.toml"):
        load_training_config(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.toml is not TOML"):
        load_training_config(tmp_path / "latin.toml")


@pytest.mark.parametrize(
    ("table", "changes", "decides"),
    [
        ("run", {"output": "elsewhere", "log_every": 7, "checkpoint_every": 3, "name": "x", "table": "int8"}, False),
        ("run", {"export": "best"}, False),
        ("data", {"cache": "elsewhere", "train": ("moved",)}, False),
        ("data", {"shuffle_buffer": 100}, True),
        ("data", {"chunk_tokens": 100}, True),
        ("data", {"negatives_limit": 0.9}, True),
        ("data", {"negatives_among": 9}, True),
        ("run", {"seed": 2}, True),
        ("run", {"precision": "bf16"}, True),
        ("loss", {"temperature": 0.2}, True),
        ("network", {"hidden_dropout": 0.2}, True),
        ("optimiser", {"steps": 5}, True),
    ],
)
def test_which_settings_decide_the_result(table: str, changes: dict[str, Any], decides: bool) -> None:
    config = TrainingConfig()
    other = dataclasses.replace(config, **{table: dataclasses.replace(getattr(config, table), **changes)})
    assert (other.semantic() != config.semantic()) == decides
