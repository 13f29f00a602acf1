"""Turns text into tokenised documents, once: reads the sources, drops duplicates, holds out validation text, trains the
tokenizer on training text and writes token files that any run with the same settings finds again.

    python -m data.prepare --sources chitchat wiki_leads/en=2 --vocabulary 4096
    python -m data.prepare --sources files:~/novels --validation "tail 0.1" --tokenizer characters
    python -m data.prepare --sources tfds:lm1b files:~/notes.jsonl --text-field text

Killed and started again, it goes on where it was. The folder it makes is named after a fingerprint of the settings and
of what was read: a changed file or setting makes another folder, and an old one is never touched.
"""

import bisect
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import re
import secrets
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from data.preparation import holdout, overlap, sources
from data.preparation.holdout import BY_NUMBER, SPLITS, VALIDATION, Plan, sentence_end
from data.preparation.prepared_folder import FORMAT, content_hash, table
from data.preparation.source_files import ours_around
from data.preparation.workitems import (
    Advance,
    Item,
    compare,
    compared,
    document_of,
    finished,
    held_out_end,
    load,
    measure,
    measured,
    sample,
    sampled,
    save_bytes,
    save_plan,
    save_sought,
    tokenise,
)
from data.rows.mixture import RATE_UNIT, mixture_rates
from data.spec import DataSpec
from gptjax.command.console import make_console, print_any_text
from gptjax.command.options import read, told
from gptjax.files.locks import locked
from gptjax.files.places import named
from gptjax.text.tokenizer import Tokenizer, ready_made, train_bpe, train_characters

SAMPLE = 10_000_000  # bytes of training text from which the tokenizer learns


RunAll = Callable[[str, Callable[..., None], Sequence[Item], int | None], None]


