"""Compiles a recipe's training step for TPU chips that need not be here: memory a chip, exchanged bytes, cycles.

Needs the `libtpu` package, which is the compiler; no chip is touched.
"""

import dataclasses
import importlib.util
import os
import re
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from rich.table import Table

from data.prepare import vocabulary_bound
from gptjax.batch import Batch, text_batch
from gptjax.sharding import batch_sharding, one_a_device
from train.assemble import assemble, config_of, mesh_of, open_text
from train.objectives import LossSpec, causal_only
from train.planning.chips import hertz_of
from train.planning.hlo import Program
from train.planning.less_memory import in_words
from train.recipe import Recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompiledFor:
    """What the compiler says of one training step on one chip."""

    topology: str
    chip: str
    mesh: dict[str, int]
    argument_bytes: int  # parameters, moments, batch
    peak_bytes: int  # what the chip must hold at once, arguments included
    temporary_bytes: int  # as the compiler adds them up, those that a loop carries twice
    collective_bytes: dict[str, int]  # received in a step, by kind of exchange
    far_bytes: dict[str, int]  # of several slices: from the others, by kind of exchange
    cycles: int  # the compiler's own estimate, loops multiplied out; neither kernels nor waiting are in it
    kernels: int  # calls a step of kernels that the compiler does not estimate
    program_bytes: int  # of the compiled code, in the same memory
    compile_seconds: float

    @property
    def milliseconds(self) -> float | None:
        """The estimated cycles at the chip's clock; None for a chip whose clock we do not know."""
        hertz = hertz_of(self.chip)
        return None if hertz is None else self.cycles / hertz * 1e3

    def table(self) -> Table:
        title = f"{self.topology}, {self.chip}, mesh {self.mesh}: not run, compiled"
        table = Table("a step on one chip", "", title=title, min_width=len(title))
        table.add_row("memory at its peak", f"{self.peak_bytes / 1e9:.2f} GB")
        table.add_row("  of it parameters, moments, batch", f"{self.argument_bytes / 1e9:.2f} GB")
        table.add_row("temporaries, loop carries twice", f"{self.temporary_bytes / 1e9:.2f} GB")
        for kind, size in sorted(self.collective_bytes.items()):
            table.add_row(kind, f"{size / 1e9:.2f} GB")
        for kind, size in sorted(self.far_bytes.items()):
            table.add_row(f"{kind} between slices", f"{size / 1e9:.2f} GB")
        estimate = "" if self.milliseconds is None else f" = {self.milliseconds:,.0f} ms"
        table.add_row("estimated cycles", f"{self.cycles / 1e6:,.0f} M{estimate}")
        table.add_row("kernel calls beside them", f"{self.kernels}")
        table.add_row("compilation", f"{self.compile_seconds:.0f} s")
        return table

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"milliseconds": self.milliseconds}


class TooLargeError(ValueError):
    """The compiler found no room for a step in the memory of a chip; `needs`: how much was lacking."""

    def __init__(self, topology: str, needs: str, changes: str):
        super().__init__(topology, needs, changes)  # as they are, so that it goes from one process to another
        self.needs = needs

    def __str__(self) -> str:
        return "{}: {}; {}".format(*self.args)


def compile_for(recipe: Recipe, topology: str) -> CompiledFor:
    """Compiles the step for a topology such as `v5e:4x4`; the text, where there are other objectives than next words,
    says which output heads the model has.

    Raises ValueError without libtpu, or for an unknown name; TooLargeError.
    """
    check_compiler(f"--compile-for {topology}")
    devices = topology_devices(topology, f"--compile-for {topology}")
    vocabulary, loss_spec = vocabulary_bound(recipe.data), causal_only()
    config_of(recipe, vocabulary, mesh_of(recipe, devices))
    if not recipe.objectives.only_causal:
        text = open_text(recipe)
        vocabulary, loss_spec = text.tokenizer.size, text.loss_spec
    return compiled(recipe, topology, devices, vocabulary, loss_spec)


def compiled(
    recipe: Recipe, topology: str, devices: Sequence[Any], vocabulary: int, loss_spec: LossSpec
) -> CompiledFor:
    """The training step of a recipe, of this loss, compiled for these chips. Raises TooLargeError."""
    mesh = mesh_of(recipe, devices)
    with jax.set_mesh(mesh):
        assembly = assemble(recipe, vocabulary, loss_spec, mesh)
        T, rows = recipe.row_length, recipe.batch
        zeros = np.zeros((rows.micro_batches, rows.micro_rows, T), np.int32)
        batch = text_batch(zeros, zeros, zeros.astype(np.float32), zeros, zeros, zeros, zeros > 0, Q=loss_spec.targets)
        place = batch_sharding(mesh, leading=1)
        abstract = Batch(*(jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=place) for array in batch))
        began = time.perf_counter()
        stop_flag = jax.ShapeDtypeStruct((mesh.size,), np.int32, sharding=one_a_device(mesh))
        lowered = assembly.train_step.lower(assembly.abstract, abstract, stop_flag)  # pyright: ignore[reportFunctionMemberAccess]
        try:
            program_of = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise _too_large(recipe, topology, len(devices), str(error)) from error
        seconds = time.perf_counter() - began
    program, memory = Program(program_of.as_text()), program_of.memory_analysis()
    return CompiledFor(
        topology=topology, chip=devices[0].device_kind, mesh=dict(mesh.shape),
        argument_bytes=memory.argument_size_in_bytes, peak_bytes=memory.peak_memory_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        collective_bytes=program.collective_bytes, far_bytes=program.far_bytes,
        cycles=program.cycles, kernels=program.kernel_calls,
        program_bytes=memory.generated_code_size_in_bytes, compile_seconds=seconds,
    )  # fmt: skip


def _too_large(recipe: Recipe, topology: str, devices: int, said: str) -> TooLargeError:
    """What the compiler said of a chip's memory, and the settings that take less of it."""
    sizes = re.search(r"\(([\d.]+\w)\) exceeds available \w+ \(([\d.]+\w)\)", said)
    needs = f"needs {sizes[1]}B of {sizes[2]}B a chip" if sizes else said.splitlines()[0]
    return TooLargeError(topology, f"the step {needs}", in_words(recipe, devices))


def check_compiler(asked: str) -> None:
    """Raises ValueError where the TPU compiler is not installed; `asked` is what needs it."""
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"{asked}: needs the TPU compiler, the package libtpu (640 MB); "
            "install it with `.venv/bin/python -m pip install libtpu`"
        )


def topology_devices(topology: str, asked: str, slices: int = 1) -> list[Any]:
    """The chips of so many slices of a topology, as the compiler knows them. Raises ValueError for an unknown one."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # else it asks a cloud's metadata server where it is
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no chip is taken, so that two may compile at once
    try:
        # of a v4 JAX uses both cores of a chip as one device; left alone the compiler would take them for two
        options: dict[str, Any] = {"chip_config_name": "megacore"} if topology.startswith("v4:") else {}
        if slices > 1:
            options["num_slices"] = slices
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices)
    except Exception as error:  # the compiler raises its own kinds
        said = str(error).splitlines()[0]
        raise ValueError(f"{asked}: {said}; write it as v5e:4x4, v4:2x2x1, v6e:8x8") from error
