"""Turns text into tokenised documents, once: reads the sources, drops duplicates, holds out validation text, trains the
tokenizer on training text and writes token files that any run with the same settings finds again.

    python -m data.prepare --sources chitchat wiki_leads/en=2 --vocabulary 4096
    python -m data.prepare --sources files:~/novels --validation "tail 0.1" --tokenizer characters
    python -m data.prepare --sources tfds:lm1b files:~/notes.jsonl --text-field text

Killed and started again, it goes on where it was. The folder it makes is named after a fingerprint of the settings and
of what was read: a changed file or setting makes another folder, and an old one is never touched.
"""

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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from data.description import (
    BY_NUMBER,
    FORMAT,
    FORMATS,
    NAME,
    Description,
    Source,
    is_prepared,
    read_description,
    read_prepared,
    write_description,
)
from data.preparation import holdout, sources
from data.preparation.assembling import assemble
from data.preparation.holdout import SPLITS
from data.preparation.learning import budgets_of, sample_limits, write_tokenizer
from data.preparation.prepared_folder import content_hash, table
from data.preparation.splitting import cut_at_an_end, measured_of, without_held_out
from data.preparation.text_on_bucket import bring, check_keeps, keep
from data.preparation.workitems import Advance, Item, RunAll, measure, save_plan, tokenise
from data.spec import DataSpec
from gptjax.command.console import make_console, print_any_text
from gptjax.command.options import print_mistake, read
from gptjax.files.locks import locked
from gptjax.files.places import named
from gptjax.text.tokenizer import Tokenizer, ready_made


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

    description: Description  # prepared.json as it was
    tokenizer: Tokenizer

    @property
    def format(self) -> int:
        """The rules by which its text was prepared, or would have been by the last gptjax that knew those."""
        return max(BY_NUMBER, self.description["format"])


def begun(run: Path) -> Begun | None:
    """What a run directory says of its text; None before it says anything."""
    if not (run / "model.json").exists():  # written last
        return None
    return Begun(read_description(run / "data.json"), Tokenizer.load(run / "tokenizer.json"))


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
    _bring(spec, of_run)
    folder, there = _folder(spec, of_run)
    if there:
        return keep(folder)
    check_keeps(spec.prepared)
    spec.prepared.mkdir(parents=True, exist_ok=True)
    with kept_out(spec.prepared) as alone:
        for name in spec.rates:
            sources.make_records(name, download_config)
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
                if not is_prepared(folder):  # else the other was quicker
                    raise
            shutil.rmtree(partial)
            work.rmtree(missing_ok=True)
            make_console().print(table(folder))
    return keep(folder)


def _bring(spec: DataSpec, of_run: Begun | None) -> None:
    """What the bucket has that would serve, where prepared text lies on one: see `_folder`."""
    read = [name for name in spec.rates if name.startswith("tfds:")]
    records = bool(read) and not any(sources.newest_record(name) for name in read)
    bring(
        spec.prepared,
        {fingerprint(spec, of_run), *(fingerprint(spec, format=format) for format in _serving(of_run))},
        without_records=fingerprint(spec, of_run, records=False) if records else None,
    )


def _folder(spec: DataSpec, of_run: Begun | None) -> tuple[Path, bool]:
    """The folder of a spec, and whether it is there: one of an earlier format will do, if not of another tokenizer."""
    for format in _serving(of_run):
        for folder in (spec.prepared / fingerprint(spec, format=format), *_of_other_records(spec, format)):
            if is_prepared(folder):
                held = read_prepared(folder)["tokenizer"]
                if of_run is None or not spec.learns or held == of_run.tokenizer.fingerprint:
                    return folder, True
    folder = spec.prepared / fingerprint(spec, of_run)
    return folder, is_prepared(folder)


def _serving(of_run: Begun | None) -> Sequence[int]:
    """Formats of prepared text that will do, the best first."""
    return FORMATS if of_run is None else (of_run.format,)


def _of_other_records(spec: DataSpec, format: int) -> Iterator[Path]:
    """Folders of a spec with `tfds:` sources that serve though they are not named after the records that are here.

    Those of records that are here no more; and one that an older gptjax made, which did not know of records, if they
    have not been written anew since.
    """
    times = [sources.newest_record(name) for name in spec.rates if name.startswith("tfds:")]
    if not times:
        return
    name = fingerprint(spec, format=format, records=False)
    before = spec.prepared / name
    if is_prepared(before) and max(time or 0 for time in times) <= (before / NAME).stat().st_mtime:
        yield before
    if not any(times):
        for path in spec.prepared.glob(f"*/{NAME}"):
            with contextlib.suppress(ValueError):  # somebody else's, or of a later gptjax
                if read_description(path).get("without_records") == name:
                    yield path.parent


