"""The parts of a source that were tokenised one by one, joined in their final form."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.description import Split
from data.preparation.holdout import SPLITS
from data.preparation.workitems import Item, finished, load


def assemble(items: Sequence[Item], folder: Path) -> dict[str, Split]:
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


def _write_tables(rows_J3: np.ndarray, folder: Path) -> Split:
    tokens_J, bytes_J, hash_J = rows_J3.T
    np.save(folder / "offsets.npy", np.concatenate([[0], tokens_J.cumsum()]).astype(np.int64))
    np.save(folder / "bytes.npy", bytes_J.astype(np.int32))
    np.save(folder / "hashes.npy", np.ascontiguousarray(hash_J))
    return {"documents": len(rows_J3), "bytes": int(bytes_J.sum()), "tokens": int(tokens_J.sum())}
