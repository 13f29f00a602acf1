"""Chips by the makers' data sheets, and how many of them a name such as `v5p:4x4x8` or `h100:8x4` stands for.

Imports neither JAX nor TensorFlow.
"""

import re
from typing import Literal, NamedTuple

from gptjax.spelling import did_you_mean
from train.launch.tpu_chips import ALSO, GENERATIONS, slice_of

# Peak bfloat16 products without sparsity, operations a second of one chip, from the makers' data sheets; by the
# beginning of what JAX calls the chip, of which the longest counts.
CHIP_PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100": 312e12,  # SXM and PCIe alike
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": 989e12,  # SXM, which says "80GB HBM3"
    "NVIDIA GH200": 989e12,
    "NVIDIA H200 NVL": 836e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
}


class Chip(NamedTuple):
    """One chip, by its data sheet."""

    kind: str  # what JAX calls it
    memory: float  # bytes that a program may fill
    bandwidth: float  # bytes a second of that memory
    near: float  # bytes a second that come in from chips of the same slice or node, over all links
    far: float  # bytes a second that come in from other slices or nodes
    hertz: float | None = None  # clock of the units that multiply: peak / operations a cycle; None = needs none

    @property
    def peak(self) -> float:
        """Operations a second of bfloat16 products."""
        return CHIP_PEAKS[self.kind]


# TPUs: docs.cloud.google.com/tpu/docs/v4, v5e, v5p, v6e; near = half of the bidirectional ICI bandwidth (of a v5p 1,200
# GB/s), which older sheets give as 2,400 Gb/s of a v4, 1,600 of a v5e, 4,800 of a v5p, 3,200 of a v6e; far = the data
# center network's share of a chip. What their compiler leaves of the memory was read from it.
# GPUs: NVIDIA's data sheets of the SXM modules; near = NVLink one way, far = one network adapter a GPU, as DGX machines
# have: 400 Gb/s, A100 200. JAX takes three quarters of the memory unless XLA_PYTHON_CLIENT_MEM_FRACTION says more.
JAX_SHARE = 0.75
TPUS = {
    "v4": Chip("TPU v4", 30.5 * 2**30, 1.228e12, 300e9, 6.25e9, 275e12 / 2**18),
    "v5e": Chip("TPU v5 lite", 15.75 * 2**30, 0.819e12, 200e9, 3.125e9, 1.5e9),
    "v5p": Chip("TPU v5", 95.73 * 2**30, 2.765e12, 600e9, 6.25e9, 459e12 / 2**18),
    "v6e": Chip("TPU v6 lite", 31.24 * 2**30, 1.638e12, 400e9, 12.5e9, 918e12 / 2**19),
}
GPUS = {
    "a100-40gb": Chip("NVIDIA A100", JAX_SHARE * 40e9, 1.555e12, 300e9, 25e9),
    "a100": Chip("NVIDIA A100", JAX_SHARE * 80e9, 2.039e12, 300e9, 25e9),
    "h100": Chip("NVIDIA H100", JAX_SHARE * 80e9, 3.35e12, 450e9, 50e9),
    "h200": Chip("NVIDIA H200", JAX_SHARE * 141e9, 4.8e12, 450e9, 50e9),
    "b200": Chip("NVIDIA B200", JAX_SHARE * 180e9, 8e12, 900e9, 50e9),
}


class Machines(NamedTuple):
    """Chips in groups: slices of TPUs, nodes of GPUs."""

    name: str  # as it was asked for; of TPUs, what their compiler calls one slice
    family: Literal["tpu", "gpu"]
    chip: Chip
    group: int  # chips of one group
    groups: int

    @property
    def chips(self) -> int:
        return self.group * self.groups

    @property
    def nets(self) -> tuple[str, str]:
        """What the links within a group and between groups are called."""
        return ("ICI", "DCN") if self.family == "tpu" else ("NVLink", "network")

    def __str__(self) -> str:
        several = f" x {self.groups}" if self.family == "tpu" and self.groups > 1 else ""
        return f"{self.name}{several}, {self.chips} chips"


def machines(name: str, slices: int = 1) -> Machines:
    """`v5p:4x4x8`, `v5e-256`, `h100:8` or `h100:8x4`: 8 a node, 4 nodes. Raises ValueError for what there is not."""
    kind = re.split(r"[:]|-(?=\d+$)", name)[0]
    if slices < 1:
        raise ValueError(f"--slices {slices}: must be at least 1")
    if kind in GPUS:
        found = re.fullmatch(r"(\d+)(?:x(\d+))?", name.removeprefix(kind).lstrip(":-"))
        counts = [int(count or 1) for count in found.groups()] if found else [0]
        if min(counts) < 1:
            raise ValueError(f"--device {name}: write GPUs a node, and nodes: {kind}:8 or {kind}:8x4")
        if slices > 1:
            raise ValueError(f"--slices {slices}: are of TPUs; write {counts[0]} GPUs of {slices} nodes as "
                             f"--device {kind}:{counts[0]}x{slices}")  # fmt: skip
        return Machines(name, "gpu", GPUS[kind], *counts)
    if kind not in GENERATIONS and kind not in ALSO:
        near = did_you_mean(kind, [*TPUS, *ALSO, *GPUS])
        raise ValueError(f"--device {name}: write chip and number, such as v5p:4x4x8 or h100:8x4{near}")
    found = slice_of(name, "--device")
    return Machines(str(found), "tpu", TPUS[found.generation], found.chips, slices)


def larger(of: Machines) -> list[Machines]:
    """The same chips in more of them, smallest first."""
    if of.family == "gpu":
        kind = next(kind for kind, chip in GPUS.items() if chip == of.chip)
        return [machines(f"{kind}:{of.group}x{of.groups * times}") for times in (2, 4, 8, 16)]
    generation = of.name.partition(":")[0]
    every = (machines(f"{generation}:{topology}", of.groups) for topology in GENERATIONS[generation].topologies)
    return sorted((one for one in every if one.group > of.group), key=lambda one: one.group)


def peak_of(kind: str) -> float | None:
    """Of what JAX calls a chip; None where it is not in the table."""
    known = [name for name in CHIP_PEAKS if kind.startswith(name)]
    return CHIP_PEAKS[max(known, key=len)] if known else None


def hertz_of(kind: str) -> float | None:
    """Clock of a TPU by what JAX calls it; None where we do not know it."""
    return next((chip.hertz for chip in TPUS.values() if chip.kind == kind), None)
