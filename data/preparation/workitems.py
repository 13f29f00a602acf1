"""What preparation does to one piece of a source: measure it, look for held-out text in it, take the tokenizer's sample
from it, tokenise it.

Each is a function of the item, and of what was written before it, and its result is a file named after the item, put
there by one rename. So one process or many machines, in any order, killed and repeated, give the same files.
"""

import dataclasses
import io
import itertools
import json
import uuid
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath

from data.preparation import holdout, overlap, sources
from data.preparation.holdout import MEASURED, SPLITS, TRAIN, VALIDATION, Plan
from data.preparation.sources import Shard
from data.preparation.token_flags import marks
from gptjax.files.atomic_file import write_whole
from gptjax.text.tokenizer import Tokenizer

PART = 64_000_000  # bytes of text that are tokenised between two points from which a killed run can go on
BATCH = 2_000_000  # bytes of text that are tokenised at once, on all cores

Advance = Callable[[int], None]  # told how many bytes of text were dealt with
Piece = tuple[int, str, bool, bool]  # as of Plan.pieces


def _nobody(count: int) -> None:
    """Advance where nobody looks on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """One piece of work: a shard of a source. Each function of this file does one thing to one item.

    Its result is a file in `work`, which all machines see: who comes next, wherever it runs, reads it there.
    """

    work: epath.Path  # folder of all results of a preparation
    name: str  # of the source, as the spec has it
    source: int  # number of the source in the spec
    number: int  # of the shard in the source
    shard: Shard  # which documents
    text_field: str  # which field of an example holds the text
    labels: tuple[str, ...]  # which fields hold labels
    language: str | None  # of the source; None = not known

    def file(self, kind: str, part: int = 0) -> epath.Path:
        """Where a result is kept. `kind`, in the order in which they are written:

        `measured` by `measure`, `plan` by `save_plan`, `holders` by `compare`, `plan` once more, `sample` by `sample`,
        and `tokens` by `tokenise`, the only one in several parts.
        """
        return self.work / kind / f"{self.source:02d}-{self.number:05d}-{part:05d}.npz"

    def documents(self) -> Iterator[sources.Document]:
        return sources.documents(self.shard, self.text_field, self.labels)


# (title, one of the functions below, what it is done to, bytes of text in all or None): does it to every item
RunAll = Callable[[str, Callable[..., None], Sequence[Item], int | None], None]


def measure(item: Item, advance: Advance = _nobody) -> None:
    """Writes what is measured of every document, MEASURED [J], and its labels as numbers of classes."""
    if item.file("measured").exists():
        return
    rows, codes = array("Q"), array("i")
    classes: list[dict[str, int]] = [{} for _ in item.labels]
    for text, labels in item.documents():
        row = holdout.measured(text)
        rows.extend(row)
        for label, seen in zip(labels, classes, strict=True):
            codes.append(seen.setdefault(label, len(seen)) if label else -1)
        advance(row[1])
    rows_J = np.array(rows, np.uint64).view(MEASURED)
    save(
        item.file("measured"),
        rows=rows_J,
        codes=np.array(codes, np.int32).reshape(len(rows_J), len(classes)),
        classes=_as_array([list(seen) for seen in classes]),
    )


def save_sought(work: epath.Path, print_M: np.ndarray) -> None:
    """Keeps the held-out documents that `compare` looks for, `overlap.PRINT`."""
    save(work / "sought.npz", print=print_M)


def compare(item: Item, advance: Advance = _nobody) -> None:
    """Writes the numbers of the training documents that hold a held-out one, and which of the item's places each is in.

    Nothing is found across the pieces that a large file is cut into.
    """
    if item.file("holders").exists():
        return
    plan, _ = _plan(item)
    place_J = np.zeros(len(plan.hash_J), np.int32)

    def training() -> Iterator[tuple[int, bytes]]:
        j = 0
        for place, name in enumerate(item.shard.places):
            of_place = item.shard._replace(places=(name,))
            for document in sources.documents(of_place, item.text_field, item.labels):
                if j == len(place_J):
                    raise ValueError(_changed(item))
                place_J[j] = place
                for split, text, _, _ in plan.pieces(j, document.text):
                    if split == TRAIN:
                        words = overlap.words_of(text)
                        yield j, words
                        advance(len(words))
                j += 1

    holders = overlap.Sought(load(item.work / "sought.npz")["print"]).holders(training())
    save(item.file("holders"), numbers=np.array(holders, np.int64), places=place_J[holders])


def compared(item: Item) -> tuple[np.ndarray, list[str]]:
    """What `compare` found: numbers of documents, and the files or folders that they are in."""
    kept = load(item.file("holders"))
    return kept["numbers"], sorted({item.shard.places[place] for place in kept["places"]})


def held_out_end(item: Item, plan: Plan) -> str:
    """The validation text of the document that the item's plan cuts."""
    assert plan.cut is not None
    return document_of(item, plan.cut[0]).text[plan.cut[1] :]