def run_here(title: str, function: Callable[[Item, Advance], None], items: Sequence[Item], total: int | None) -> None:
    """Deals with the items one after another, under a bar of `total` bytes; None = nobody knows."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = make_console(sys.stderr)
    hidden = not console.is_terminal  # it would write an empty line there
    with Progress("{task.description}", *columns, console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task(title, total=total)
        for item in items:
            progress.update(task, description=f"{title} {item.name}")
            function(item, lambda count: progress.advance(task, count))


class Begun(NamedTuple):
    """What a run has of its text: when it goes on, it keeps its tokenizer and the rules of what is held out."""

    description: Mapping[str, Any]  # prepared.json as it was
    tokenizer: Tokenizer

    @property
    def format(self) -> int:
        """The rules by which its text was prepared, or would have been by the last gptjax that knew those."""
        return max(BY_NUMBER, self.description["format"])


def begun(run: Path) -> Begun | None:
    """What a run directory says of its text; None before it says anything."""
    if not (run / "model.json").exists():  # written last
        return None
    description = json.loads((run / "data.json").read_text(encoding="utf-8"))
    return Begun(description, Tokenizer.load(run / "tokenizer.json"))


def prepare(
    spec: DataSpec,
    *,
    of_run: Begun | None = None,
    shared: epath.Path | None = None,
    run_all: RunAll = run_here,
    download_config: Any = None,
) -> Path:
    """The folder of prepared documents for a spec; makes it if it is not there yet.

    `of_run`: the tokenizer is that of the run which goes on, though with other rates another would have been learnt.

    The work falls into items that `run_all` may deal out to many machines; then `shared` is a folder that all of them
    see, for the records of the sources and the results of the items, and `download_config` tells TFDS to use them too.

    Raises ValueError if a source cannot be read or is too short.
    """
    for name in spec.rates:
        sources.check(name)
    folder, there = _folder(spec, of_run)
    if there:
        return folder
    spec.prepared.mkdir(parents=True, exist_ok=True)
    with _alone(spec.prepared) as alone:
        folder, there = _folder(spec, of_run)
        if not there:  # another process may just have made it
            # beside another that cannot be kept out, what either leaves unfinished serves nobody else
            partial = folder.with_suffix(".partial" if alone else f".partial-{secrets.token_hex(4)}")
            partial.mkdir(exist_ok=True)
            work = epath.Path(partial.absolute() / "work") if shared is None else shared / folder.name
            store = epath.Path(spec.prepared.absolute() if shared is None else shared) / "corpora"
            with named(partial):
                _make(spec, of_run, work, store, partial / "done", run_all, download_config)
            try:
                (partial / "done").rename(folder)
            except OSError:
                if not (folder / "prepared.json").exists():  # else the other was quicker
                    raise
            shutil.rmtree(partial)
            work.rmtree(missing_ok=True)
            make_console().print(table(folder))
    return folder


def _folder(spec: DataSpec, of_run: Begun | None) -> tuple[Path, bool]:
    """The folder of a spec, and whether it is there: one of an earlier format will do, if not of another tokenizer."""
    formats = (FORMAT, BY_NUMBER) if of_run is None else (of_run.format,)
    for format in formats:
        folder = spec.prepared / fingerprint(spec, format=format)
        if (folder / "prepared.json").exists():
            found = json.loads((folder / "prepared.json").read_text(encoding="utf-8"))
            if of_run is None or not spec.learns or found["tokenizer"] == of_run.tokenizer.fingerprint:
                return folder, True
    folder = spec.prepared / fingerprint(spec, of_run)
    return folder, (folder / "prepared.json").exists()


def fingerprint(spec: DataSpec, of_run: Begun | None = None, *, format: int = FORMAT) -> str:
    """16 hexadecimal digits that differ if the prepared documents would. Reads sizes and versions, not text.

    Raises ValueError if a ready-made tokenizer is not there.
    """
    if of_run is not None:
        format = of_run.format
    if not spec.learns:
        tokens = [ready_made(spec.tokenizer).fingerprint]
    elif of_run is not None:
        tokens = [of_run.tokenizer.fingerprint]
    else:
        tokens = [spec.tokenizer, spec.vocabulary]
    settings = [format, spec.text_field, spec.label_field, spec.validation, *tokens, spec.mixture, spec.shares]
    read = [[name, sources.identity(name)] for name in spec.rates]
    return hashlib.sha256(json.dumps([settings, read]).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Waits until no other process prepares into the folder, and says for whom; yields what `locked` does."""
    lock = folder / ".lock"
    with contextlib.ExitStack() as stack:
        try:
            alone = stack.enter_context(locked(lock, wait=False))
        except BlockingIOError:
            holder = lock.read_text(encoding="utf-8", errors="replace") or "another process"
            print(f"{folder}: {holder} prepares text here; waiting until it is done", file=sys.stderr)
            alone = stack.enter_context(locked(lock))
        lock.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield alone


def _items(spec: DataSpec, work: epath.Path, store: epath.Path, download_config: Any) -> dict[str, list[Item]]:
    """The work items of every source, in the order of its documents."""
    items = {}
    for number, name in enumerate(spec.rates):
        text_field, labels = sources.fields(name, spec.text_field, spec.label_field)
        of_source = {"work": work, "name": name, "source": number, "language": sources.language(name)}
        items[name] = [
            Item(**of_source, number=n, shard=shard, text_field=text_field, labels=labels)
            for n, shard in enumerate(sources.shards(name, store, download_config))
        ]
    return items


