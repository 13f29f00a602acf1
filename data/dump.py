"""Writes a TensorFlow data set, or a corpus of ours, as .jsonl: for evaluation, which knows no TensorFlow.

python -m data.dump tfds:imdb_reviews --split test --out reviews.jsonl
python -m data.dump tfds:squad --split "validation[:500]" --fields question context answers=answers.text
python -m data.dump chitchat --most 100
"""

import dataclasses
import itertools
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from etils import epath

from data.preparation import sources
from data.spec import DataSpec
from gptjax.command.console import print_any_text
from gptjax.command.options import print_mistake, read
from gptjax.files.places import expanded
from gptjax.spelling import nearest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dump:
    """Write a data set as .jsonl, a line an example: texts, numbers, names of classes, and lists of them."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """tfds:NAME or tfds:NAME/CONFIG:VERSION, or a corpus of ours."""
    split: str = "train"
    """As TFDS writes it: test, train[:10%], ..."""
    fields: tuple[str, ...] = ()
    """Those to keep; name=field renames, and dots lead into a field. None named = all."""
    most: int | None = None
    """Only so many examples, from the first on; None = all."""
    out: Path | None = None
    """The file; None = standard output."""


def examples(source: str, split: str, wanted: Sequence[str], store: epath.Path) -> Iterator[dict[str, Any]]:
    """The examples of a split, in the order in which they were written.

    `wanted` as Dump.fields; `store` keeps the records of our corpora. Raises ValueError for a data set, split or field
    that there is not, and for a field that JSON has no room for, such as a picture.
    """
    if source.startswith("files:"):
        raise ValueError(f"{source!r}: is files already; `gptjax evaluate` reads them")
    sources.check(source)
    tfds = sources.load_tfds()
    builder = sources.builder_of(source, store)
    tfds.display_progress_bar(source.startswith("tfds:"))
    builder.download_and_prepare()
    order = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    try:
        records = builder.as_dataset(split=split, shuffle_files=False, read_config=order)
    except ValueError as error:
        raise ValueError(f"{source}: split {split!r}: {error}; there are {sorted(builder.info.splits)}") from None
    paths = {name: (path or name).split(".") for name, _, path in (field.partition("=") for field in wanted)}
    for record in tfds.as_numpy(records):
        example = plain(builder.info.features, record, source)
        yield {name: _at(example, path, source) for name, path in paths.items()} if paths else example


def plain(feature: Any, value: Any, name: str) -> Any:
    """What a TFDS feature decodes to, as JSON has it; a class is its name, or null where there is none."""
    features = sources.load_tfds().features
    if isinstance(feature, features.FeaturesDict):
        return {key: plain(feature[key], value[key], f"{name}.{key}") for key in feature}
    if isinstance(feature, features.Sequence):
        inner = feature.feature
        if isinstance(inner, features.FeaturesDict):  # which TFDS turns into a dictionary of sequences
            return {key: [plain(inner[key], one, f"{name}.{key}") for one in value[key]] for key in inner}
        return [plain(inner, one, name) for one in value]
    if isinstance(feature, features.ClassLabel):
        return feature.int2str(int(value)) if value >= 0 else None
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if np.ndim(value) == 0 and np.asarray(value).dtype.kind in "biuf":
        return np.asarray(value).item()
    raise ValueError(f"{name}: {feature} is neither text nor a number; choose other fields with --fields")


def _at(example: Mapping[str, Any], path: Sequence[str], source: str) -> Any:
    value: Any = example
    for step in path:
        if not isinstance(value, dict) or step not in value:
            known = value if isinstance(value, dict) else ()
            hint = nearest(step, known)
            raise ValueError(
                f"{source}: no field {'.'.join(path)!r}{hint}; there are {', '.join(known) or 'none in it'}"
            )
        value = value[step]
    return value


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    print_any_text()
    try:
        dump = read(Dump, arguments, "python -m data.dump", about=__doc__)
        store = epath.Path(DataSpec.prepared) / "corpora"
        found = itertools.islice(examples(dump.source, dump.split, dump.fields, store), dump.most)
        lines = (json.dumps(example, ensure_ascii=False) + "\n" for example in found)
        if dump.out is None:
            sys.stdout.writelines(lines)
        else:
            out = expanded(dump.out)
            new = out.with_suffix(".new")
            with new.open("w", encoding="utf-8") as file:
                count = sum(1 for line in lines if file.write(line))
            new.rename(out)
            print(f"wrote {out}: {count:,} lines", file=sys.stderr)
    except (ValueError, OSError) as error:
        return print_mistake(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
