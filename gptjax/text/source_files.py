"""Which files a path or pattern gives, and which it leaves out.

A path that exists is no pattern. Folders are searched as a shell's globs are: hidden names are left out, and a linked
folder is read where it is not read already, so that no loop is one. Folders that gptjax wrote are left out too.
"""

import dataclasses
import functools
import glob
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from gptjax.text.record_files import KNOWN, SUFFIXES

OURS = (  # what a folder is that holds all of these names
    ("a run", {"model.json", "tokenizer.json"}),
    ("a run", {"recipe.json", "environment.json"}),
    ("prepared text", {"prepared.json", "tokenizer.json"}),
    ("results of an evaluation", {"result.json", "items.jsonl"}),
    ("records of TensorFlow Datasets", {"dataset_info.json", "features.json"}),
)  # fmt: skip
UNFINISHED = "text that is being prepared"
TOLD = 5  # kinds of files, and folders of ours, that a remark names


@dataclasses.dataclass
class Found:
    """The files of a source, and what lies beside them unread."""

    files: list[Path]  # sorted by their paths
    skipped: Counter[str]  # what kind of file -> how many
    ours: dict[str, str]  # folder -> what it is

    def remark(self) -> str | None:
        """What was left out; None = nothing."""
        kinds = [f"{count:,} {kind}" for kind, count in self.skipped.most_common() if count]
        folders = [f"{path} ({what})" for path, what in sorted(self.ours.items())]
        parts = []
        if kinds:
            parts.append(f"not read, for only {KNOWN} are: {_some(kinds)}")
        if folders:
            parts.append(f"left out as written by gptjax: {_some(folders)}")
        return "; ".join(parts) or None


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:TOLD]) + (f" and {len(names) - TOLD:,} more" if len(names) > TOLD else "")


def find(pattern: Path) -> Found:
    """The files that a path or pattern gives. A file named outright is read whatever it is called."""
    found = Found([], Counter(), {})
    if pattern.is_file():
        return dataclasses.replace(found, files=[pattern])
    base, parts = _literal(pattern)
    for path in _once(_matching(base, parts, found)):
        if not path.is_file():
            found.skipped["links to nothing, or no files"] += 1
        elif path.name.lower().endswith(SUFFIXES):
            found.files.append(path)
        else:
            found.skipped[path.suffix.lower() or "without an ending"] += 1
    return found


def ours_around(file: Path) -> str | None:
    """What of gptjax's a file lies in, such as `a run`; None = nothing."""
    marks = {"done", "work"}.union(*(names for _, names in OURS))
    for folder in file.resolve().parents:
        if what := _ours(folder, [name for name in marks if (folder / name).exists()]):
            return what
    return None


def _ours(folder: Path, names: Collection[str]) -> str | None:
    """What a folder that holds these names is of gptjax's; None = nothing."""
    if folder.suffix.startswith(".partial") and not {"done", "work"}.isdisjoint(names):
        return UNFINISHED
    return next((what for what, marks in OURS if marks.issubset(names)), None)


def _once(paths: Iterable[Path]) -> list[Path]:
    """The paths, sorted; of a file that linked folders give twice, the path without a link, or else the shortest."""

    @functools.cache
    def real(folder: Path) -> tuple[bool, str]:
        """(whether it is one by a link, where it is)."""
        place = os.path.realpath(folder)
        return place != os.path.abspath(folder), place

    firsts: dict[tuple[str, str], Path] = {}
    for path in sorted(set(paths), key=lambda path: (real(path.parent)[0], len(path.parts), str(path))):
        firsts.setdefault((real(path.parent)[1], path.name), path)
    return sorted(firsts.values(), key=str)


def _literal(pattern: Path) -> tuple[Path, tuple[str, ...]]:
    """(the part of a pattern that exists as it stands, the names after it)."""
    for base in (pattern, *pattern.parents):
        if base.exists():
            return base, pattern.parts[len(base.parts) :]
    return pattern, ()


def _matching(path: Path, parts: Sequence[str], found: Found) -> Iterator[Path]:
    """The paths below a folder that match names in a row; of a folder that matches, all that lies in it."""
    if not parts:
        yield from (file for _, files in _folders(path, found) for file in files) if path.is_dir() else [path]
        return
    part, rest = parts[0], parts[1:]
    if not path.is_dir():
        return
    if part == "**":
        for folder, files in _folders(path, found):
            yield from _matching(folder, rest, found) if rest else files
    elif not glob.has_magic(part):
        if (path / part).exists():
            yield from _matching(path / part, rest, found)
    elif (entries := _entries(path, found)) is not None:
        for name in (entry.name for entry in entries):
            if fnmatchcase(name, part) and (not name.startswith(".") or part.startswith(".")):
                yield from _matching(path / name, rest, found)


def _folders(top: Path, found: Found) -> Iterator[tuple[Path, list[Path]]]:
    """(folder, its files) of a folder and all within it: each once, and where it is no link if it is within."""
    near, linked, seen = [top], [], set()
    while near or linked:
        folder = near.pop() if near else linked.pop(0)
        real = os.path.realpath(folder)
        if real in seen or (entries := _entries(folder, found)) is None:
            continue
        seen.add(real)
        files = []
        for entry in entries:
            if entry.name.startswith("."):
                found.skipped["hidden"] += entry.is_dir() or entry.name.lower().endswith(SUFFIXES)
            elif entry.is_dir():
                (linked if entry.is_symlink() else near).append(folder / entry.name)
            else:
                files.append(folder / entry.name)
        yield folder, files


def _entries(folder: Path, found: Found) -> list[os.DirEntry[str]] | None:
    """What a folder holds, sorted; None if gptjax wrote it, which is noted of what is finished."""
    with os.scandir(folder) as scanned:
        entries = sorted(scanned, key=lambda entry: entry.name)
    what = _ours(folder, {entry.name for entry in entries})
    if what is not None and what != UNFINISHED:
        found.ours[str(folder)] = what
    return entries if what is None else None