def _make(
    spec: DataSpec,
    of_run: Begun | None,
    work: epath.Path,
    store: epath.Path,
    done: Path,
    run_all: RunAll,
    download_config: Any,
) -> None:
    """Fills `done`. What an earlier run finished in `work` is kept: each piece came by one rename."""
    shutil.rmtree(done, ignore_errors=True)
    done.mkdir()
    items = _items(spec, work, store, download_config)
    every_item = [item for of_source in items.values() for item in of_source]
    run_all("reading", measure, every_item, None)
    tables = {name: _measured(of_source) for name, of_source in items.items()}
    format = FORMAT if of_run is None else of_run.format
    by_number = format == BY_NUMBER
    plans = holdout.plans(list(items), [table.rows_J for table in tables.values()], *spec.split, by_number=by_number)
    if not by_number:
        plans = {name: _cut_at_an_end(plan, items[name], tables[name].stops) for name, plan in plans.items()}
        plans = _without_held_out(work, items, tables, plans, run_all)
    text_bytes = sum(plan.bytes for plan in plans.values())
    _check_disk(spec, text_bytes)
    budgets = _budgets(spec, plans)
    for name, plan in plans.items():
        limit_J = _sample_limits(plan, budgets[name][0])
        for item, (first, stop) in zip(items[name], itertools.pairwise(tables[name].stops), strict=True):
            save_plan(item, plan.sliced(first, stop), limit_J[first:stop])
    learnt = of_run.tokenizer if of_run is not None and spec.learns else None
    _write_tokenizer(work / "tokenizer.json", spec, learnt, items, budgets, run_all)
    (done / "tokenizer.json").write_bytes((work / "tokenizer.json").read_bytes())
    tokenizer = Tokenizer.load(done / "tokenizer.json")
    run_all("tokenising", tokenise, every_item, text_bytes)
    described = {}
    for number, (name, plan) in enumerate(plans.items()):
        card = dataclasses.asdict(sources.describe(name, store))
        del card["name"]
        folder = f"{number:02d}-{_file_name(name)}"
        splits = _assemble(items[name], done / folder)
        for split, in_split_J in zip(SPLITS, (plan.in_train_J, plan.in_validation_J), strict=True):
            np.save(done / folder / split / "labels.npy", tables[name].label_JF[in_split_J])
        described[name] = card | {
            "folder": folder,
            "share": dict(spec.shares)[name],
            "documents": plan.documents,
            "duplicates": plan.duplicates,
            "left_out": plan.left_out,
            "labels": tables[name].classes,
            "splits": splits,
        }
    prepared = {
        "format": format,
        "fingerprint": fingerprint(spec, of_run),
        "tokenizer": tokenizer.fingerprint,
        "vocabulary": tokenizer.size,
        "mixture": spec.mixture,
        "share": spec.split[1],
        "content": content_hash(done, described, format),
        "sources": described,
    }
    _write_json(done / "prepared.json", prepared)


def _cut_at_an_end(plan: Plan, items: Sequence[Item], stops: Sequence[int]) -> Plan:
    """The plan with the document that it cuts in two cut where a paragraph, sentence or word ends."""
    if plan.cut is None:
        return plan
    document, at = plan.cut
    of = bisect.bisect_right(stops, document) - 1
    text = document_of(items[of], document - stops[of]).text
    return dataclasses.replace(plan, cut=(document, sentence_end(text, at)))


def _without_held_out(
    work: epath.Path,
    items: Mapping[str, Sequence[Item]],
    tables: Mapping[str, "_Measured"],
    plans: Mapping[str, Plan],
    run_all: RunAll,
) -> dict[str, Plan]:
    """The plans without the training documents that hold a held-out document word for word.

    Raises ValueError where those were written by us, or are all of a source.
    """
    sought = []
    for name, plan in plans.items():
        of_items = [plan.sliced(first, stop) for first, stop in itertools.pairwise(tables[name].stops)]
        sought.append(tables[name].rows_J["print"][plan.split_J == VALIDATION])
        for item, of_item in zip(items[name], of_items, strict=True):
            save_plan(item, of_item, np.zeros(len(of_item.hash_J), np.int64))
            if of_item.cut is not None:
                words = overlap.words_of(held_out_end(item, of_item))
                sought.append(np.array([overlap.fingerprint(words)], overlap.PRINT))
    save_sought(work, np.concatenate(sought))
    every_item = [item for of_source in items.values() for item in of_source]
    run_all("comparing", compare, every_item, sum(int(plan.bytes_J[plan.in_train_J].sum()) for plan in plans.values()))
    found = {}
    for name, plan in plans.items():
        of_items = [compared(item) for item in items[name]]
        for place in (place for _, places in of_items for place in places if name.startswith("files:")):
            if what := ours_around(Path(place)):
                raise ValueError(
                    f"data.sources: {name!r}: {place} lies in {what}, which gptjax wrote, and holds documents word for "
                    "word that are to be held out; leave it out of the sources"
                )
        firsts = zip(of_items, tables[name].stops, strict=False)
        found[name] = plan.without(np.concatenate([numbers + first for (numbers, _), first in firsts]))
        if plan.in_train_J.any() and not found[name].in_train_J.any():
            raise ValueError(
                f"data.sources: {name!r}: each of its {int(plan.in_train_J.sum()):,} training documents holds a "
                "held-out document word for word, and none is left to train on; leave the source out"
            )
    return found


