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
import fcntl
import hashlib
import json
import lzma
import os
import re
import shutil
import sys
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from data import holdout, sources
from data.holdout import DROPPED, SPLITS, VALIDATION, Plan
from data.spec import RATE_UNIT, DataSpec
from gptjax.tokenizer import Tokenizer, train_bpe, train_characters

FORMAT = 1
PART = 64_000_000  # bytes of text that are tokenised between two points from which a killed run can go on
BATCH = 2_000_000  # bytes of text that are tokenised at once, on all cores
SAMPLE = 10_000_000  # bytes of training text from which the tokenizer learns
XZ_CONTEXT = 60_000_000  # bytes of training text that xz sees first: what its window of 64 MiB holds


def prepare(spec: DataSpec) -> Path:
    """The folder of prepared documents for a spec; makes it if it is not there yet.

    Raises ValueError if a source cannot be read or is too short.
    """
    for name in spec.rates:
        sources.check(name)
    folder = spec.prepared / fingerprint(spec)
    if (folder / "prepared.json").exists():
        return folder
    spec.prepared.mkdir(parents=True, exist_ok=True)
    with _alone(spec.prepared):
        if not (folder / "prepared.json").exists():  # another process may just have made it
            partial = folder.with_suffix(".partial")
            columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
            with Progress("{task.description}", *columns, console=Console(stderr=True), transient=True) as progress:
                _make(spec, partial, progress)
            (partial / "done").rename(folder)
            shutil.rmtree(partial)
            Console(width=None if sys.stdout.isatty() else 120).print(table(folder))
    return folder


def fingerprint(spec: DataSpec) -> str:
    """16 hexadecimal digits that differ if the prepared documents would. Reads sizes and versions, not text."""
    settings = [FORMAT, spec.text_field, spec.validation, spec.tokenizer, spec.vocabulary, spec.rates]
    read = [[name, sources.identity(name)] for name in spec.rates]
    return hashlib.sha256(json.dumps([settings, read]).encode()).hexdigest()[:16]


