"""TPUs as Google names them: generations, their slices, and how many hosts and chips a slice has."""

import math
import re
from typing import NamedTuple

from gptjax.spelling import did_you_mean


class Generation(NamedTuple):
    """A generation of TPUs, as GKE offers it."""

    gke: str  # cloud.google.com/gke-tpu-accelerator
    cores: int  # that a name such as v5p-8 counts of each chip
    topologies: tuple[str, ...]  # of slices that GKE and Cloud TPU make
    single: tuple[str, ...] = ()  # those that are one host, whatever their number of chips


CHIPS_OF_HOST = 4  # of slices that have several hosts
FLAT = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBES = (
    "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x12", "8x8x16", "8x16x16", "16x16x16",
    "16x16x24",
)  # fmt: skip
GENERATIONS = {
    "v4": Generation("tpu-v4-podslice", 2, CUBES),
    "v5e": Generation("tpu-v5-lite-podslice", 1, ("1x1", *FLAT), ("1x1",)),
    "v5p": Generation("tpu-v5p-slice", 2, CUBES),
    "v6e": Generation("tpu-v6e-slice", 1, ("1x1", *FLAT), ("1x1",)),
}
ALSO = {"v5litepod": "v5e", "trillium": "v6e"}  # as gcloud and people say


class Slice(NamedTuple):
    """A slice of TPU chips, joined by their own network."""

    generation: str
    topology: str

    @property
    def chips(self) -> int:
        return math.prod(map(int, self.topology.split("x")))

    @property
    def hosts(self) -> int:
        return 1 if self.topology in GENERATIONS[self.generation].single else max(1, self.chips // CHIPS_OF_HOST)

    @property
    def chips_of_host(self) -> int:
        return self.chips // self.hosts

    @property
    def accelerator(self) -> str:
        return GENERATIONS[self.generation].gke

    def __str__(self) -> str:
        return f"{self.generation}:{self.topology}"


def slice_of(name: str, option: str = "--tpu") -> Slice:
    """`v5e:16x16`, or by the count in Google's names: `v5e-256`, `v5p-8`; `option` is where it was written.

    Raises ValueError for what there is not.
    """
    found = re.fullmatch(r"([a-z]\w*)[-:](\d+(?:x\d+)*)", name)
    kind = None if found is None else ALSO.get(found[1], found[1])
    if found is None or kind not in GENERATIONS:
        near = did_you_mean(found[1], [*GENERATIONS, *ALSO]) if found else f"; known: {', '.join(GENERATIONS)}"
        raise ValueError(f"{option} {name}: write generation and topology, such as v5e:16x16 or v5e-256{near}")
    generation = GENERATIONS[kind]
    if "x" in found[2]:
        if found[2] not in generation.topologies:
            raise ValueError(
                f"{option} {name}: {kind} has no such topology{did_you_mean(found[2], generation.topologies)}"
            )
        return Slice(kind, found[2])
    counts = {Slice(kind, topology).chips * generation.cores: topology for topology in generation.topologies}
    if int(found[2]) not in counts:
        near = min(counts, key=lambda count: abs(count - int(found[2])))
        counted = "chips" if generation.cores == 1 else "cores, two a chip"
        raise ValueError(
            f"{option} {name}: no slice of {kind} has {found[2]} {counted}; did you mean '{kind}-{near}'? "
            f"There are {', '.join(map(str, sorted(counts)))}"
        )
    return Slice(kind, counts[int(found[2])])