def _file_name(name: str) -> str:
    """A source's name as part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:40]


def _check_disk(spec: DataSpec, text_bytes: int) -> None:
    folder = spec.prepared
    # 3 bytes for a token and its mark, twice (parts, then whole); other tokens are 3 bytes of text or so
    times = 6 if spec.tokenizer in ("bytes", "characters") else 2
    needed = times * text_bytes + 20_000_000
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"{folder.absolute()}: {text_bytes / 1e6:,.0f} MB of text need about {needed / 1e6:,.0f} MB of disk, "
            f"{free / 1e6:,.0f} MB are free; make room, or set data.prepared to a folder on another disk"
        )


class _Measured(NamedTuple):
    """What was measured of a source."""

    rows_J: np.ndarray  # MEASURED
    label_JF: np.ndarray  # i32: class in each label field; -1 = none
    classes: dict[str, list[str]]  # field -> its classes, sorted; held-out documents have a say too
    stops: list[int]  # where each item's documents begin, and where the last one's end


def _measured(items: Sequence[Item]) -> _Measured:
    kept = [measured(item) for item in items]
    fields = items[0].labels
    classes = {field: sorted({name for _, _, names in kept for name in names[f]}) for f, field in enumerate(fields)}
    numbers = [{name: number for number, name in enumerate(names)} for names in classes.values()]
    stops = [0, *itertools.accumulate(len(rows) for rows, _, _ in kept)]
    label_JF = np.empty((stops[-1], len(fields)), np.int32)
    for (_, codes, names), (first, stop) in zip(kept, itertools.pairwise(stops), strict=True):
        for f in range(len(fields)):
            of_code = np.array([*(numbers[f][name] for name in names[f]), -1], np.int32)
            label_JF[first:stop, f] = of_code[codes[:, f]]  # code -1, no label, finds the -1 at the end
    return _Measured(np.concatenate([rows for rows, _, _ in kept]), label_JF, classes, stops)


def vocabulary_bound(spec: DataSpec) -> int:
    """Number of tokens, known before any text is read: that of a ready-made tokenizer, or how many may be learnt."""
    return spec.vocabulary if spec.learns else ready_made(spec.tokenizer).size


def _write_tokenizer(
    path: epath.Path,
    spec: DataSpec,
    learnt: Tokenizer | None,
    items: Mapping[str, Sequence[Item]],
    budgets: Mapping[str, tuple[int, int]],
    run_all: RunAll,
) -> None:
    """Writes the tokenizer of a spec, if it is not there yet: `learnt` before, or now from its text, or ready made.

    A source that is short for its rate is learnt from several times, so that its words count as the rate says.
    """
    if path.exists():
        return
    if learnt is not None:
        tokenizer = learnt
    elif spec.learns:
        run_all("sampling", sample, [item for of_source in items.values() for item in of_source], None)
        times = {name: max(1, round(budget / available)) for name, (budget, available) in budgets.items()}
        texts = ((name, text) for name, of_source in items.items() for item in of_source for text in sampled(item))
        with _learning(spec):
            if spec.tokenizer == "bpe":
                tokenizer = train_bpe((text for name, text in texts for _ in range(times[name])), spec.vocabulary)
            else:
                tokenizer = train_characters((text for _, text in texts), spec.vocabulary)
    else:
        tokenizer = ready_made(spec.tokenizer)
    save_bytes(path, tokenizer.content)


@contextlib.contextmanager
def _learning(spec: DataSpec) -> Iterator[None]:
    """Shows that a tokenizer is learnt, and for how long: nobody knows when it will be done."""
    console = make_console(sys.stderr)
    said = f"learning the tokenizer ({spec.tokenizer}, {spec.vocabulary:,} tokens at most)"
    if not console.is_terminal:
        print(said, file=sys.stderr)
    columns = ("{task.description}", BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(said, total=None)
        yield


def _budgets(spec: DataSpec, plans: Mapping[str, Plan]) -> dict[str, tuple[int, int]]:
    """Source -> (bytes that the tokenizer learns from, `SAMPLE` at most in all; bytes of training text)."""
    available = {name: int(plan.bytes_J[plan.in_train_J].sum()) for name, plan in plans.items()}
    rates = mixture_rates(spec.mixture, dict(spec.shares), available, horizon=sum(available.values()))
    total = min(SAMPLE, max(available[name] * RATE_UNIT // rate for name, rate in rates.items()))
    return {name: (max(1, total * rates[name] // RATE_UNIT), available[name]) for name in plans}


def _sample_limits(plan: Plan, budget: int) -> np.ndarray:
    """How many characters of each document the tokenizer learns from: the first by hash, until there are enough."""
    order = np.argsort(plan.hash_J, kind="stable")
    order = order[plan.in_train_J[order]]
    before = plan.bytes_J[order].cumsum() - plan.bytes_J[order]
    limit_J = np.zeros(len(plan.hash_J), np.int64)
    limit_J[order] = np.maximum(0, budget - before)
    return limit_J


def _assemble(items: Sequence[Item], folder: Path) -> dict[str, dict[str, int]]:
    """Joins the parts of a source in their final form; returns the totals of each split."""
    rows = {split: [np.zeros((0, 3), np.uint64)] for split in SPLITS}
    with contextlib.ExitStack() as stack:
        names = {"validation.text": folder / "validation" / "text.txt"}
        for split in SPLITS:
            (folder / split).mkdir(parents=True)
            names |= {f"{split}.{kind}": folder / split / f"{kind}.bin" for kind in ("tokens", "marks")}
        files = {kind: stack.enter_context(name.open("wb")) for kind, name in names.items()}
        for part in (part for item in items for part in finished(item)):
            arrays = load(part)
            for kind, file in files.items():
                file.write(arrays[kind].data)
            for split in SPLITS:
                rows[split].append(arrays[f"{split}.rows"])
    return {split: _write_tables(np.concatenate(rows[split]), folder / split) for split in SPLITS}


def _write_tables(rows_J3: np.ndarray, folder: Path) -> dict[str, int]:
    tokens_J, bytes_J, hash_J = rows_J3.T
    np.save(folder / "offsets.npy", np.concatenate([[0], tokens_J.cumsum()]).astype(np.int64))
    np.save(folder / "bytes.npy", bytes_J.astype(np.int32))
    np.save(folder / "hashes.npy", np.ascontiguousarray(hash_J))
    return {"documents": len(rows_J3), "bytes": int(bytes_J.sum()), "tokens": int(tokens_J.sum())}


def _write_json(path: Path, value: Any) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    new.rename(path)


def main() -> int:
    """`python -m data.prepare`: prepares, and prints what there is."""
    print_any_text()
    try:
        folder = prepare(read(DataSpec, sys.argv[1:], "python -m data.prepare", about=__doc__))
    except (ValueError, OSError) as error:
        return told(error)
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
