"""The verb `gptjax features`: texts in, their vectors out, and a page of what these hold. No JAX before it runs."""

import dataclasses
import io
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

import gptjax
from gptjax.command.compiled import keep_compiled
from gptjax.command.predict_verb import place_for_file, text_of_column
from gptjax.command.verb import Verb
from gptjax.evaluation.items import FileItem, left_out, name_of, read_items
from gptjax.files.atomic_file import write_whole
from gptjax.files.places import place_of_run
from gptjax.files.plain_json import dumps
from gptjax.inference.feature_input import FINAL, check_reading, feature_ids
from gptjax.look.pieces import token_label
from gptjax.probing.folds import probed_classes
from gptjax.runs.rundir import read_run
from gptjax.text.record_files import column
from gptjax.text.told import label_name

if TYPE_CHECKING:
    from gptjax.inference.language_model import LanguageModel

ENDINGS = (".npy", ".jsonl")
REPORTED = 2000  # texts that the page is about, the first
TOGETHER = 256  # texts that are checked at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Features(Verb):
    """Write vectors of texts, out of any layer of a model: for searching, comparing, and programs of your own.

    Files are .csv, .tsv, .jsonl, .json or .parquet, a text in a record, or .txt, a text in a file. They are read as a
    stream, so that there may be any number of texts. --to writes one of

      FILE.npy           float32, a row for each text, in order
      FILE.jsonl         the records as they were, with `vector`; with --pool none with `tokens` and their `vectors`

    --report writes a page of what the vectors hold: a map, nearest neighbours, and with --label what a linear probe
    reads out of them, beside one of TF-IDF.

      gptjax features runs/first texts.jsonl --to vectors.npy
      gptjax features runs/first texts.jsonl --to vectors.jsonl --layer 3 --pool last
      gptjax features runs/first news.csv --text body --label section --report news.html --bidirectional
    """

    directory: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder of a run, folder in Hugging Face's layout, or .gguf file."""
    files: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE...")]
    """Files, folders or patterns: .csv, .tsv, .jsonl, .json, .parquet, .txt, packed (.gz, .zst) or not."""
    to: str | None = None
    """File to write, .npy or .jsonl."""
    report: str | None = None
    """Page to write, .html, about the first 2,000 texts."""
    label: str | None = None
    """Column of a class, which the page's probe is asked for; a.b leads into objects."""
    layer: str = FINAL
    """A number, from 0: the states behind that layer; embedding: what the first one reads; final: behind the last
    norm."""
    pool: Literal["mean", "last", "weighted", "none"] = "mean"
    """The vector of a text: the mean of its tokens' states, the last, the mean in which the n-th counts n times; none =
    one for each token."""
    bidirectional: bool = False
    """Each token sees the whole text, not only what is before it: for models that learnt to, as by masked words."""
    length: int | None = None
    """Only so many tokens of each text are read; None = all, and a text beyond the context is refused."""
    text: str = "text"
    """Column of the text; a.b leads into objects."""
    most: int | None = None
    """Only so many texts, from the first on; None = all."""
    replace: bool = False
    """Write over files that are there already."""
    batch_tokens: int | None = None
    """Tokens read at once on each device; fewer need less memory. None = 512 on a CPU, 16384 elsewhere."""
    step: int | None = None
    """Checkpoint of a run; None = the best so far of a run that is judged by a figure, else the newest good one."""
    weights: Literal["trained", "ema"] = "trained"
    """Those of the step itself, or their moving average, where the run kept one."""
    adapter: str | None = None
    """Folder of a LoRA adapter in PEFT's layout, merged into the weights."""
    dtype: Literal["float32", "bfloat16", "int8"] = "float32"
    """Of the products, or int8 of the weights alone; vectors are float32."""

    def __post_init__(self):
        if not self.files:
            raise ValueError("files: give at least one, such as texts.jsonl")
        if self.to is None and self.report is None:
            raise ValueError("--to: give a file for the vectors, .npy or .jsonl; or --report, a page of what they hold")
        for name in ("most", "batch_tokens", "length"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        for flag, path, endings in (("to", self.to, ENDINGS), ("report", self.report, (".html",))):
            if path is not None and (ending := Path(path).suffix.lower()) not in endings:
                raise ValueError(f"--{flag} {path}: ends in {ending or 'nothing'}; give one of {' or '.join(endings)}")
        if self.pool == "none" and (self.report is not None or Path(self.to or "").suffix.lower() == ".npy"):
            what = "--report" if self.report is not None else f"--to {self.to}"
            raise ValueError(f"{what}: holds one vector a text; --pool none, which makes many, is for a .jsonl file")
        if self.label is not None and self.report is None:
            raise ValueError(f"--label {self.label}: is what the page is asked for; add --report FILE.html")

    def run(self) -> None:
        target = None if self.to is None else place_for_file(self.to, self.replace)
        page = None if self.report is None else place_for_file(self.report, self.replace)
        place = place_of_run(self.directory)
        run = read_run(place) if (place / "model.json").is_file() else None
        count, labels = self._checked(run)  # of a model of others once it is loaded, as far as it decides
        for remark in left_out(self.files):
            print(remark, file=sys.stderr)
        keep_compiled()
        model = gptjax.load(self.directory, self.step, weights=self.weights, dtype=self.dtype, adapter=self.adapter)
        if run is None:
            self._checked(model)
        kept: list[tuple[str, np.ndarray]] = []  # for the page
        if target is not None:
            write_whole(target, self._parts(model, count, kept))
            print(f"wrote {self.to}: {count:,} texts, {model.config.D} numbers a vector")
        elif page is not None:
            kept += ((self._read(model, item), vector) for item, vector in self._told(model, min(count, REPORTED)))
        if page is not None:
            self._write_page(page, model, count, kept, labels)
            print(f"wrote {self.report}: what the vectors of {len(kept):,} texts hold; open it in a browser")

    def _items(self) -> Iterator[FileItem]:
        return itertools.islice(read_items(self.files), self.most)

    def _text(self, item: FileItem, number: int) -> str:
        return text_of_column(item, number, self.text, "--text")

    def _read(self, model: "LanguageModel", item: FileItem) -> str:
        """As much of the text as the model reads: what its vector is compared with."""
        text = self._text(item, 0)
        if self.length is None:
            return text
        [ids] = feature_ids(model.config, model.tokenizer, model.generation_config, [text], ["a text"], self.length)
        return model.tokenizer.decode(ids)

    @property
    def _layer(self) -> Any:
        return int(self.layer) if self.layer.isdecimal() else self.layer

    def _checked(self, model: Any) -> tuple[int, list[str]]:
        """(how many texts there are, the labels of those of the page), all of them checked.

        `model`: what has its config, tokenizer and generation_config; None = none is loaded yet.
        """
        if model is not None:
            check_reading(model.config, self._layer, None if self.pool == "none" else self.pool, self.length)
        count, labels = 0, []
        taken = "vector" if self.pool != "none" else "vectors"
        for items in itertools.batched(self._items(), TOGETHER):
            texts = [self._text(item, count + number) for number, item in enumerate(items)]
            names = [name_of(item, count + number) for number, item in enumerate(items)]
            for name, item in zip(names, items, strict=True):
                if Path(self.to or "").suffix.lower() == ".jsonl" and taken in item:
                    raise ValueError(f"{name}: has a column {taken!r} already, where vectors go; rename it, or drop it")
                if self.label is not None:
                    label = self._label(item, name)
                    labels += [label] if len(labels) < REPORTED else []
            if model is not None:
                feature_ids(model.config, model.tokenizer, model.generation_config, texts, names, self.length)
            count += len(items)
        if not count:
            raise ValueError(f"{self.files[0]}: there are no texts to read")
        if self.label is not None:
            probed_classes(labels)
        return count, labels

    def _label(self, item: FileItem, name: str) -> str:
        assert self.label is not None
        try:
            return label_name(column(item, self.label, name))
        except ValueError as error:
            said = str(error) if str(error).startswith(name) else f"{name}: {self.label} {error}"
            raise ValueError(f"{said}; every record needs its --label, so name another column, or drop it") from None

    def _told(self, model: "LanguageModel", count: int) -> Iterator[tuple[FileItem, np.ndarray]]:
        """Records with their vectors."""
        from gptjax.command.progress import bar

        items, again = itertools.tee(itertools.islice(self._items(), count))
        texts = (self._text(item, number) for number, item in enumerate(again))
        found = model.features(
            texts, layer=self._layer, pool=None if self.pool == "none" else self.pool, length=self.length,
            bidirectional=self.bidirectional, batch_tokens=self.batch_tokens,
        )  # fmt: skip
        done = 0
        with bar(f"reading {count:,} texts") as progress:
            for done, told in enumerate(zip(items, found, strict=True), start=1):
                yield told
                progress(done, count)
        if done != count:
            raise ValueError(f"{self.files[0]}: had {count} texts, and now has {done}; leave it alone while it is read")

    def _parts(self, model: "LanguageModel", count: int, kept: list[tuple[str, np.ndarray]]) -> Iterator[str | bytes]:
        """The content of the file, piece by piece; keeps what the page is about."""
        as_array = Path(self.to or "").suffix.lower() == ".npy"
        if as_array:
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                header, {"descr": "<f4", "fortran_order": False, "shape": (count, model.config.D)}
            )
            yield header.getvalue()
        for item, vector in self._told(model, count):
            if self.report is not None and len(kept) < REPORTED:
                kept.append((self._read(model, item), vector))
            yield vector.astype("<f4").tobytes() if as_array else self._line(model, item, vector)

    def _line(self, model: "LanguageModel", item: FileItem, vector: np.ndarray) -> str:
        """A record with its vector, or with those of its tokens; nine digits, which float32 has at most."""
        if self.pool != "none":
            told = {"vector": _numbers(vector)}
        else:
            parts = model.config, model.tokenizer, model.generation_config
            [ids] = feature_ids(*parts, [self._text(item, 0)], ["a text"], self.length)
            told = {"tokens": [token_label(model.tokenizer, id) for id in ids], "vectors": [*map(_numbers, vector)]}
        return dumps({**item, **told}, ensure_ascii=False) + "\n"

    def _write_page(self, path: Path, model: "LanguageModel", count: int, kept: Any, labels: list[str]) -> None:
        from gptjax.probing.features_page import page

        pools = {"mean": "mean", "last": "last", "weighted": "position-weighted mean"}
        where = f"layer {self.layer} of 0 to {model.config.L - 1}" if self.layer.isdecimal() else f"{self.layer} states"
        made = (
            f"{len(kept):,} of {count:,} texts, {model.config.D} numbers each: {where}, {pools[self.pool]}, "
            f"{'each token sees the whole text' if self.bidirectional else 'read from the left'}"
            f"{'' if self.length is None else f', at most {self.length} tokens'}."
        )
        name = place_of_run(self.directory).resolve().name
        texts, vectors = [text for text, _ in kept], np.stack([vector for _, vector in kept])
        write_whole(path, page(name, made, texts, labels or None, vectors))


def _numbers(vector: np.ndarray) -> list[float]:
    return [float(f"{value:.9g}") for value in vector.tolist()]
