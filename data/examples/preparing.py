"""Conversations to a prepared folder, once: read, checked, split, rendered by the template that talks, stored whole.

The folder is as `data.prepare` makes them, and rows are read from it alike; its documents are examples, and the tokens
that are to be learnt are marked. It may name running text of another prepared folder beside, to be replayed.
"""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.description import FORMAT, Source, Split, is_prepared, read_prepared, write_description
from data.examples.choosing import DUPLICATE, TWIN, VALIDATION, sides, told
from data.examples.dialogues import Rejected, check, examples, form_of, source_of
from data.examples.example_spec import ExamplesSpec
from data.examples.fitting import Fitter, Left
from data.examples.forms import Conversation
from data.preparation import sources
from data.preparation.holdout import SPLITS, text_hash
from data.preparation.prepared_folder import content_hash
from data.preparation.text_on_bucket import bring, check_keeps, keep
from data.preparation.token_flags import ASKED, ENCODED, LEARNED, word_marks
from data.preparation.workitems import token_type
from data.prepare import kept_out
from data.rows.mixture import RATE_UNIT, mixture_rates
from data.token_store import TokenStore
from gptjax.command.progress import track
from gptjax.files.atomic_folder import appearing
from gptjax.files.plain_json import dumps
from gptjax.inference.generation_config import GenerationConfig
from gptjax.inference.learned_spans import ConversationEncoder
from gptjax.text.tokenizer import Tokenizer

TALLIES, TALKS, FORMS = "tallies.json", "conversations.jsonl", "forms.json"
EXAMPLES_FORMAT = 2
MARKED_AT_ONCE = 1000  # examples


class Talks(NamedTuple):
    """What examples are rendered with: the tokenizer, and how the model that learns them will talk."""

    tokenizer: Tokenizer
    generation_config: GenerationConfig


def prepare_examples(
    spec: ExamplesSpec, talks: Talks, T: int, root: Path, *, running: Path | None, replay: float
) -> Path:
    """The prepared folder of a spec, below `root`; makes it if it is not there yet.

    `running`: prepared text of the base, None = there is none. Conversations that were held out in it are held out
    here; a share `replay` of the rows reads it.

    Raises ValueError where a source cannot be read, a record is no conversation, or nothing is left to learn.
    """
    for name in spec.shares:
        check(name)
        sources.make_records(name)
    folder = root / fingerprint(spec, talks, T, running, replay)
    return made_once(folder, lambda aside: _make(spec, talks, T, aside, running, replay))


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """The prepared folder; if it is not there yet, `make` writes it aside while other processes are kept out."""
    bring(folder.parent, [folder.name])
    if is_prepared(folder):
        return keep(folder)
    check_keeps(folder.parent)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with kept_out(folder.parent):
        if not is_prepared(folder):  # another process may just have made it
            with appearing(folder) as (aside, appear):
                make(aside)
                appear()
    return keep(folder)


def fingerprint(spec: ExamplesSpec, talks: Talks, T: int, running: Path | None, replay: float) -> str:
    """16 hexadecimal digits that differ if the prepared examples would; reads sizes and versions, not text."""
    config = talks.generation_config
    settings = [
        EXAMPLES_FORMAT, FORMAT, list(spec.sources), spec.form, list(spec.columns), spec.learn, spec.bad, spec.too_long,
        spec.held_out, spec.prefix, T, config.chat_template, dict(config.names), sorted(config.ends),
        talks.tokenizer.fingerprint, running and running.name, replay,
    ]  # fmt: skip
    read = [[name, sources.identity(name)] for name in spec.shares]
    return hashlib.sha256(json.dumps([settings, read]).encode()).hexdigest()[:16]


class Example(NamedTuple):
    """Token ids of whole turns, which of them are to be learnt, and which are of what a user says."""

    ids: list[int]
    learned: list[bool]
    asked: list[bool]
    key: int  # hash of the ids