def document_of(item: Item, number: int) -> sources.Document:
    """One of the item's documents. Raises ValueError if it is no longer there."""
    for document in itertools.islice(item.documents(), number, number + 1):
        return document
    raise ValueError(_changed(item))


def save_plan(item: Item, plan: Plan, limit_J: np.ndarray) -> None:
    """Keeps what the other steps need to know of the whole; `limit_J` = bytes of each that the sample takes."""
    cut = np.array(plan.cut or (), np.int64)
    arrays = {"hash": plan.hash_J, "bytes": plan.bytes_J, "split": plan.split_J, "cut": cut, "limit": limit_J}
    save(item.file("plan"), **arrays)


def _plan(item: Item) -> tuple[Plan, np.ndarray]:
    kept = load(item.file("plan"))
    cut = (int(kept["cut"][0]), int(kept["cut"][1])) if len(kept["cut"]) else None
    return Plan(hash_J=kept["hash"], bytes_J=kept["bytes"], split_J=kept["split"], cut=cut), kept["limit"]


def sample(item: Item, advance: Advance = _nobody) -> None:
    """Writes the texts that the tokenizer learns from."""
    if item.file("sample").exists():
        return
    plan, limit_J = _plan(item)
    texts = []
    for j, document in enumerate(item.documents() if limit_J.any() else ()):
        if limit_J[j]:
            _, piece, _, _ = next(plan.pieces(j, document.text))  # the first piece of a document that is cut
            raw = piece.encode("utf-8")[: limit_J[j]]
            texts.append(raw.decode("utf-8", "ignore"))  # without a last character that is cut in two
            advance(len(raw))
    save(item.file("sample"), texts=_as_array(texts))


def sampled(item: Item) -> list[str]:
    """What `sample` wrote."""
    return _from_array(load(item.file("sample"))["texts"])


def measured(item: Item) -> tuple[np.ndarray, np.ndarray, list[list[str]]]:
    """What `measure` wrote: MEASURED [J]; classes, i32 [J, labels]; their names."""
    kept = load(item.file("measured"))
    return kept["rows"], kept["codes"], _from_array(kept["classes"])


def tokenise(item: Item, advance: Advance = _nobody) -> None:
    """Writes, part by part and per split, tokens, marks, and each document's number of tokens and bytes, and hash.

    Raises ValueError if the documents are no longer those that were measured.
    """
    plan, _ = _plan(item)
    part_J = plan.parts(PART)
    missing = []
    for part in _parts(plan):
        if item.file("tokens", part).exists():
            advance(int(plan.bytes_J[plan.kept_J & (part_J == part)].sum()))
        else:
            missing.append(part)
    if not missing:
        return
    rules = item.work / "tokenizer.json"
    tokenizer = Tokenizer.parsed(rules.read_bytes(), str(rules))
    for part, pieces in itertools.groupby(_pieces(item, plan, part_J, missing), key=lambda pair: pair[0]):
        arrays = _tokenised((piece for _, piece in pieces), tokenizer, item.language, advance)
        save(item.file("tokens", part), **arrays)


def finished(item: Item) -> list[epath.Path]:
    """The parts that `tokenise` writes, in order."""
    plan, _ = _plan(item)
    return [item.file("tokens", part) for part in _parts(plan)]


