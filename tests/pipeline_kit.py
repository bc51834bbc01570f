"""What the tests of the pipeline share: an invented crawl, the command line as a function, and trees to compare."""

import gzip
import hashlib
import io
import json
import logging
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from emsmine.encoder.folders import pretrained_folder
from emsmine.encoder.protocol import FloatArray, unit_rows
from emsmine.pipelines.cli.main import run_cli
from emsmine.pipelines.rescoring import SCORER_FILE
from emsmine.pipelines.runner.run import RunOptions, run_stages
from emsmine.pipelines.settings import RescoreSettings, Settings
from emsmine.pipelines.store.store import Store
from emsmine.pipelines.store.tasks import TaskSpec

# Invented; line i of every language says the same.
PARALLEL: dict[str, list[str]] = {
    "en": [
        "The lighthouse keeper paints the stairs blue every spring.",
        "Our bakery sells warm bread from six in the morning.",
        "The train to the mountains leaves from platform nine.",
        "My grandmother keeps bees behind the old stone house.",
        "The museum shows paintings from the seventeenth century.",
        "A small dog slept under the table in the kitchen.",
        "Yesterday the river rose by two metres after the storm.",
        "The teacher explained the experiment with a glass of water.",
        "We bought apples, cheese and honey at the market.",
        "The doctor told him to drink more water and sleep longer.",
        "Snow covered the roofs of the village during the night.",
        "The library closes at eight o'clock on Saturdays.",
        "Fishermen repair their nets before the sun comes up.",
        "The new bridge connects the two halves of the city.",
        "She plays the violin in an orchestra of young musicians.",
        "The scientists discovered water under the ice of the planet.",
        "Children are building a castle of sand on the beach.",
        "The price of coffee has doubled in the last three years.",
        "He forgot his umbrella in the restaurant again.",
        "The farmers harvest the grapes at the end of September.",
        "A red car is standing in front of the hospital.",
        "The president signed the law on education in Paris.",
        "Mushrooms grow in the forest after warm rain.",
        "The telephone rang while I was reading the newspaper.",
    ],
    "de": [
        "Der Leuchtturmwärter streicht die Treppe jeden Frühling blau.",
        "Unsere Bäckerei verkauft ab sechs Uhr morgens warmes Brot.",
        "Der Zug in die Berge fährt von Gleis neun ab.",
        "Meine Großmutter hält Bienen hinter dem alten Haus aus Stein.",
        "Das Museum zeigt Gemälde aus dem siebzehnten Jahrhundert.",
        "Ein kleiner Hund schlief unter dem Tisch in der Küche.",
        "Gestern stieg der Fluss nach dem Sturm um zwei Meter.",
        "Der Lehrer erklärte das Experiment mit einem Glas Wasser.",
        "Wir kauften Äpfel, Käse und Honig auf dem Markt.",
        "Der Arzt sagte ihm, er solle mehr Wasser trinken und länger schlafen.",
        "Schnee bedeckte in der Nacht die Dächer des Dorfes.",
        "Die Bibliothek schließt samstags um acht Uhr.",
        "Fischer reparieren ihre Netze, bevor die Sonne aufgeht.",
        "Die neue Brücke verbindet die beiden Hälften der Stadt.",
        "Sie spielt Geige in einem Orchester junger Musiker.",
        "Die Wissenschaftler entdeckten Wasser unter dem Eis des Planeten.",
        "Kinder bauen am Strand eine Burg aus Sand.",
        "Der Preis von Kaffee hat sich in den letzten drei Jahren verdoppelt.",
        "Er hat seinen Regenschirm wieder im Restaurant vergessen.",
        "Die Bauern ernten die Trauben Ende September.",
        "Ein rotes Auto steht vor dem Krankenhaus.",
        "Der Präsident unterzeichnete in Paris das Gesetz über Bildung.",
        "Nach warmem Regen wachsen im Wald Pilze.",
        "Das Telefon klingelte, während ich die Zeitung las.",
    ],
    "fr": [
        "Le gardien du phare peint l'escalier en bleu chaque printemps.",
        "Notre boulangerie vend du pain chaud dès six heures du matin.",
        "Le train pour les montagnes part du quai numéro neuf.",
        "Ma grand-mère élève des abeilles derrière la vieille maison de pierre.",
        "Le musée montre des tableaux du dix-septième siècle.",
        "Un petit chien dormait sous la table de la cuisine.",
        "Hier, la rivière est montée de deux mètres après la tempête.",
        "Le professeur a expliqué l'expérience avec un verre d'eau.",
        "Nous avons acheté des pommes, du fromage et du miel au marché.",
        "Le médecin lui a dit de boire plus d'eau et de dormir plus longtemps.",
        "La neige a couvert les toits du village pendant la nuit.",
        "La bibliothèque ferme à huit heures le samedi.",
        "Les pêcheurs réparent leurs filets avant le lever du soleil.",
        "Le nouveau pont relie les deux moitiés de la ville.",
        "Elle joue du violon dans un orchestre de jeunes musiciens.",
        "Les scientifiques ont découvert de l'eau sous la glace de la planète.",
        "Des enfants construisent un château de sable sur la plage.",
        "Le prix du café a doublé ces trois dernières années.",
        "Il a encore oublié son parapluie au restaurant.",
        "Les paysans récoltent le raisin à la fin de septembre.",
        "Une voiture rouge est devant l'hôpital.",
        "Le président a signé la loi sur l'éducation à Paris.",
        "Des champignons poussent dans la forêt après une pluie chaude.",
        "Le téléphone a sonné pendant que je lisais le journal.",
    ],
    "es": [
        "El guardián del faro pinta la escalera de azul cada primavera.",
        "Nuestra panadería vende pan caliente desde las seis de la mañana.",
        "El tren a las montañas sale del andén número nueve.",
        "Mi abuela cría abejas detrás de la vieja casa de piedra.",
        "El museo muestra cuadros del siglo diecisiete.",
        "Un perro pequeño dormía debajo de la mesa de la cocina.",
        "Ayer el río subió dos metros después de la tormenta.",
        "El maestro explicó el experimento con un vaso de agua.",
        "Compramos manzanas, queso y miel en el mercado.",
        "El médico le dijo que bebiera más agua y durmiera más tiempo.",
        "La nieve cubrió los tejados del pueblo durante la noche.",
        "La biblioteca cierra a las ocho los sábados.",
        "Los pescadores reparan sus redes antes de que salga el sol.",
        "El nuevo puente une las dos mitades de la ciudad.",
        "Ella toca el violín en una orquesta de jóvenes músicos.",
        "Los científicos descubrieron agua bajo el hielo del planeta.",
        "Unos niños construyen un castillo de arena en la playa.",
        "El precio del café se ha duplicado en los últimos tres años.",
        "Él olvidó otra vez su paraguas en el restaurante.",
        "Los campesinos cosechan las uvas a finales de septiembre.",
        "Un coche rojo está delante del hospital.",
        "El presidente firmó la ley de educación en París.",
        "Las setas crecen en el bosque después de una lluvia cálida.",
        "El teléfono sonó mientras yo leía el periódico.",
    ],
}
PAIRS = ("es-fr", "de-en")
NUM_PARALLEL = 24
PER_PAGE = 6

