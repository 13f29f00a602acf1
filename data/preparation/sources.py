"""Names of text to documents: corpora of ours, TensorFlow datasets, files. Only reading records imports TensorFlow."""

import contextlib
import dataclasses
import difflib
import glob
import importlib.metadata
import importlib.util
import io
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from data.corpora import corpus as ours
from gptjax.files.places import expanded
from gptjax.spelling import nearest
from gptjax.text.record_files import KNOWN, check_kind, column, kind_of, records
from gptjax.text.source_files import Found, find
from gptjax.text.text_files import decoded, opened

WHOLE = 4_000_000  # bytes up to which a .txt file is one document
PIECE = 1_000_000  # bytes of a document cut out of a larger one, or a little more
SHARD = 64_000_000  # bytes of files that one machine reads in one go, or a little more
RECORDS = {".jsonl", ".json", ".csv", ".tsv", ".parquet"}  # the other files are text
READ_AT_ONCE = 64  # examples of a TensorFlow dataset: one at a time takes three times as long


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceCard:
    """The terms under which a source may be read, for reports and for whoever passes the text on."""

    name: str
    licence: str  # SPDX name, "yours" for files, "unknown" where a dataset states none
    attribution: str | None  # text that must accompany what is made of the source; None = none is demanded
    citation: str | None
    language: str | None
    domain: str | None
    warning: str | None = None  # what whoever prepares the source must read first


def check(name: str) -> None:
    """Raises ValueError for a source that cannot exist: within milliseconds, without TensorFlow."""
    kind, _, rest = name.partition(":")
    if kind == "files" and rest:
        files_of(name)
    elif kind == "tfds" and rest:
        if importlib.util.find_spec("tensorflow_datasets") is None:
            raise ValueError(
                f"data.sources: {name!r} needs TensorFlow Datasets, which is not installed; run `./launch.sh setup`"
            )
    else:
        known = ours.corpora()
        if name not in known:
            raise ValueError(
                f"data.sources: no corpus {name!r}{nearest(name, known)}; corpora: {', '.join(known)}; "
                f"or write 'tfds:lm1b' for a TensorFlow dataset, 'files:~/novels' for your own text"
            )
        corpus, config = known[name]
        ours.corpus(corpus).paths(config)


def identity(name: str) -> list[Any]:
    """What the documents of a source depend on: versions of packages, or size and time of files. Reads no text.

    Of a `tfds:` source: its version, and the files that hold its records; None in their place before they are made.
    """
    kind, _, _ = name.partition(":")
    if kind == "files":
        stats = [(str(path), path.stat()) for path in files_of(name).files]
        return [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats]
    if kind == "tfds":
        info = _tfds_builder(name).info
        return [info.full_name, [_stamp(path) for path in _record_files(info)] or None]
    corpus, _ = ours.corpora()[name]
    card = ours.corpus(corpus)
    return [*card.carrier, card.builder_version]


def identity_without_records(name: str) -> list[Any]:
    """The same, but of a `tfds:` source only what is known without its records."""
    if not name.startswith("tfds:"):
        return identity(name)
    return [name.removeprefix("tfds:"), importlib.metadata.version("tensorflow-datasets")]


def newest_record(name: str) -> float | None:
    """When the records of a `tfds:` source were written, in seconds since 1970; None where they are not here."""
    times = [path.stat().mtime for path in _record_files(_tfds_builder(name).info)]
    return max(times, default=None)


def _record_files(info: Any) -> list[epath.Path]:
    return list(info.splits["train"].filepaths) if "train" in info.splits else []


def _stamp(path: epath.Path) -> list[Any]:
    """Name, bytes and time of a file, in nanoseconds where it lies on this machine."""
    if "://" in str(path):
        stat = path.stat()
        return [path.name, stat.length, stat.mtime]
    own = os.stat(path)  # of whole seconds, as etils has them, two may have passed within one
    return [path.name, own.st_size, own.st_mtime_ns]