def table(folder: Path) -> Table:
    """What a prepared folder holds, a line a source."""
    prepared = json.loads((folder / "prepared.json").read_text(encoding="utf-8"))
    lines = Table(title=f"{folder} · vocabulary {prepared['vocabulary']:,}", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    lines.add_column("source", overflow="fold")
    for column in ("rate", "documents", "MB", "k tokens", "bytes/token", "duplicates", "held out", "kB"):
        lines.add_column(column, justify="right", no_wrap=True)
    lines.add_column("licence", no_wrap=True)
    for name, source in prepared["sources"].items():
        train, validation = source["splits"]["train"], source["splits"]["validation"]
        total = {key: train[key] + validation[key] for key in train}
        lines.add_row(
            escape(name),
            f"{source['rate'] / RATE_UNIT:.0%}",
            f"{total['documents']:,}",
            f"{total['bytes'] / 1e6:,.2f}",
            f"{total['tokens'] / 1e3:,.0f}",
            f"{total['bytes'] / total['tokens']:.2f}",
            f"{source['duplicates']:,}",
            f"{validation['documents']:,}",
            f"{validation['bytes'] / 1e3:,.0f}",
            source["licence"],
        )
    return lines


def xz_figures(folder: Path) -> dict[str, dict[str, float]]:
    """Bits per byte of `xz -9` on each source's validation text: {source: {"alone", "after_training_text"}}.

    `after_training_text` is what the validation text adds to the last 60 MB of training text. Computed once and kept
    in `xz.json`.
    """
    kept = folder / "xz.json"
    if not kept.exists():
        prepared = json.loads((folder / "prepared.json").read_text(encoding="utf-8"))
        with ThreadPoolExecutor(2) as pool:  # lzma works outside Python's lock
            figures = pool.map(lambda source: _xz_figure(folder, source["folder"]), prepared["sources"].values())
            _write_json(kept, dict(zip(prepared["sources"], figures, strict=True)))
    return json.loads(kept.read_text(encoding="utf-8"))


def stored_text(folder: Path, source_folder: str, split: str, *, last_bytes: int | None = None) -> Iterator[str]:
    """Decodes the documents of a split, in order; with `last_bytes`, those that begin in the last so many bytes."""
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    of = folder / source_folder / split
    offsets, sizes = np.load(of / "offsets.npy"), np.load(of / "bytes.npy")
    first = 0 if last_bytes is None else int((sizes[::-1].cumsum()[::-1] > last_bytes).sum())
    tokens = np.memmap(of / "tokens.bin", dtype=_token_type(tokenizer), mode="r")
    for start, stop in zip(offsets[first:-1], offsets[first + 1 :], strict=True):
        yield tokenizer.decode(tokens[start:stop].tolist())


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits until no other process prepares into the folder."""
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)  # writable, or NFS refuses to lock it
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _make(spec: DataSpec, partial: Path, progress: Progress) -> None:
    """Fills `partial/done`. What an earlier run finished in `partial` is kept: each piece came by one rename."""
    partial.mkdir(exist_ok=True)
    store = spec.prepared / "corpora"
    plans = _plans(spec, partial, store, progress)
    _check_disk(spec.prepared, sum(plan.bytes for plan in plans.values()))
    if not (partial / "tokenizer.json").exists():
        train = train_bpe if spec.tokenizer == "bpe" else train_characters
        sample = _sample(spec, plans, store, progress, repeat=spec.tokenizer == "bpe")  # characters are only collected
        train(sample, spec.vocabulary).save(partial / "tokenizer.json.new")
        (partial / "tokenizer.json.new").rename(partial / "tokenizer.json")
    tokenizer = Tokenizer.load(partial / "tokenizer.json")
    folders = {name: f"{number:02d}-{_file_name(name)}" for number, name in enumerate(plans)}
    for name, plan in plans.items():
        _tokenise(name, spec.text_field, store, plan, tokenizer, partial / folders[name], progress)
    done = partial / "done"
    shutil.rmtree(done, ignore_errors=True)
    done.mkdir()
    described = {}
    for name, plan in plans.items():
        card = dataclasses.asdict(sources.describe(name, store))
        del card["name"]
        splits = {split: _assemble(partial / folders[name], done / folders[name] / split, split) for split in SPLITS}
        described[name] = card | {
            "folder": folders[name],
            "rate": spec.rates[name],
            "duplicates": plan.duplicates,
            "splits": splits,
        }
    shutil.copyfile(partial / "tokenizer.json", done / "tokenizer.json")
    prepared = {
        "format": FORMAT,
        "fingerprint": fingerprint(spec),
        "tokenizer": tokenizer.fingerprint,
        "vocabulary": tokenizer.size,
        "content": _content(done, described),
        "sources": described,
    }
    _write_json(done / "prepared.json", prepared)


def _content(done: Path, described: dict[str, Any]) -> str:
    """SHA-256 of what rows are made of: rates, and the hash and place of every document; a file's date is no part."""
    sha = hashlib.sha256()
    for name, source in described.items():
        sha.update(f"{name}={source['rate']};".encode())
        for table_file in ("hashes.npy", "offsets.npy"):
            sha.update((done / source["folder"] / "train" / table_file).read_bytes())
    return sha.hexdigest()


def _file_name(name: str) -> str:
    """A source's name as part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-")[:40]


def _check_disk(folder: Path, text_bytes: int) -> None:
    needed = 2 * text_bytes + 20_000_000  # tokens twice (parts, then whole), and validation text
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"{folder.absolute()}: {text_bytes / 1e6:,.0f} MB of text need about {needed / 1e6:,.0f} MB of disk, "
            f"{free / 1e6:,.0f} MB are free; make room, or set data.prepared to a folder on another disk"
        )


def _plans(spec: DataSpec, partial: Path, store: Path, progress: Progress) -> dict[str, Plan]:
    """Reads every document once and decides where it goes."""
    measured = []
    for number, name in enumerate(spec.rates):
        kept = partial / f"measured-{number:02d}.npy"
        if not kept.exists():
            task = progress.add_task(f"reading {name}", total=None)
            rows = array("Q")  # hash, bytes, characters of every document
            for text in sources.documents(name, spec.text_field, store):
                raw = text.encode("utf-8")
                rows.extend((holdout.text_hash(raw), len(raw), len(text)))
                progress.advance(task, len(raw))
            progress.remove_task(task)
            with kept.with_suffix(".new").open("wb") as file:
                np.save(file, np.frombuffer(rows, dtype=np.uint64).reshape(-1, 3))
            kept.with_suffix(".new").rename(kept)
        measured.append(np.load(kept))
    return holdout.plans(list(spec.rates), measured, *spec.split)


def _sample(spec: DataSpec, plans: dict[str, Plan], store: Path, progress: Progress, *, repeat: bool) -> Iterator[str]:
    """Training text for the tokenizer: at most `SAMPLE` bytes, shared out by rate.

    With `repeat`, a source that is short for its rate comes several times, so that its words count as the rate says.
    """
    available = {name: int(plan.bytes_J[plan.in_train_J].sum()) for name, plan in plans.items()}
    total = min(SAMPLE, max(available[name] * RATE_UNIT // rate for name, rate in spec.rates.items()))
    task = progress.add_task("learning the tokenizer", total=total)
    for name, plan in plans.items():
        budget = max(1, total * spec.rates[name] // RATE_UNIT)
        order = np.argsort(plan.hash_J, kind="stable")
        order = order[plan.in_train_J[order]]
        before = plan.bytes_J[order].cumsum() - plan.bytes_J[order]
        chosen = before < budget
        limits = dict(zip(order[chosen].tolist(), (budget - before[chosen]).tolist(), strict=True))
        times = max(1, round(budget / available[name])) if repeat else 1
        for j, text in enumerate(sources.documents(name, spec.text_field, store)):
            if j in limits:
                _, piece, _, _ = next(plan.pieces(j, text))  # the first piece of a document that is cut
                yield from [piece[: limits[j]]] * times
                progress.advance(task, min(len(piece), limits[j]) * times)
    progress.remove_task(task)


def _tokenise(
    name: str, text_field: str, store: Path, plan: Plan, tokenizer: Tokenizer, folder: Path, progress: Progress
) -> None:
    """Writes the parts of a source that are not there yet."""
    part_J = plan.parts(PART)
    wanted_J = plan.split_J != DROPPED
    task = progress.add_task(f"tokenising {name}", total=plan.bytes)
    folder.mkdir(exist_ok=True)
    for part in np.unique(part_J[wanted_J]).tolist():
        if (folder / f"{part:05d}").exists():
            in_part_J = wanted_J & (part_J == part)
            progress.advance(task, int(plan.bytes_J[in_part_J].sum()))
            wanted_J &= ~in_part_J
    remaining, writer = int(wanted_J.sum()), None
    if not remaining:
        return
    for j, text in enumerate(sources.documents(name, text_field, store)):
        if not wanted_J[j]:
            continue
        raw = text.encode("utf-8")
        if holdout.text_hash(raw) != plan.hash_J[j]:
            break
        if writer is None or writer.part != part_J[j]:
            if writer is not None:
                writer.close()
            writer = _Writer(folder, int(part_J[j]), tokenizer)
        for piece in plan.pieces(j, text):
            writer.add(*piece)
        progress.advance(task, len(raw))
        remaining -= 1
        if not remaining:
            writer.close()
            progress.remove_task(task)
            return
    raise ValueError(f"data.sources: {name!r} changed while it was read; start again")


class _Writer:
    """One part of a source: per split a file of tokens, and arrays of each document's tokens, bytes and hash."""

    def __init__(self, folder: Path, part: int, tokenizer: Tokenizer):
        self.part = part
        self._tokenizer = tokenizer
        self._final, self._folder = folder / f"{part:05d}", folder / f"{part:05d}.new"
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()
        self._tokens = [(self._folder / f"{split}.tokens.bin").open("wb") for split in SPLITS]
        self._text = (self._folder / "validation.text.txt").open("wb")
        self._rows = [array("Q") for _ in SPLITS]  # tokens, bytes, hash of every document
        self._waiting: list[tuple[int, str, bool, bool]] = []
        self._waiting_bytes = 0

    def add(self, split: int, text: str, begins: bool, ends: bool) -> None:
        self._waiting.append((split, text, begins, ends))
        self._waiting_bytes += len(text.encode("utf-8"))
        if self._waiting_bytes >= BATCH:
            self._flush()

    def close(self) -> None:
        self._flush()
        for split, tokens, rows in zip(SPLITS, self._tokens, self._rows, strict=True):
            tokens.close()
            np.save(self._folder / f"{split}.rows.npy", np.frombuffer(rows, dtype=np.uint64).reshape(-1, 3))
        self._text.close()
        self._folder.rename(self._final)

    def _flush(self) -> None:
        bos, eos, dtype = self._tokenizer.bos, self._tokenizer.eos, _token_type(self._tokenizer)
        encoded = self._tokenizer.encode_batch([text for _, text, _, _ in self._waiting])
        for (split, text, begins, ends), ids in zip(self._waiting, encoded, strict=True):
            ids_T = np.array([bos] * begins + ids + [eos] * ends, dtype=dtype)
            ids_T.tofile(self._tokens[split])
            raw = text.encode("utf-8")
            self._rows[split].extend((len(ids_T), len(raw), holdout.text_hash(raw)))
            if split == VALIDATION:
                self._text.write(raw)
        self._waiting, self._waiting_bytes = [], 0


def _assemble(parts: Path, folder: Path, split: str) -> dict[str, int]:
    """Joins a split's parts in their final form; returns its totals."""
    folder.mkdir(parents=True)
    # a name of digits alone: a part that was not finished ends in .new
    finished = sorted(part for part in parts.iterdir() if part.name.isdigit())
    _join([part / f"{split}.tokens.bin" for part in finished], folder / "tokens.bin")
    if split == SPLITS[VALIDATION]:
        _join([part / "validation.text.txt" for part in finished], folder / "text.txt")
    rows_J3 = np.concatenate([np.load(part / f"{split}.rows.npy") for part in finished])
    tokens_J, bytes_J, hash_J = rows_J3.T
    np.save(folder / "offsets.npy", np.concatenate([[0], tokens_J.cumsum()]).astype(np.int64))
    np.save(folder / "bytes.npy", bytes_J.astype(np.int32))
    np.save(folder / "hashes.npy", np.ascontiguousarray(hash_J))
    return {"documents": len(rows_J3), "bytes": int(bytes_J.sum()), "tokens": int(tokens_J.sum())}


def _join(files: Sequence[Path], joined: Path) -> None:
    with joined.open("wb") as whole:
        for file in files:
            with file.open("rb") as part:
                shutil.copyfileobj(part, whole, 1 << 20)


def _token_type(tokenizer: Tokenizer) -> np.dtype[Any]:
    return np.dtype("<u2" if tokenizer.size <= 1 << 16 else "<u4")


def _xz_figure(folder: Path, source_folder: str) -> dict[str, float]:
    validation = (folder / source_folder / "validation" / "text.txt").read_bytes()
    alone, before, after = (lzma.LZMACompressor(preset=9) for _ in range(3))
    before_size = after_size = 0
    for text in stored_text(folder, source_folder, "train", last_bytes=XZ_CONTEXT):
        before_size += len(before.compress(text.encode("utf-8")))
        after_size += len(after.compress(text.encode("utf-8")))
    before_size += len(before.flush())
    after_size += len(after.compress(validation)) + len(after.flush())
    alone_size = len(alone.compress(validation)) + len(alone.flush())
    bits_per_byte = 8 / len(validation)
    return {"alone": alone_size * bits_per_byte, "after_training_text": (after_size - before_size) * bits_per_byte}


def _write_json(path: Path, value: Any) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    new.rename(path)


def main() -> int:
    """`python -m data.prepare`: prepares, and prints what there is."""
    import tyro

    try:
        folder = prepare(tyro.cli(DataSpec, prog="python -m data.prepare", description=__doc__))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