def _make(spec: ExamplesSpec, talks: Talks, T: int, folder: Path, running: Path | None, replay: float) -> None:
    tallies = {name: Counter[str]() for name in spec.shares}
    read = [(name, one) for name in spec.shares for one in track(_read(name, spec, tallies[name]), f"reading {name}")]
    told_E = [told(name, conversation) for name, conversation in read]
    side_E = sides(told_E, spec.held_out, held_before(running))
    fitter = Fitter(ConversationEncoder(*talks), talks.tokenizer, T, spec.too_long == "cut")
    made: dict[str, tuple[list[Example], list[Example]]] = {name: ([], []) for name in spec.shares}
    kept_talks: dict[str, list[str]] = {name: [] for name in spec.shares}
    fitted = track(zip(read, side_E.tolist(), strict=True), "writing examples", len(read))
    for (name, conversation), side in fitted:
        if side in (DUPLICATE, TWIN):
            tallies[name]["duplicates" if side == DUPLICATE else "twins of held-out ones"] += 1
            continue
        of_side = made[name][side == VALIDATION]
        some = _fit(fitter, conversation, of_side, tallies[name])
        if side == VALIDATION and some:
            kept_talks[name].append(_as_line(conversation))
    described = {
        name: _stored(number, name, made[name], kept_talks[name], talks.tokenizer, spec.prefix, folder, tallies[name])
        for number, name in enumerate(spec.shares)
    }
    _check_some_left(described, tallies)
    talks.tokenizer.save(folder / "tokenizer.json")
    share_out(described, spec.shares, running, replay)
    forms = {name: form_of(name, spec.form, spec.where) for name in spec.shares}
    (folder / FORMS).write_text(dumps(forms, indent=1))
    (folder / TALLIES).write_text(dumps({name: dict(tally) for name, tally in tallies.items()}, indent=1))
    write_description(folder, {
        "format": FORMAT, "fingerprint": folder.name, "tokenizer": talks.tokenizer.fingerprint,
        "vocabulary": talks.tokenizer.size, "mixture": "rates", "share": 0.1,
        "content": content_hash(folder, described, FORMAT), "sources": described,
    })  # fmt: skip


def _read(name: str, spec: ExamplesSpec, tally: Counter[str]) -> Iterator[Conversation]:
    for one in examples(name, form=spec.form, columns=spec.where, learn=spec.learn, bad=spec.bad):
        tally["read"] += 1
        if isinstance(one, Rejected):
            tally[f"dropped: {one.reason}"] += 1
        else:
            yield one


def _fit(fitter: Fitter, conversation: Conversation, examples: list[Example], tally: Counter[str]) -> bool:
    """Appends the examples of a conversation, and counts them; whether there is one."""
    pieces = 0
    for found in fitter.examples(conversation.messages):
        if isinstance(found, Left):
            tally[f"dropped: {found.reason}"] += 1
            continue
        pieces += 1
        examples.append(Example(*found, text_hash(np.array(found.ids, "<u4").tobytes())))
        tally["tokens"] += len(found.ids)
        tally["learned tokens"] += sum(found.learned)
    tally["kept"] += pieces > 0
    tally["cut between exchanges"] += pieces > 1
    tally["examples"] += pieces
    return pieces > 0


def _as_line(conversation: Conversation) -> str:
    messages = [message._asdict() for message in conversation.messages]
    return dumps({"messages": messages, "where": conversation.where}, ensure_ascii=False)


def held_before(running: Path | None) -> dict[str, frozenset[int]]:
    """Of every source of running text, hashes of what was held out of it."""
    if running is None:
        return {}
    described = read_prepared(running)["sources"]
    return {
        name: frozenset(np.load(running / source["folder"] / "validation" / "hashes.npy").tolist())
        for name, source in described.items()
    }


def _stored(
    number: int, name: str, made: tuple[list[Example], list[Example]], talks: Sequence[str], tokenizer: Tokenizer,
    prefix: bool, folder: Path, tally: Mapping[str, int],
) -> Source:  # fmt: skip
    """Writes the tables of one source, and says what it holds."""
    inside = f"{number:02d}-examples"
    splits = {
        split: _written(examples, folder / inside / split, tokenizer, prefix)
        for split, examples in zip(SPLITS, made, strict=True)
    }
    (folder / inside / "validation" / TALKS).write_text("".join(f"{line}\n" for line in talks), encoding="utf-8")
    card = source_of(name)
    return Source(
        licence=card.licence, attribution=card.attribution, citation=card.citation, language=card.language,
        domain=card.domain, warning=card.warning, folder=inside, share=1.0,
        documents=sum(split["documents"] for split in splits.values()), duplicates=tally.get("duplicates", 0),
        left_out={"documents": tally.get("twins of held-out ones", 0), "bytes": 0}, labels={}, splits=splits,
        whole=True,
    )  # fmt: skip


