"""Any sentence-transformers model (LaBSE, multilingual e5, …) as an encoder."""

import hashlib
from collections.abc import Sequence

import numpy as np

from emsmine.encoder.protocol import FloatArray, unit_rows
from emsmine.errors import MissingDependencyError


class SentenceTransformersEncoder:
    """A sentence-transformers model behind the `Encoder` protocol."""

    def __init__(self, model: str, *, device: str = "auto") -> None:
        """Load a model by name or folder.

        Raises:
            MissingDependencyError: sentence-transformers is not installed.
        """
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise MissingDependencyError(
                "encoder: sentence-transformers is not installed; run: pip install 'emsmine[sbert]'"
            ) from None
        self._model = SentenceTransformer(model, device=None if device == "auto" else device)
        self.name = f"sentence-transformers:{model}"
        self.dim = int(self._model.get_sentence_embedding_dimension() or 0)
        digest = hashlib.sha256(self.name.encode())
        for key, value in sorted(self._model.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().cpu().float().numpy().tobytes())
        self._fingerprint = digest.hexdigest()

    def fingerprint(self) -> str:
        """Return a hash of name and weights."""
        return self._fingerprint

    def encode(self, sentences: Sequence[str], *, lang: str) -> FloatArray:
        """Encode sentences; see `Encoder.encode`. The language is not used."""
        if not sentences:
            return np.zeros((0, self.dim), dtype=np.float32)
        vectors = self._model.encode(list(sentences), convert_to_numpy=True, show_progress_bar=False)
        return unit_rows(np.asarray(vectors, dtype=np.float32))
