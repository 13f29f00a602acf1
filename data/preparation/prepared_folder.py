"""What a prepared folder holds: a table of it, its text, the hash of that, and what xz makes of it. Only reads it."""

import contextlib
import hashlib
import json
import lzma
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from data.description import BY_NUMBER, Description, Source, read_prepared
from data.preparation.holdout import FEWEST_BYTES, SPLITS, WITHIN
from data.preparation.token_flags import LEARNED
from data.preparation.workitems import token_type
from data.rows.mixture import RATE_UNIT, mixture_rates
from gptjax.files.atomic_file import write_whole
from gptjax.files.places import cache_root
from gptjax.files.plain_json import dumps
from gptjax.text.tokenizer import Tokenizer

ALL_BITS = 0xFF  # of a mark
XZ_CONTEXT = 60_000_000  # bytes of training text that xz sees first: what its window of 64 MiB holds


def table(folder: Path) -> Table:
    """What a prepared folder that was just made holds, a line a source."""
    prepared = read_prepared(folder)
    title = f"{folder} · vocabulary {prepared['vocabulary']:,}"
    lines = Table(title=title, min_width=len(title), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    lines.add_column("source", overflow="fold")
    rate = "rate of 1 epoch" if prepared["mixture"].startswith("unimax") else "rate"  # else of any run
    for column in (rate, "documents", "MB", "k tokens", "bytes/token", "duplicates", "left out", "held out", "kB"):
        lines.add_column(column, justify="right", no_wrap=True)
    lines.add_column("licence", no_wrap=True)
    sizes = {name: source["splits"]["train"]["tokens"] for name, source in prepared["sources"].items()}
    shares = {name: source["share"] for name, source in prepared["sources"].items()}
    rates = mixture_rates(prepared["mixture"], shares, sizes, horizon=sum(sizes.values()))  # of a run of one epoch
    for name, source in prepared["sources"].items():
        train, validation = source["splits"]["train"], source["splits"]["validation"]
        total = {key: train[key] + validation[key] for key in train}
        lines.add_row(
            escape(name),
            f"{rates[name] / RATE_UNIT:.0%}",
            f"{source['documents']:,}",
            f"{total['bytes'] / 1e6:,.2f}",
            f"{total['tokens'] / 1e3:,.0f}",
            f"{total['bytes'] / total['tokens']:.2f}",
            f"{source['duplicates']:,}",
            f"{source['left_out']['documents']:,}",
            f"{validation['documents']:,} ({validation['documents'] / total['documents']:.1%})",
            f"{validation['bytes'] / 1e3:,.0f} ({validation['bytes'] / total['bytes']:.1%})",
            source["licence"],
        )
    cautions = [
        f"{name}: {caution}"
        for name, source in prepared["sources"].items()
        for caution in _cautions(source, prepared["share"])
    ]
    lines.caption, lines.caption_style, lines.caption_justify = escape("\n".join(cautions)) or None, "bold", "left"
    return lines


def _cautions(source: Source, share: float) -> Iterator[str]:
    """What a person should know of a prepared source; `share` is what was to be held out."""
    if source["warning"]:
        yield source["warning"]
    train, validation = (source["splits"][split]["bytes"] for split in SPLITS)
    reached = validation / (train + validation)
    if not share / WITHIN <= reached <= share * WITHIN:
        yield f"{reached:.1%} of the bytes are held out, not {share:.1%}: its documents are too long, or left out"
    elif validation < FEWEST_BYTES:
        yield f"only {validation / 1e3:,.0f} kB are held out, for rough figures; data.validation can ask for more"
    if out := source["left_out"]["documents"]:
        left = f"{out:,} documents of {source['left_out']['bytes'] / 1e6:,.2f} MB"
        yield f"{left} don't train, as they hold held-out documents word for word"


def stored_text(folder: Path, source_folder: str, split: str, *, last_bytes: int | None = None) -> Iterator[str]:
    """Decodes the documents of a split, in order; with `last_bytes`, those that begin in the last so many bytes."""
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    of = folder / source_folder / split
    offsets, sizes = np.load(of / "offsets.npy"), np.load(of / "bytes.npy")
    first = 0 if last_bytes is None else int((sizes[::-1].cumsum()[::-1] > last_bytes).sum())
    tokens = np.memmap(of / "tokens.bin", dtype=token_type(tokenizer), mode="r")
    for start, stop in zip(offsets[first:-1], offsets[first + 1 :], strict=True):
        yield tokenizer.decode(tokens[start:stop].tolist())


def content(folder: Path, was: Description) -> str:
    """The hash of a prepared folder's text, to be compared with that of an earlier description: made by its rule.

    Examples were once marked with what is learnt alone; of such a description that is all that is compared.
    """
    now = read_prepared(folder)
    if now["content"] == was["content"] or len(now["sources"]) != len(was["sources"]):
        return now["content"]
    pairs = zip(was["sources"].items(), now["sources"].values(), strict=True)
    described = {name: Source(**{**old, "folder": new["folder"]}) for (name, old), new in pairs}
    hashes = [content_hash(folder, described, was["format"], bits) for bits in (ALL_BITS, LEARNED)]
    return was["content"] if was["content"] in hashes else hashes[0]


def content_hash(done: Path, described: Mapping[str, Source], format: int, bits: int = ALL_BITS) -> str:
    """SHA-256 of the tables that training rows are made of: hashes of texts, offsets, marks and labels.

    Tokens are no part: they follow from text and tokenizer, whose fingerprint is kept beside. Nor are names, dates and
    shares, from format 4 on. `bits`: those of the marks of examples that are looked at.
    """
    sha = hashlib.sha256()
    for name, source in described.items():
        if format <= BY_NUMBER:
            sha.update(f"{name}={source['share']};".encode())
        for table_file in ("hashes.npy", "offsets.npy", "labels.npy", "marks.bin"):
            with (done / source["folder"] / "train" / table_file).open("rb") as file:
                while block := file.read(1 << 20):
                    if table_file == "marks.bin" and source.get("whole"):
                        block = (np.frombuffer(block, np.uint8) & np.uint8(bits)).tobytes()
                    sha.update(block)
        for table_file in ("values.npy", "weights.npy"):  # of labelled texts
            if (path := done / source["folder"] / "train" / table_file).exists():
                sha.update(path.read_bytes())
    return sha.hexdigest()


def xz_figures(folder: Path) -> dict[str, dict[str, float]]:
    """Bits per byte of `xz -9` on each source's validation text: {source: {"alone", "after_training_text"}}.

    `after_training_text` is what the validation text adds to the last 60 MB of training text. This takes a minute or
    two, so that it is kept for the next run on the same text, in the user's cache; the folder is only read.
    """
    described = read_prepared(folder)["sources"]
    with contextlib.suppress(OSError, ValueError):  # nothing is kept, or not whole
        kept = _kept_figures(folder, described)
        return json.loads(kept.read_text(encoding="utf-8"))
    with ThreadPoolExecutor(2) as pool:  # lzma works outside Python's lock
        made = pool.map(lambda source: _xz_figure(folder, source["folder"]), described.values())
        figures = dict(zip(described, made, strict=True))
    with contextlib.suppress(OSError, ValueError):  # nowhere to keep it
        kept = _kept_figures(folder, described)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, dumps(figures))
    return figures


def _kept_figures(folder: Path, described: Mapping[str, Source]) -> Path:
    """Named after the sources and their texts. Raises ValueError where the user has no cache."""
    sha = hashlib.sha256(dumps(list(described)).encode())
    for source in described.values():
        for split in SPLITS:
            sha.update((folder / source["folder"] / split / "hashes.npy").read_bytes())
    return cache_root() / "xz" / f"{sha.hexdigest()[:16]}.json"


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