BY_MARGIN = RescoreSettings(rescore=False)
"""The stage of a run that chooses by margin."""
MARGIN_OF_ONE = ("--no-rescore", "--threshold", "1.0")
"""Flags of a run whose pairs do not hang on the quality of the shipped model."""


def own_model(folder: Path) -> Path:
    """Make a folder with the shipped model and a scorer of its own, which a test may change."""
    folder.mkdir()
    shipped = pretrained_folder("default")
    for path in shipped.iterdir():
        if path.name != SCORER_FILE:
            (folder / path.name).symlink_to(path)
    shutil.copy(shipped / SCORER_FILE, folder)
    return folder


def pages(lang: str) -> dict[str, str]:
    """Return the text of each page of a language by URL: six sentences a page, in two paragraphs."""
    sentences = PARALLEL[lang]
    texts = {}
    for start in range(0, NUM_PARALLEL, PER_PAGE):
        chunk = sentences[start : start + PER_PAGE]
        texts[f"https://{lang}.example/{start // PER_PAGE}"] = " ".join(chunk[:3]) + "\n" + " ".join(chunk[3:])
    return texts


def json_line(url: str, text: str) -> bytes:
    return json.dumps({"url": url, "text": text, "date": "2026-03-02T06:00:00Z"}, ensure_ascii=False).encode() + b"\n"


