"""Labelled texts to a prepared folder, once: read, checked, split, made what the head reads, stored whole.

The folder is as data/examples/preparing.py makes them. Of each document it holds the class, 0 or 1 of every label, or
the number, standardised by mean and deviation of the training ones; `heads.json` says what the head is.
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.description import FORMAT, HEADS, Source, Split, write_description
from data.examples.choosing import DUPLICATE, TRAIN, TWIN, VALIDATION
from data.examples.dialogues import Rejected, is_corpus, source_of
from data.examples.example_spec import ExamplesSpec
from data.examples.head_spec import HeadSpec
from data.examples.labelled_texts import LabelledText, check_labelled, corpus_label, labelled_texts
from data.examples.preparing import TALLIES, held_before, made_once, share_out
from data.examples.stratifying import SPARE, known, sides
from data.preparation import sources
from data.preparation.holdout import SPLITS, text_hash
from data.preparation.prepared_folder import content_hash
from data.preparation.token_flags import marks
from data.preparation.workitems import token_type
from gptjax.batch import ClassHead
from gptjax.command.progress import track
from gptjax.files.plain_json import dumps
from gptjax.inference.head_input import head_inputs, sides_read
from gptjax.text.stop_words import check_stop_words
from gptjax.text.tokenizer import Tokenizer

TEXTS = "texts.jsonl"  # of a split: what was read, in the order of the documents
LABELLED_FORMAT = 1
FEW = 5  # examples of a class, below which a person is told


def prepare_labelled(
    spec: ExamplesSpec, tokenizer: Tokenizer, T: int, root: Path, *, running: Path | None, replay: float
) -> Path:
    """The prepared folder of a spec with a head, below `root`; makes it if it is not there yet.

    `running`, `replay` as `prepare_examples` has them. Raises ValueError where a source cannot be read, a record is no
    labelled text, or there is nothing to tell apart, to learn from or to measure by.
    """
    head = _of(spec)
    if head.stop_words is not None:
        check_stop_words(head.stop_words)
    for name in _names(spec):
        check_labelled(name, head)
        sources.make_records(name)
    folder = root / fingerprint(spec, tokenizer, T, running, replay)
    return made_once(folder, lambda aside: _make(spec, tokenizer, T, aside, running, replay))


def fingerprint(spec: ExamplesSpec, tokenizer: Tokenizer, T: int, running: Path | None, replay: float) -> str:
    """16 hexadecimal digits that differ if the prepared examples would; reads sizes and versions, not text."""
    head = dataclasses.replace(_of(spec), smoothing=0.0, dropout=0.0)  # which change nothing that is stored
    settings = [
        "labelled", LABELLED_FORMAT, FORMAT, list(spec.sources), dataclasses.asdict(head), spec.bad, spec.too_long,
        spec.held_out, T, tokenizer.fingerprint, running and running.name, replay,
    ]  # fmt: skip
    read = [[name, sources.identity(name)] for name in _names(spec)]
    return hashlib.sha256(json.dumps([settings, read]).encode()).hexdigest()[:16]


def _of(spec: ExamplesSpec) -> HeadSpec:
    assert spec.head is not None
    return spec.head


def _names(spec: ExamplesSpec) -> list[str]:
    """The sources that are read: those that train, and one to measure by."""
    head = _of(spec)
    if head.held_out is not None and (len(spec.shares) > 1 or head.held_out in spec.shares):
        raise ValueError(
            f"examples.head.held_out={head.held_out!r}: measures one other source's head, and examples.sources are "
            f"{list(spec.shares)}; join them in one file, or leave it out"
        )
    return [*spec.shares, *([head.held_out] if head.held_out is not None else [])]


class _Example(NamedTuple):
    """Of a labelled text what is stored."""

    ids: list[int]
    marks: np.ndarray  # u8, of each id
    labels: list[int]
    values: list[float]
    text: LabelledText


def _make(spec: ExamplesSpec, tokenizer: Tokenizer, T: int, folder: Path, running: Path | None, replay: float) -> None:
    wanted, names = _of(spec), _names(spec)
    if is_corpus(names[0]):  # its label names the head
        wanted = dataclasses.replace(wanted, target=corpus_label(names[0], wanted))
    tallies = {name: Counter[str]() for name in names}
    read = [(name, one) for name in names for one in track(_read(name, spec, tallies[name]), f"reading {name}")]
    if not read:
        why = _said(tallies) or "there is no record below its first line: give some, each with a text and its label"
        raise ValueError(f"--data (examples.sources): no labelled text in {', '.join(names)} ({why})")
    of_source, labelled = [name for name, _ in read], [one for _, one in read]
    measured = [] if wanted.held_out is None else [wanted.held_out]
    side_E = sides(known(of_source, labelled), spec.held_out, wanted.most, held_before(running), measured)
    _check_split(side_E, tallies, of_source, spec)
    targets = [
        [one.target for one, side in zip(labelled, side_E, strict=True) if side == of] for of in (TRAIN, VALIDATION)
    ]
    head = made_head(wanted, T, *targets)
    made: dict[str, tuple[list[_Example], list[_Example]]] = {name: ([], []) for name in spec.shares}
    kept = [e for e, side in enumerate(side_E) if side in (TRAIN, VALIDATION)]
    examples = _examples(tokenizer, head, [labelled[e] for e in kept], _language(names[0]), spec.too_long == "cut")
    for e, (example, cut) in track(zip(kept, examples, strict=True), "writing examples", len(kept)):
        tally = tallies[of_source[e]]
        if example is None:
            tally[f"dropped: longer than {head.length} tokens"] += 1
            continue
        tally["kept"] += 1
        tally["held out"] += int(side_E[e] == VALIDATION)
        tally[f"cut to {head.length} tokens"] += cut
        tally["tokens"] += len(example.ids)
        if head.stop_words is not None:
            tally["characters left out as stop words"] += _left_out(head, labelled[e])
        name = of_source[e] if of_source[e] in made else names[0]
        made[name][int(side_E[e] == VALIDATION)].append(example)
    for name, (train, held) in made.items():
        if not train or not held:
            raise ValueError(
                f"examples.sources: {name!r}: no example is left to {'measure by' if train else 'learn from'} "
                f"({_said(tallies)}); make rows longer (--examples.length), or cut texts (--examples.too_long cut)"
            )
    weights = (
        class_weights(head, [one.labels for sides in made.values() for one in sides[0]]) if wanted.balanced else None
    )
    described = {
        name: _stored(number, name, made[name], head, weights, tokenizer, folder, tallies[name])
        for number, name in enumerate(spec.shares)
    }
    tokenizer.save(folder / "tokenizer.json")
    (folder / HEADS).write_text(dumps([{"name": head.name, **head.fields()}], indent=1, ensure_ascii=False))
    share_out(described, spec.shares, running, replay)
    (folder / TALLIES).write_text(dumps({name: dict(tally) for name, tally in tallies.items()}, indent=1))
    write_description(folder, {
        "format": FORMAT, "fingerprint": folder.name, "tokenizer": tokenizer.fingerprint,
        "vocabulary": tokenizer.size, "mixture": "rates", "share": 0.1,
        "content": content_hash(folder, described, FORMAT), "sources": described,
    })  # fmt: skip


def _read(name: str, spec: ExamplesSpec, tally: Counter[str]) -> Iterator[LabelledText]:
    for one in labelled_texts(name, _of(spec), spec.bad):
        tally["read"] += 1
        if isinstance(one, Rejected):
            tally[f"dropped: {one.reason}"] += 1
        else:
            yield one


def _check_split(
    side_E: np.ndarray, tallies: Mapping[str, Counter[str]], of_source: Sequence[str], spec: ExamplesSpec
) -> None:
    """Counts what does not train, and raises ValueError where a source has nothing to learn from or to measure by."""
    said = {DUPLICATE: "duplicates", TWIN: "twins of held-out ones", SPARE: "more than examples.head.most"}
    for name, side in zip(of_source, side_E.tolist(), strict=True):
        if side in said:
            tallies[name][said[side]] += 1
    own_E = np.array(of_source)
    for name in spec.shares:
        for side, what in ((TRAIN, "learn from"), (VALIDATION, "measure by")):
            elsewhere = side == VALIDATION and _of(spec).held_out is not None
            if not ((side_E == side) & (own_E == (_of(spec).held_out if elsewhere else name))).any():
                raise ValueError(
                    f"examples.sources: {name!r}: nothing to {what} ({_said(tallies)}); of labelled texts a fifth at "
                    "most is held out, and of each class one stays: give it more of them, 10 at least, or a file to "
                    "measure by with --examples.head.held_out"
                )


def made_head(spec: HeadSpec, T: int, train: Sequence[object], held_out: Sequence[object]) -> ClassHead:
    """The head that the examples ask for. Raises ValueError where they leave nothing to tell."""
    two, length, mean, scale = spec.second is not None, T, 0.0, 1.0
    if spec.tells == "values":
        value_E = np.array(train, np.float64)
        mean, scale = float(value_E.mean()), float(value_E.std())
        if not scale > 1e-9 * max(1.0, abs(mean)):
            raise ValueError(
                f"--value {spec.target_column}: is {mean:g} in all {len(train)} training examples: nothing to learn"
            )
        classes: tuple[str, ...] = (spec.called,)
    else:
        of_train, of_held = _classes(train), _classes(held_out)
        classes = tuple(sorted(of_train))
        column = spec.target_column
        if not classes or (len(classes) == 1 and spec.tells == "classes"):
            only = f"all are {classes[0]!r}" if classes else "none has a label"
            raise ValueError(f"{column}: of {len(train)} training examples {only}; there is nothing to tell apart")
        if unseen := sorted(of_held.keys() - of_train.keys()):
            where = next(iter(of_held[name] for name in unseen))
            raise ValueError(
                f"{column}: {', '.join(map(repr, unseen[:5]))} of the held-out examples ({where} of them) no training "
                "example has, so it cannot be learnt; add some, or leave these out"
            )
    return ClassHead(
        name=spec.called, classes=classes, kind=spec.tells, pool=spec.pool, causal=spec.causal, length=length, two=two,
        lowercase=spec.lowercase, stop_words=spec.stop_words, mean=mean, scale=scale,
    )  # fmt: skip


def _classes(targets: Sequence[object]) -> Counter[str]:
    """How often each class or label is told."""
    each = (target if isinstance(target, tuple) else (target,) for target in targets)
    return Counter(str(name) for names in each for name in names)


def class_weights(head: ClassHead, labels: Sequence[Sequence[int]]) -> np.ndarray:
    """What a target weighs so that all classes pull alike, f32 [2, C]: by its label, or its absence, of each column.

    N / (C n) of a class with n of N examples; of labels N / (2 n), of those with a label and of those without. Their
    mean over the examples is 1.
    Source: King and Zeng 2001, "Logistic regression in rare events data", section 4.2; scikit-learn calls it balanced.
    """
    label_EF = np.array(labels)
    if head.kind == "labels":
        has_F = label_EF.sum(axis=0)
        return (len(label_EF) / (2 * np.maximum(1, [len(label_EF) - has_F, has_F]))).astype(np.float32)
    count_C = np.bincount(label_EF[:, 0], minlength=len(head.classes))
    weight_C = len(label_EF) / (len(head.classes) * np.maximum(1, count_C))
    return np.stack([weight_C, weight_C]).astype(np.float32)


def _examples(
    tokenizer: Tokenizer, head: ClassHead, labelled: Sequence[LabelledText], language: str | None, cuts: bool
) -> Iterator[tuple[_Example | None, bool]]:
    """(what is stored, whether it was cut) of each text; None in place of one that may not be cut, and is too long."""
    asked = [one.text if one.second is None else (one.text, one.second) for one in labelled]
    try:
        inputs = head_inputs(tokenizer, head, asked)
    except ValueError:
        for one, text in zip(labelled, asked, strict=True):  # the error says where in the file
            try:
                head_inputs(tokenizer, head, [text])
            except ValueError as error:
                raise ValueError(f"{one.where}: {error}") from None
        raise
    number_of = {name: number for number, name in enumerate(head.classes)}
    for one, found in zip(labelled, inputs, strict=True):
        if found.cut and not cuts:
            yield None, False
            continue
        flags = _marks(tokenizer, head, one, found.ids, language)
        if head.kind == "values":
            assert isinstance(one.target, float)
            yield _Example(found.ids, flags, [], [(one.target - head.mean) / head.scale], one), found.cut
        elif head.kind == "labels":
            assert isinstance(one.target, tuple)
            yield _Example(found.ids, flags, [int(name in one.target) for name in head.classes], [], one), found.cut
        else:
            yield _Example(found.ids, flags, [number_of[str(one.target)]], [], one), found.cut


def _left_out(head: ClassHead, one: LabelledText) -> int:
    """Characters that the head does not read."""
    read = sides_read(head, one.text if one.second is None else (one.text, one.second))
    return len(one.text) + len(one.second or "") - sum(map(len, read))


def _marks(tokenizer: Tokenizer, head: ClassHead, one: LabelledText, ids: Sequence[int], language: str | None):
    """Where words start and sentences end, of BOS, a text, EOS and perhaps another one with its EOS; u8."""
    flags, begin = np.zeros(len(ids), np.uint8), 1
    for text in sides_read(head, one.text if one.second is None else (one.text, one.second)):
        whole = tokenizer.encode(text)
        stop = begin + next((n for n, id in enumerate(ids[begin:]) if id == tokenizer.eos), len(ids) - begin)
        flags[begin:stop] = marks([text], [whole], tokenizer, language)[: stop - begin]
        begin = stop + 1
    return flags


def _stored(
    number: int, name: str, made: tuple[list[_Example], list[_Example]], head: ClassHead, weights: np.ndarray | None,
    tokenizer: Tokenizer, folder: Path, tally: Mapping[str, int],
) -> Source:  # fmt: skip
    """Writes the tables of one source, and says what it holds."""
    inside, card = f"{number:02d}-labelled", source_of(name)
    splits = {
        split: _written(examples, folder / inside / split, head, weights if split == "train" else None, tokenizer)
        for split, examples in zip(SPLITS, made, strict=True)
    }
    return Source(
        licence=card.licence, attribution=card.attribution, citation=card.citation, language=card.language,
        domain=card.domain, warning=card.warning, folder=inside, share=1.0,
        documents=sum(split["documents"] for split in splits.values()), duplicates=tally.get("duplicates", 0),
        left_out={"documents": tally.get("twins of held-out ones", 0), "bytes": 0},
        labels={} if head.kind == "values" else {head.name: list(head.classes)}, splits=splits, whole=True,
    )  # fmt: skip


def _written(
    examples: Sequence[_Example], folder: Path, head: ClassHead, weights: np.ndarray | None, tokenizer: Tokenizer
) -> Split:
    """The tables of one split, as data/token_store.py reads them, and its texts."""
    folder.mkdir(parents=True)
    of_id_V = np.array(tokenizer.byte_lengths())
    ids = [np.array(example.ids, token_type(tokenizer)) for example in examples]
    sizes = [int(of_id_V[of].sum()) for of in ids]
    (folder / "tokens.bin").write_bytes(b"".join(of.tobytes() for of in ids))
    (folder / "marks.bin").write_bytes(b"".join(example.marks.tobytes() for example in examples))
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum([len(of) for of in ids])]).astype(np.int64))
    np.save(folder / "bytes.npy", np.array(sizes, np.int32))
    np.save(folder / "hashes.npy", np.array([text_hash(of.astype("<u4").tobytes()) for of in ids], np.uint64))
    label_DF = np.array([one.labels for one in examples], np.int32).reshape(len(examples), -1)
    np.save(folder / "labels.npy", label_DF)
    if head.kind == "values":
        np.save(folder / "values.npy", np.array([one.values for one in examples], np.float32))
    if weights is not None:
        place_DF = label_DF if head.kind == "labels" else np.zeros_like(label_DF)
        column_DF = np.arange(label_DF.shape[1])[None] if head.kind == "labels" else label_DF
        np.save(folder / "weights.npy", weights[place_DF, np.broadcast_to(column_DF, label_DF.shape)])
    lines = [dumps(one.text._asdict() | {"document": None}, ensure_ascii=False) for one in examples]
    (folder / TEXTS).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return {"documents": len(examples), "bytes": sum(sizes), "tokens": sum(map(len, ids))}


def _language(name: str) -> str | None:
    return sources.language(name)


def _said(tallies: Mapping[str, Mapping[str, int]]) -> str:
    return "; ".join(f"{count:,} {what}" for tally in tallies.values() for what, count in tally.items() if count)