def _written(examples: Sequence[Example], folder: Path, tokenizer: Tokenizer, prefix: bool) -> Split:
    """The tables of one split, as data/token_store.py reads them; `prefix`: what stands before answers is encoded."""
    folder.mkdir(parents=True)
    of_id_V = np.array(tokenizer.byte_lengths())
    ids = [np.array(example.ids, token_type(tokenizer)) for example in examples]
    sizes = [int(of_id_V[of].sum()) for of in ids]
    with (folder / "tokens.bin").open("wb") as tokens, (folder / "marks.bin").open("wb") as marks:
        for of in ids:
            tokens.write(of.tobytes())
        for some in itertools.batched(examples, MARKED_AT_ONCE):
            mark_T = word_marks([example.ids for example in some], tokenizer)
            mark_T |= np.concatenate([example.learned for example in some]).astype(np.uint8) * LEARNED
            mark_T |= np.concatenate([example.asked for example in some]).astype(np.uint8) * ASKED
            if prefix:
                mark_T |= np.concatenate([np.cumsum(example.learned) == 0 for example in some]) * np.uint8(ENCODED)
            marks.write(mark_T.tobytes())
    np.save(folder / "offsets.npy", np.concatenate([[0], np.cumsum([len(of) for of in ids])]).astype(np.int64))
    np.save(folder / "bytes.npy", np.array(sizes, np.int32))
    np.save(folder / "hashes.npy", np.array([example.key for example in examples], np.uint64))
    np.save(folder / "labels.npy", np.zeros((len(examples), 0), np.int32))
    return {"documents": len(examples), "bytes": sum(sizes), "tokens": sum(map(len, ids))}


def _check_some_left(described: Mapping[str, Source], tallies: Mapping[str, Mapping[str, int]]) -> None:
    for name, source in described.items():
        for split in SPLITS:
            if not source["splits"][split]["documents"]:
                too_long = any("longer" in reason for reason in tallies[name])
                remedy = "make rows longer (--examples.length)" if too_long else "give it more conversations"
                raise ValueError(
                    f"examples.sources: {name!r}: nothing is left {'to learn' if split == 'train' else 'to measure by'}"
                    f" ({'; '.join(lines(tallies[name]))}); {remedy}, or leave it out. What answers one question is "
                    "either learnt or measured by, and twice the same is one"
                )


def share_out(
    described: dict[str, Source], written: Mapping[str, float | None], running: Path | None, replay: float
) -> None:
    """Gives every source its share of the rows, and adds the running text."""
    tokens = {name: source["splits"]["train"]["tokens"] for name, source in described.items()}
    for name, source in described.items():
        source["share"] = (1 - replay) * (tokens[name] / sum(tokens.values()))
    if any(share is not None for share in written.values()):
        total = sum(share or 1.0 for share in written.values())
        for name, share in written.items():
            described[name]["share"] = (1 - replay) * (share or 1.0) / total
    if replay:
        assert running is not None
        beside = read_prepared(running)["sources"]
        folders = {name: running / source["folder"] / "train" for name, source in beside.items()}
        sizes = {name: len(TokenStore(folder).tokens) for name, folder in folders.items()}
        shares = {name: source["share"] for name, source in beside.items()}
        rates = mixture_rates(read_prepared(running)["mixture"], shares, sizes, horizon=sum(sizes.values()))
        for name, source in beside.items():
            called = name if name not in described else f"{name} as running text"
            folder = str(Path("..") / running.name / source["folder"])
            described[called] = {**source, "folder": folder, "share": replay * rates[name] / RATE_UNIT}


def lines(tally: Mapping[str, int]) -> list[str]:
    """What became of the conversations of a source, for people."""
    return [f"{count:,} {what}" for what, count in tally.items() if count]


def tallies_of(folder: Path) -> dict[str, dict[str, Any]]:
    """What `prepare_examples` counted."""
    return json.loads((folder / TALLIES).read_text(encoding="utf-8"))


def forms_of(folder: Path) -> dict[str, str | None]:
    """The form of the records of each source; None of a corpus of ours, and nothing of other folders."""
    file = folder / FORMS
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