def warc_record(url: str, text: str) -> bytes:
    """Return one WARC response with an HTML page, as a gzip member of its own."""
    paragraphs = "".join(f"<p>{line}</p>" for line in text.split("\n"))
    html = f"<html><head><title>x</title></head><body><article>{paragraphs}</article></body></html>".encode()
    body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + html
    identity = hashlib.md5(url.encode()).hexdigest()
    identity = f"{identity[:8]}-{identity[8:12]}-{identity[12:16]}-{identity[16:20]}-{identity[20:]}"
    head = (
        f"WARC/1.1\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{identity}>\r\nWARC-Target-URI: {url}\r\n"
        "WARC-Date: 2026-03-02T06:00:00Z\r\nContent-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + body + b"\r\n\r\n", mtime=0)


def write_crawl(folder: Path) -> list[Path]:
    """Write the invented crawl: Spanish and French in a WARC, German and English in JSONL with one bad line."""
    folder.mkdir(parents=True, exist_ok=True)
    warc, feed = folder / "pages.warc.gz", folder / "feed.jsonl"
    romance = {**pages("es"), **pages("fr")}
    warc.write_bytes(b"".join(warc_record(url, text) for url, text in romance.items()))
    germanic = {**pages("de"), **pages("en")}
    # A page that repeats sentences of others, and one that is a copy of another.
    germanic["https://en.example/again"] = " ".join([PARALLEL["en"][0], PARALLEL["en"][7], PARALLEL["en"][23]])
    germanic["https://en.example/copy"] = pages("en")["https://en.example/1"]
    lines = [json_line(url, text) for url, text in germanic.items()]
    lines.insert(3, b'{"url": "https://en.example/broken", "text": \n')
    feed.write_bytes(b"".join(lines))
    return [warc, feed]


@dataclass(frozen=True)
class Result:
    """What a command left."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@contextmanager
def _own_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        for handler in list(root.handlers):
            root.removeHandler(handler)
        for handler in handlers:
            root.addHandler(handler)
        root.setLevel(level)


def emsmine(*args: object, stdin: bytes = b"") -> Result:
    """Call the command line in this process, with streams of its own."""
    before = sys.stdin, sys.stdout, sys.stderr
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2))
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    sys.stdout, sys.stderr = out, err
    try:
        with _own_logging():
            code = run_cli([str(arg) for arg in args])
    finally:
        sys.stdin, sys.stdout, sys.stderr = before
    texts = []
    for stream in (out, err):
        stream.flush()
        binary = stream.detach()
        assert isinstance(binary, io.BytesIO)
        texts.append(binary.getvalue().decode("utf-8"))
    return Result(code, *texts)


def run(inputs: Sequence[Path], output: Path, *more: object, pairs: Sequence[str] = PAIRS, workers: int = 1) -> Result:
    """Call `emsmine run`, by margin, see `MARGIN_OF_ONE`."""
    return emsmine("run", *inputs, "-p", ",".join(pairs), "-o", output, "-j", workers, *MARGIN_OF_ONE, *more)


def tree(root: Path, *, config: bool = True) -> dict[str, str]:
    """Return the SHA-256 of every file of a run directory, but for the logs, the lock and the record."""
    skipped = {"emsmine.lock", "emsmine.stat", *([] if config else ["config.toml"])}
    names = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in sorted(names.items())
        if name not in skipped and not name.startswith("logs/")
    }


def rows(root: Path, dataset: str) -> list[dict[str, Any]]:
    """Return the rows of all Parquet files of a dataset."""
    paths = [root / dataset] if dataset.endswith(".parquet") else sorted((root / dataset).rglob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path, partitioning=None).to_pylist()]


def publish(root: Path, stage: str, step: str, parts: Mapping[str, Mapping[str, pa.Table]]) -> None:
    """Put results of an earlier step into a run directory: partition → dataset → rows."""
    store = Store(root)
    specs = []
    for partition, outputs in parts.items():
        spec = TaskSpec(stage, step, 1, {}, (), partition)
        with store.task(spec) as task:
            for dataset, table in outputs.items():
                task.writer(dataset, table.schema).write(table)
        specs.append(spec)
    store.finish_step(stage, step, specs)


def run_stage(root: Path, settings: Settings, *stages: str) -> None:
    """Run stages as the command line does, in this process."""
    run_stages(root, settings, stages, RunOptions())


def dropped(root: Path, stage: str, step: str) -> dict[str, int]:
    """Return the counts of dropped rows of a finished step by reason."""
    counts: Counter[str] = Counter()
    for manifest in Store(root).manifests(stage, step):
        counts.update(manifest.dropped)
    return dict(counts)


class AngleEncoder:
    """Turns a text that starts with a number of degrees into that direction in the plane; others have no vector."""

    name = "angles"
    dim = 2

    def fingerprint(self) -> str:
        return "angles"

    def encode(self, sentences: Sequence[str], *, lang: str) -> FloatArray:
        angles = [text.split(" ")[0] for text in sentences]
        known = [np.deg2rad(float(angle)) if angle.lstrip("-").isdigit() else np.nan for angle in angles]
        rows = np.stack([np.cos(known), np.sin(known)], axis=1).astype(np.float32).reshape(-1, 2)
        return unit_rows(np.nan_to_num(rows))