def _parts(plan: Plan) -> list[int]:
    return np.unique(plan.parts(PART)[plan.kept_J]).tolist()


def _pieces(item: Item, plan: Plan, part_J: np.ndarray, wanted: list[int]) -> Iterator[tuple[int, Piece]]:
    """(part, piece) of all documents of the parts that are wanted."""
    wanted_J = plan.kept_J & np.isin(part_J, wanted)
    last = np.flatnonzero(wanted_J)[-1]
    for j, document in enumerate(item.documents()):
        if wanted_J[j]:
            if holdout.text_hash(document.text.encode("utf-8")) != plan.hash_J[j]:
                break
            for piece in plan.pieces(j, document.text):
                yield int(part_J[j]), piece
        if j == last:
            return
    raise ValueError(_changed(item))


def _changed(item: Item) -> str:
    return f"data.sources: {item.name!r} changed while it was read; start again"


def _tokenised(
    pieces: Iterable[Piece], tokenizer: Tokenizer, language: str | None, advance: Advance
) -> dict[str, np.ndarray]:
    """The arrays of one part."""
    dtype = token_type(tokenizer)
    tokens, mark_bytes, rows = (
        [bytearray() for _ in SPLITS],
        [bytearray() for _ in SPLITS],
        [array("Q") for _ in SPLITS],
    )
    validation_text = bytearray()
    for batch, encoded in _encoded(pieces, tokenizer):
        mark_T = marks([text for _, text, _, _ in batch], encoded, tokenizer, language).tobytes()
        at = 0
        for (split, text, begins, ends), ids in zip(batch, encoded, strict=True):
            ids_T = np.array([tokenizer.bos] * begins + ids + [tokenizer.eos] * ends, dtype)
            tokens[split] += ids_T.tobytes()
            mark_bytes[split] += bytes(begins) + mark_T[at : at + len(ids)] + bytes(ends)
            at += len(ids)
            raw = text.encode("utf-8")
            rows[split].extend((len(ids_T), len(raw), holdout.text_hash(raw)))
            if split == VALIDATION:
                validation_text += raw
            advance(len(raw))
    arrays: dict[str, np.ndarray] = {"validation.text": np.frombuffer(validation_text, np.uint8)}
    for number, split in enumerate(SPLITS):
        arrays[f"{split}.tokens"] = np.frombuffer(tokens[number], dtype)
        arrays[f"{split}.marks"] = np.frombuffer(mark_bytes[number], np.uint8)
        arrays[f"{split}.rows"] = np.array(rows[number], np.uint64).reshape(-1, 3)
    return arrays


def _encoded(pieces: Iterable[Piece], tokenizer: Tokenizer) -> Iterator[tuple[list[Piece], list[list[int]]]]:
    """Batches of pieces with their ids; while one is dealt with, the next is encoded, which needs no Python."""
    with ThreadPoolExecutor(1) as pool:
        ahead = None
        for batch in _batches(pieces):
            then = batch, pool.submit(tokenizer.encode_batch, [text for _, text, _, _ in batch])
            if ahead is not None:
                yield ahead[0], ahead[1].result()
            ahead = then
        if ahead is not None:
            yield ahead[0], ahead[1].result()


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch, size = [], 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece[1].encode("utf-8"))
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def token_type(tokenizer: Tokenizer) -> np.dtype[Any]:
    return np.dtype("<u2" if tokenizer.size <= 1 << 16 else "<u4")


def save(path: epath.Path, **arrays: np.ndarray) -> None:
    """Writes arrays as one file, whole or not at all."""
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    save_bytes(path, content.getbuffer())


def save_bytes(path: epath.Path, content: bytes | memoryview) -> None:
    """Puts a file there by one rename; two machines that were given the same work don't disturb each other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside, local = f"{uuid.uuid4().hex}.new", "://" not in str(path)  # an object store keeps what is closed
    write_whole(path, content, aside=aside, sync=local)


def load(path: epath.Path) -> dict[str, np.ndarray]:
    """What `save` wrote."""
    with path.open("rb") as file, np.load(file) as arrays:
        return dict(arrays)


def _as_array(value: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def _from_array(array: np.ndarray) -> Any:
    return json.loads(array.tobytes())