def describe(name: str, store: epath.Path) -> SourceCard:
    """The card of a source; `store` as in `shards`."""
    kind, _, _ = name.partition(":")
    if kind == "files":
        return SourceCard(
            name=name,
            licence="yours",
            attribution=None,
            citation=None,
            language=None,
            domain=None,
            warning=files_of(name).remark(),
        )
    if kind == "tfds":
        info = builder_of(name, store).info
        return SourceCard(
            name=name,
            licence=" ".join((info.redistribution_info.license or "unknown").split()),
            attribution=None,
            citation=info.citation or None,
            language=None,
            domain=None,
        )
    corpus, config = ours.corpora()[name]
    card = ours.corpus(corpus)
    return SourceCard(
        name=name,
        licence=card.terms,
        attribution=card.attribution if card.attribution_required else None,
        citation=ours.citation(corpus),
        language=card.languages[config],
        domain=card.domain,
        warning=card.warning,
    )


class Document(NamedTuple):
    """A text, and the class that each label of its source puts it in; "" = none."""

    text: str
    labels: tuple[str, ...] = ()


class Shard(NamedTuple):
    """A piece of a source that can be read on its own, on any machine that sees these places."""

    places: tuple[str, ...]  # files, or the folder of one TFDS data set
    examples: tuple[int, int] | None = None  # of the train split: from the first to before the second; None = files


def fields(name: str, text_field: str, label_field: str | None) -> tuple[str, tuple[str, ...]]:
    """(text field, label fields) of a source: as set, but a corpus of ours has its own."""
    if name.partition(":")[0] in ("files", "tfds"):
        return text_field, () if label_field is None else (label_field,)
    return "text", ours.corpus(ours.corpora()[name][0]).labels


def language(name: str) -> str | None:
    """The language of a corpus of ours; None = not known."""
    if name.partition(":")[0] in ("files", "tfds"):
        return None
    corpus, config = ours.corpora()[name]
    return ours.corpus(corpus).languages[config]


def make_records(name: str, download_config: Any = None) -> None:
    """Downloads a `tfds:` source, whose `identity` is whole only then; of others nothing is needed."""
    if name.startswith("tfds:"):
        tfds, builder = load_tfds(), _tfds_builder(name)
        tfds.display_progress_bar(True)  # it may take hours
        builder.download_and_prepare(download_config=download_config)


def shards(name: str, store: epath.Path, download_config: Any = None) -> list[Shard]:
    """The pieces of a source, in order. Writes the records of a corpus or `tfds:` source that are not there yet.

    `store` keeps the records of our corpora; those of a `tfds:` source lie where TFDS keeps them. `download_config` is
    TFDS's, for who writes them with Apache Beam.
    """
    kind, _, _ = name.partition(":")
    if kind == "files":
        return _file_shards(files_of(name).files)
    tfds = load_tfds()
    if kind == "tfds":
        make_records(name, download_config)
        builder = _tfds_builder(name)
    else:
        builder = builder_of(name, store)
        tfds.display_progress_bar(False)
        builder.distributed = download_config is not None
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=download_config)
    if "train" not in builder.info.splits:
        raise ValueError(f"data.sources: {name!r} has no train split, only {sorted(builder.info.splits)}")
    stops = list(itertools.accumulate(builder.info.splits["train"].shard_lengths, initial=0))
    return [Shard((str(builder.data_dir),), examples) for examples in itertools.pairwise(stops)]


def documents(shard: Shard, text_field: str, labels: tuple[str, ...]) -> Iterator[Document]:
    """The documents of a shard, always in the same order; empty ones are left out.

    `text_field` and `labels` name fields of a record or TFDS example; in files dots lead into a field. A .txt file,
    which has no labels, is one document up to `WHOLE` bytes; the pieces of a larger one, joined, are the file.

    Raises ValueError that names the file and line of text that cannot be read.
    """
    if shard.examples is not None:
        yield from _records(shard.places[0], *shard.examples, text_field, labels)
        return
    for path in map(Path, shard.places):
        if kind_of(path) in RECORDS:
            yield from _of_records(path, text_field, labels)
        else:
            yield from (Document(text, ("",) * len(labels)) for text in _txt(path))


