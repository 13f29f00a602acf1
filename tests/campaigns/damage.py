"""`python -m tests.campaigns.damage`: a checkpoint is damaged in every way; the step before it must be used.

One random bit in a random file, 200 times; then every file halved, emptied, removed, and its second half zeroed, as a
power cut leaves it. Right: one line that names the file, the damaged step kept aside, the older one restored exactly.
"""

import collections
import dataclasses
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.runs.checkpoint import CheckpointWriter, restore
from gptjax.runs.manifest import newest_good

OLDER, NEWER = 10, 20
RIGHT = "named, older step used"


@dataclasses.dataclass(frozen=True)
class Damage:
    kind: str
    file: str  # of the newer step, within its folder
    change: Callable[[Path], None]


def trees(step: int):
    """A small model's, with bits that look random."""
    keys = jax.random.split(jax.random.key(step), 3)
    params = {"layers": {"w": jax.random.normal(keys[0], (2, 32, 64))}, "scale": jax.random.normal(keys[1], (32,))}
    moments = {"mean": jax.tree.map(lambda leaf: leaf / 3, params), "count": jnp.int32(step)}
    return {"params": params, "training": {"step": jnp.int32(step), "optimizer": moments}}


def small_run(run: Path) -> Path:
    """A run with two good steps."""
    writer = CheckpointWriter(run, keep=2)
    for step in (OLDER, NEWER):
        writer.save(step, trees(step), {"rows": step})
    writer.close()
    return run


def damages(run: Path, flips: int, seed: int = 0) -> Iterator[Damage]:
    """Single bits at random, over all files in turn, then the four other kinds for every file that they change."""
    folder = run / "checkpoints" / str(NEWER)
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    chance = random.Random(seed)
    filled = sorted(name for name, size in sizes.items() if size)
    for number in range(flips):
        name = filled[number % len(filled)]
        bit = chance.randrange(8 * sizes[name])
        yield Damage("bit flipped", name, lambda path, bit=bit: _flip(path, bit))
    for name in sorted(sizes):
        yield Damage("removed", name, Path.unlink)
        if sizes[name]:
            yield Damage("emptied", name, lambda path: path.write_bytes(b""))
            yield Damage("halved", name, lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]))
            yield Damage("tail zeroed", name, _zero_tail)


def outcome(run: Path, damage: Damage) -> str:
    """RIGHT, or what went wrong, after one damage to a copy of the run."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(shutil.copytree(run, Path(scratch) / "run"))
        damage.change(copy / "checkpoints" / str(NEWER) / damage.file)
        said: list[str] = []
        try:
            used = newest_good(copy, said.append, set_bad_aside=True)
            if used != OLDER:
                return f"silent: step {used} was used"
            if len(said) != 1 or "\n" in said[0] or f" {damage.file}: " not in said[0]:
                return f"badly said: {said}"
            if not (copy / "checkpoints" / f"{NEWER}.damaged").is_dir():
                return "the damaged step was not kept"
            for name, wanted in trees(OLDER).items():
                found = restore(copy, used, name, jax.eval_shape(lambda wanted=wanted: wanted))
                jax.tree.map(np.testing.assert_array_equal, found, wanted)
        except Exception as error:
            return f"crash: {error!r}"
    return RIGHT


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        run = small_run(Path(scratch) / "run")
        counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for damage in damages(run, flips=200):
            found = outcome(run, damage)
            counts[damage.kind][found if found == RIGHT else f"{damage.file}: {found}"] += 1
    for kind, found in counts.items():
        print(f"{kind:12} {found.total():4} times: " + "; ".join(f"{count} {what}" for what, count in found.items()))
    if any(set(found) != {RIGHT} for found in counts.values()):
        sys.exit(1)


def _flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def _zero_tail(path: Path) -> None:
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + bytes(len(content) - half))


if __name__ == "__main__":
    main()
