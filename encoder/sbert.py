"""Any sentence-transformers model (LaBSE, multilingual e5, …) as an encoder."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emsmine.encoder.ems import resolve_device
from emsmine.encoder.model.tokenizer import replace_surrogates
from emsmine.encoder.protocol import FloatArray, through_gateway, unit_rows
from emsmine.errors import ConfigError, MissingDependencyError, ModelError

PROMPT_MARK = "?prompt="
_HUB_SECONDS = 10.0
# Where a model came from and which libraries wrote it: no vector depends on them.
_NOT_IDENTITY = {"name_or_path", "model_name_or_path", "tokenizer_name_or_path", "transformers_version", "cache_dir"}
_NOT_IDENTITY |= {"training", "tokenizer_file", "vocab_file", "merges_file", "special_tokens_map_file", "architectures"}


class SentenceTransformersEncoder:
    """A sentence-transformers model behind the `Encoder` protocol."""

    def __init__(self, model: str, *, device: str = "auto", prompt: str | None = None) -> None:
        """Load a model from a folder, from the local cache of the hub, or from the hub.

        Args:
            model: folder or name.
            device: see `resolve_device`.
            prompt: put before every sentence, as the `query: ` of e5; None: the model's own default.

        Raises:
            MissingDependencyError: sentence-transformers is not installed.
            ModelError: the model cannot be found or loaded.
        """
        try:
            import sentence_transformers  # noqa: F401
        except ImportError:
            raise MissingDependencyError(
                "encoder: sentence-transformers is not installed; run: pip install 'emsmine[sbert]'"
            ) from None
        self.device = resolve_device(device)
        self._model = _load(model, str(self.device))
        self.name = f"sentence-transformers:{model}" + ("" if prompt is None else f"{PROMPT_MARK}{prompt}")
        width = getattr(self._model, "get_embedding_dimension", None) or self._model.get_sentence_embedding_dimension
        self.dim = int(width() or 0)
        default = self._model.prompts.get(self._model.default_prompt_name or "", "")
        self.prompt = default if prompt is None else prompt
        self._fingerprint = _fingerprint(self._model, self.prompt)

    def fingerprint(self) -> str:
        """Return a hash of all weights and of what every module, the tokeniser and the prompt are; not of the name."""
        return self._fingerprint

    @through_gateway
    def encode(self, sentences: Sequence[str], *, lang: str) -> FloatArray:
        """Encode sentences; see `Encoder.encode`. The language is not used."""
        if not sentences:
            return np.zeros((0, self.dim), dtype=np.float32)
        texts = [replace_surrogates(text) for text in sentences]
        vectors = self._model.encode(texts, prompt=self.prompt, convert_to_numpy=True, show_progress_bar=False)
        return unit_rows(np.asarray(vectors, dtype=np.float32))


def load(rest: str, device: str) -> SentenceTransformersEncoder:
    """Load `NAME`, perhaps with `?prompt=TEXT` behind it; see `SentenceTransformersEncoder` for what may go wrong."""
    name, prompt = split_prompt(rest)
    return SentenceTransformersEncoder(name, device=device, prompt=prompt)


def split_prompt(rest: str) -> tuple[str, str | None]:
    """Split `NAME?prompt=TEXT`; the text is taken as it stands, to the end.

    Raises:
        ConfigError: there is no name, or another option.
    """
    name, mark, prompt = rest.partition(PROMPT_MARK)
    if not name or ("?" in name and not Path(name).exists()):
        raise ConfigError(
            f"encoder: sentence-transformers:{rest} must be NAME or FOLDER, followed by {PROMPT_MARK}TEXT or nothing"
        )
    return name, prompt if mark else None


def _load(model: str, device: str) -> Any:
    """Load a model; what is in a folder or in the cache is not asked for on the network."""
    from sentence_transformers import SentenceTransformer

    folder = Path(model)
    with _quiet_hub():
        if folder.exists() or folder.is_absolute() or model.startswith((".", "~")):
            if not folder.is_dir():
                raise ModelError(f"encoder: sentence-transformers: the folder {model} does not exist")
            return _loaded(SentenceTransformer, model, device, local_files_only=True)
        try:
            return SentenceTransformer(model, device=device, local_files_only=True)
        except Exception as error:
            # Whatever the libraries raise for what is not in the cache; the hub decides.
            logging.getLogger(__name__).debug("%s is not in the cache: %s", model, error)
        reason = _ask_hub(model)
        if reason:
            raise ModelError(
                f"encoder: sentence-transformers: {model} is neither a folder here nor in the local cache, and "
                f"{reason}; give the folder of a model, or load it once where there is a connection and copy the cache "
                "(HF_HOME)"
            )
        return _loaded(SentenceTransformer, model, device, local_files_only=False)


def _loaded(kind: Any, model: str, device: str, *, local_files_only: bool) -> Any:
    try:
        return kind(model, device=device, local_files_only=local_files_only)
    except Exception as error:
        # The libraries raise their own errors, of several lines and with advice for their own users.
        words = str(error).strip().splitlines() or [""]
        raise ModelError(
            f"encoder: sentence-transformers cannot load {model} ({type(error).__name__}: {words[0][:200]}); give "
            "the folder or the name of a model that sentence-transformers itself can open"
        ) from error


def _ask_hub(model: str) -> str:
    """Return why the hub cannot give a model; "" if it may.

    One question with a time limit: loading would ask for several files, five times each, for more than a minute.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    name = model if "/" in model else f"sentence-transformers/{model}"
    try:
        HfApi().model_info(name, timeout=_HUB_SECONDS)
    except GatedRepoError:
        return "the hub gives it only to users who accepted its terms (HF_TOKEN)"
    except RepositoryNotFoundError:
        return "the hub knows no model of this name" if "/" in model else ""
    except HFValidationError:
        return "it cannot be the name of a model on the hub"
    except HfHubHTTPError as error:
        return f"the hub refused (HTTP status {error.response.status_code})"
    except Exception:
        # No connection, no such host, offline mode: each version of the library has errors of its own.
        return "the hub could not be reached"
    return ""


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keep the libraries' own log lines (of every retry) out of ours."""
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "sentence_transformers", "transformers")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _fingerprint(model: Any, prompt: str) -> str:
    """Hash what decides a vector, as it was loaded: the files of one model differ between versions of the library."""
    parts: list[Any] = [prompt, model.truncate_dim, model.max_seq_length]
    for name, module in model.named_modules():
        # Modules inside a Transformer are described by its configuration.
        is_own = type(module).__module__.startswith("sentence_transformers.")
        if module is model or not (is_own or name.count(".") == 0):
            continue
        settings = module.get_config_dict() if hasattr(module, "get_config_dict") else {}
        network: Any = getattr(module, "auto_model", None)
        config = network.config.to_dict() if hasattr(network, "config") else {}
        parts.append(
            [name, type(module).__name__, _plain(vars(module)), _plain(settings), _plain(config), _tokenizer(module)]
        )
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for key, value in sorted(model.state_dict().items()):
        stored = value.detach().cpu().contiguous()
        digest.update(f"{key} {stored.dtype} {tuple(stored.shape)}".encode())
        digest.update(stored.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tokenizer(module: Any) -> list[Any]:
    tokenizer = getattr(module, "tokenizer", None)
    if tokenizer is None:
        return []
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(backend, "to_str"):
        rules = json.loads(backend.to_str())
        # Set anew by every call.
        del rules["truncation"], rules["padding"]
    else:
        rules = _plain(vars(backend))
    vocabulary = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else {}
    return [type(tokenizer).__name__, rules, vocabulary, _plain(getattr(tokenizer, "init_kwargs", {}))]


def _plain(value: Any) -> Any:
    """Keep what JSON can say, but for what is private or names files; of other objects the kind."""
    if isinstance(value, dict):
        kept = ((str(key), item) for key, item in value.items() if str(key) not in _NOT_IDENTITY)
        return {key: _plain(item) for key, item in kept if not key.startswith("_")}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [_plain(item) for item in value]
        return sorted(items, key=str) if isinstance(value, (set, frozenset)) else items
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return type(value).__name__