def files_of(name: str) -> Found:
    """The files of a `files:` source. Raises ValueError if there are none."""
    pattern = expanded(name.removeprefix("files:"))
    found = find(pattern)
    if not found.files and not pattern.exists() and not glob.has_magic(str(pattern)):
        beside = [path.name for path in pattern.parent.iterdir()] if pattern.parent.is_dir() else []
        hint = nearest(pattern.name, beside)
        raise ValueError(f"data.sources: {name!r}: no file or folder {pattern}{hint}")
    if not found.files:
        told = found.remark()
        raise ValueError(f"data.sources: {name!r}: no file there that is read ({KNOWN}){f'; {told}' if told else ''}")
    for file in found.files:
        check_kind(file)
    return found


def _file_shards(files: Sequence[Path]) -> list[Shard]:
    """Runs of files, so that each has about `SHARD` bytes, or is one larger file."""
    sizes = [file.stat().st_size for file in files]
    before = itertools.accumulate(sizes, initial=0)
    numbered = [(begin // SHARD, str(file.absolute())) for begin, file in zip(before, files, strict=False)]
    return [Shard(tuple(file for _, file in run)) for _, run in itertools.groupby(numbered, key=lambda pair: pair[0])]


def _txt(path: Path) -> Iterator[str]:
    """A file as one document, or as pieces that end at an empty line, else at a line's end, else anywhere."""
    with opened(path) as file:
        whole = file.read(WHOLE + 1)
    if len(whole) <= WHOLE:
        if text := decoded(whole, path, 1):
            yield text
        return
    piece, line_number = bytearray(), 1
    with opened(path) as file:
        while line := file.readline(PIECE):
            piece += line
            if len(piece) >= PIECE and (not line.strip() or len(piece) >= 2 * PIECE):
                end = _whole_characters(piece)
                yield decoded(bytes(piece[:end]), path, line_number)
                line_number += piece.count(b"\n", 0, end)
                del piece[:end]
    if piece:
        yield decoded(bytes(piece), path, line_number)


def _whole_characters(text: bytearray) -> int:
    """Length of the text without a last character that is cut in two."""
    for back in range(1, min(4, len(text) + 1)):
        lead = text[-back]
        if lead >= 0xC0:
            length = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
            return len(text) - back if back < length else len(text)
    return len(text)


def _of_records(path: Path, text_field: str, labels: tuple[str, ...]) -> Iterator[Document]:
    """The documents of a file of records."""
    for where, example in records(path):
        text = _field(example, text_field, "text_field", where)
        of = (_label(_field(example, label, "label_field", where, str | int | None)) for label in labels)
        document = Document(text, tuple(of))
        if text:
            yield document


def _field(example: dict[str, Any], field: str, setting: str, where: str, kind: Any = str) -> Any:
    """A field of an example; raises ValueError if there is no such field, or something of another kind in it."""
    try:
        value = column(example, field, where)
    except ValueError as error:
        raise ValueError(f"{error}; set data.{setting} to one of {sorted(example)}") from None
    if not isinstance(value, kind):
        wanted = "text" if kind is str else "a label (text, a whole number, or null for none)"
        raise ValueError(f"{where}: field {field!r} holds a {type(value).__name__}, not {wanted}")
    return value


def _label(value: str | int | None) -> str:
    return "" if value is None else str(value)


def _records(folder: str, first: int, stop: int, text_field: str, labels: tuple[str, ...]) -> Iterator[Document]:
    """The documents of examples `first` to before `stop` of a TFDS data set, in the order in which it wrote them."""
    tfds = load_tfds()
    builder = tfds.builder_from_directory(folder)
    features = dict(builder.info.features)
    names = {field: _class_names(_field(features, field, "label_field", folder, object)) for field in labels}
    feature = _field(features, text_field, "text_field", folder, object)
    if feature.np_dtype != np.dtype(object) or feature.shape != ():
        raise ValueError(f"{folder}: field {text_field!r} is no text; set data.text_field to one that is")
    examples = builder.as_dataset(
        split=tfds.core.ReadInstruction("train", from_=first, to=stop, unit="abs"),
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
        decoders=tfds.decode.PartialDecoding(dict.fromkeys((text_field, *labels), True)),
    )
    batches = tfds.as_numpy(examples.batch(READ_AT_ONCE))
    columns = ((batch[text_field], *(batch[field] for field in labels)) for batch in batches)
    rows = itertools.chain.from_iterable(zip(*arrays, strict=True) for arrays in columns)
    for number, (raw, *given) in enumerate(rows, start=first + 1):
        try:
            if text := raw.decode("utf-8"):
                yield Document(text, tuple(names[field](value) for field, value in zip(labels, given, strict=True)))
        except UnicodeDecodeError as error:
            where = f"{folder}: example {number}: byte {error.start + 1}"
            raise ValueError(f"{where} of {text_field!r} is not UTF-8") from None


def _class_names(feature: Any) -> Callable[[Any], str]:
    """From what a label feature of TFDS decodes to, to the name of the class; "" = none."""
    tfds = load_tfds()
    if isinstance(feature, tfds.features.ClassLabel):
        return lambda number: "" if number < 0 else feature.int2str(int(number))
    if feature.shape == () and feature.np_dtype == np.dtype(object):
        return lambda text: text.decode("utf-8")
    if feature.shape == () and np.issubdtype(feature.np_dtype, np.integer):
        return lambda number: str(int(number))
    raise ValueError(f"data.label_field: {feature} is no label; it takes a class, a text or a whole number")


def builder_of(name: str, store: epath.Path) -> Any:
    """The TFDS builder of a source that is no files."""
    load_tfds()
    if name.startswith("tfds:"):
        return _tfds_builder(name)
    corpus, config = ours.corpora()[name]
    carrier = ours.corpus(corpus).carrier
    module = importlib.import_module(f"data.corpora.{corpus}.{corpus}_dataset_builder")
    # records of another version of the package must not be taken for these
    return module.Builder(config=config, data_dir=store / "-".join(carrier))


def _tfds_builder(name: str) -> Any:
    wanted = name.removeprefix("tfds:")
    try:
        return load_tfds().builder(wanted, data_dir=os.environ.get("TFDS_DATA_DIR"))
    except (ValueError, AssertionError) as error:  # of a version, TFDS asserts that it is there
        raise ValueError(f"data.sources: {name!r}: {_what_there_is(wanted) or error}") from None


def _what_there_is(wanted: str) -> str | None:
    """What TFDS has in place of a data set, configuration or version that it has not; None = it has them."""
    tfds = load_tfds()
    base, _, version = wanted.partition(":")
    base, _, config = base.partition("/")
    try:
        data_set = tfds.builder_cls(base)
    except ValueError:
        return f"TFDS has no data set {base!r}{nearest(base, tfds.list_builders())}"
    configs = data_set.builder_configs
    if config and config not in configs:
        alike = difflib.get_close_matches(config, configs, n=10, cutoff=0)
        there = f"it has {', '.join(alike)}{', ...' if len(configs) > len(alike) else ''}" if configs else "nor any"
        return f"{base!r} has no configuration {config!r}; {there}"
    versions = [data_set.VERSION, *data_set.SUPPORTED_VERSIONS]
    versions += [each.version for name, each in configs.items() if not config or name == config]
    known = sorted({str(each) for each in versions if each is not None})
    return f"{base!r} has no version {version!r}; it has {', '.join(known)}" if version not in ("", *known) else None


def load_tfds() -> Any:
    """TensorFlow Datasets, silent; TensorFlow sees no accelerator."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # else TensorFlow announces oneDNN, whatever the level
    import absl.logging
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    tf.config.set_visible_devices([], "TPU")
    import tensorflow_datasets as tfds

    absl.logging.set_verbosity(absl.logging.ERROR)
    return tfds