def fingerprint(spec: DataSpec, of_run: Begun | None = None, *, format: int = FORMAT, records: bool = True) -> str:
    """16 hexadecimal digits that differ if the prepared documents would. Reads sizes and versions, not text.

    `records`: whether those of `tfds:` sources, which must be here, are part of it.

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
    identity = sources.identity if records else sources.identity_without_records
    read = [[name, identity(name)] for name in spec.rates]
    return hashlib.sha256(json.dumps([settings, read]).encode()).hexdigest()[:16]


@contextlib.contextmanager
def kept_out(folder: Path) -> Iterator[bool]:
    """Keeps other processes from preparing into the folder, waits for one that does, and says for whom; yields what
    `locked` does."""
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
    """Fills `done` in three passes over the text: it is measured, compared with what is held out, and tokenised.

    Between them it is decided, on what was measured alone, where each document goes. What an earlier run finished in
    `work` is kept: each piece came by one rename.
    """
    shutil.rmtree(done, ignore_errors=True)
    done.mkdir()
    items = _items(spec, work, store, download_config)
    every_item = [item for of_source in items.values() for item in of_source]
    run_all("reading", measure, every_item, None)
    tables = {name: measured_of(of_source) for name, of_source in items.items()}
    format = FORMAT if of_run is None else of_run.format
    by_number = format == BY_NUMBER
    plans = holdout.plans(list(items), [table.rows_J for table in tables.values()], *spec.split, by_number=by_number)
    if not by_number:
        plans = {name: cut_at_an_end(plan, items[name], tables[name].stops) for name, plan in plans.items()}
        plans = without_held_out(work, items, tables, plans, run_all)
    text_bytes = sum(plan.bytes for plan in plans.values())
    _check_disk(spec, text_bytes)
    budgets = budgets_of(spec, plans)
    for name, plan in plans.items():
        limit_J = sample_limits(plan, budgets[name][0])
        for item, (first, stop) in zip(items[name], itertools.pairwise(tables[name].stops), strict=True):
            save_plan(item, plan.sliced(first, stop), limit_J[first:stop])
    learnt = of_run.tokenizer if of_run is not None and spec.learns else None
    write_tokenizer(work / "tokenizer.json", spec, learnt, items, budgets, run_all)
    (done / "tokenizer.json").write_bytes((work / "tokenizer.json").read_bytes())
    tokenizer = Tokenizer.load(done / "tokenizer.json")
    run_all("tokenising", tokenise, every_item, text_bytes)
    described: dict[str, Source] = {}
    for number, (name, plan) in enumerate(plans.items()):
        folder = f"{number:02d}-{_file_name(name)}"
        splits = assemble(items[name], done / folder)
        for split, in_split_J in zip(SPLITS, (plan.in_train_J, plan.in_validation_J), strict=True):
            np.save(done / folder / split / "labels.npy", tables[name].label_JF[in_split_J])
        card = dataclasses.asdict(sources.describe(name, store))
        del card["name"]
        described[name] = Source(
            **card, folder=folder, share=dict(spec.shares)[name], documents=plan.documents,
            duplicates=plan.duplicates, left_out=plan.left_out, labels=tables[name].classes, splits=splits,
        )  # fmt: skip
    prepared = Description(
        format=format, fingerprint=fingerprint(spec, of_run), tokenizer=tokenizer.fingerprint,
        vocabulary=tokenizer.size, mixture=spec.mixture, share=spec.split[1],
        content=content_hash(done, described, format), sources=described,
    )  # fmt: skip
    if any(name.startswith("tfds:") for name in spec.rates):
        prepared["without_records"] = fingerprint(spec, of_run, records=False)
    write_description(done, prepared)


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


def vocabulary_bound(spec: DataSpec) -> int:
    """Number of tokens, known before any text is read: that of a ready-made tokenizer, or how many may be learnt."""
    return spec.vocabulary if spec.learns else ready_made(spec.tokenizer).size


def main() -> int:
    """`python -m data.prepare`: prepares, and prints what there is."""
    print_any_text()
    try:
        folder = prepare(read(DataSpec, sys.argv[1:], "python -m data.prepare", about=__doc__))
    except (ValueError, OSError) as error:
        return print_mistake(error)
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
