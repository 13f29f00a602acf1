"""What a run would take of machines that are not here: memory, time, price; the mesh, batch and remat to choose."""

import dataclasses
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data.prepare import vocabulary_bound
from gptjax.config import ModelConfig
from gptjax.mesh_axes import MESH
from train.mesh_spec import MeshSpec
from train.objectives import Objectives
from train.planning.candidates import candidates
from train.planning.chips import Machines, larger
from train.planning.compile_for import check_compiler
from train.planning.estimate import estimate
from train.planning.less_memory import enough
from train.planning.plan_options import Planning
from train.planning.search import Tried, search, settings
from train.recipe import Recipe

GB = 1e9


class Plan(NamedTuple):
    """What was found; the first of `tried` is the suggestion, or, where none fits, what lacks least."""

    asked: Planning
    machines: Machines
    config: ModelConfig
    left_out: tuple[str, ...]  # tasks of the recipe that are not in it
    tried: list[Tried]
    changes: str | None  # where none fits: what would be enough; None also where nobody knows

    @property
    def best(self) -> Tried:
        return self.tried[0]

    @property
    def tokens(self) -> float:
        """That the run reads."""
        return self.best.recipe.horizon if self.asked.tokens is None else self.asked.tokens

    def hours(self) -> tuple[float, float]:
        """Of the run: (exchanges hidden, none hidden)."""
        return tuple(seconds * self.tokens / 3600 for seconds in self.best.pace(self.machines))  # pyright: ignore[reportReturnType]

    def memory(self) -> dict[str, float]:
        """Bytes of one chip, by kind; they sum to what it must hold at its fullest moment."""
        state, compiled = self.best.estimate.state, self.best.compiled
        kinds = {"parameters": state.parameters, "optimizer state": state.moments, "moving average": state.average}
        kinds = {kind: float(size) for kind, size in kinds.items() if size}
        if compiled is None:
            return kinds | {
                "gradients": float(state.gradients),
                "activations and other temporaries": self.best.estimate.activations,
            }
        kinds["batch, counters, padding"] = compiled.argument_bytes - state.kept
        beside = compiled.peak_bytes - compiled.argument_bytes
        gradients = min(state.gradients, beside)  # which may be gone before the fullest moment
        kinds |= {"gradients": gradients, "activations and other temporaries": beside - gradients}
        return kinds | {"program": compiled.program_bytes}

    def as_json(self) -> dict[str, Any]:
        hidden, unhidden = self.hours()
        fits, price, best = bool(self.best.fits), self.asked.price, self.best
        return {
            "device": self.machines.name, "slices": self.machines.groups, "chips": self.machines.chips,
            "fits": best.fits,
            "verified_by": "compiler" if best.compiled is not None else None,
            "changes": self.changes, "settings": settings(best.recipe, self.machines), "left_out": list(self.left_out),
            "memory_bytes": self.memory(), "memory_of_chip_bytes": self.machines.chip.memory,
            "near_bytes": best.near_bytes, "far_bytes": best.far_bytes,
            "seconds_a_step": best.seconds(self.machines), "tokens_a_step": best.estimate.tokens, "tokens": self.tokens,
            "hours": [hidden, unhidden] if fits else None,
            "price": [hours * self.machines.chips * price for hours in (hidden, unhidden)] if fits and price else None,
            "compiled": None if best.compiled is None else best.compiled.as_json(),
            "tried": [
                {"settings": settings(one.recipe, self.machines), "fits": one.fits, "said": one.said,
                 "memory_bytes": one.memory, "seconds_a_step": one.seconds(self.machines),
                 "tokens_a_step": one.estimate.tokens} for one in self.tried
            ],
        }  # fmt: skip


def plan(asked: Planning, recipe: Recipe, said: Collection[str], say: Callable[[str], object]) -> Plan:
    """Of a recipe, next words alone; `said`: its settings that are not to be changed, by dotted path.

    Raises ValueError for machines that there are not, for a mesh or batch that they do not divide, and without the TPU
    compiler where it is needed, before anything slow.
    """
    found = asked.machines
    if found.family == "tpu":
        check_compiler(f"--device {asked.device}")
    config = ModelConfig.of(recipe.model, vocabulary_bound(recipe.data))
    left_out = tuple(name for name, task in recipe.objectives.tasks.items() if task.ever and not task.models_text)
    if not recipe.objectives.only_causal:
        recipe = dataclasses.replace(recipe, objectives=Objectives())
    tried = search(candidates(recipe, said, config, found), config, found, say)
    changes = _changes(tried[0], config, found) if tried[0].fits is False else None
    return Plan(asked, found, config, left_out, tried, changes)


def _changes(least: Tried, config: ModelConfig, found: Machines) -> str:
    """Of the candidate that lacks least: settings, by arithmetic, and the smallest of these machines that is enough."""

    def fits(other: Recipe, on: Machines = found) -> bool:
        return estimate(other, config, on).memory <= on.chip.memory

    told = enough(least.recipe, found.chips, fits)
    for more in larger(found):
        fsdp = more.group if more.family == "tpu" else more.chips
        mesh = MeshSpec(fsdp=fsdp)
        rows = -(-least.recipe.batch.rows // more.chips) * more.chips
        batch = dataclasses.replace(least.recipe.batch, rows=rows, micro_batches=1)
        if config.D % fsdp == 0 and fits(dataclasses.replace(least.recipe, mesh=mesh, batch=batch), more):
            return f"{told}; or --device {more.name} with mesh.fsdp={fsdp}, batch.rows={rows}"
    return told


def tell(found: Plan, console: Console) -> None:
    """All of it, for people."""
    of, best = found.machines, found.best
    console.print(
        f"{found.config.parameters / 1e6:,.0f}M parameters, vocabulary {found.config.vocabulary:,}, rows of "
        f"{found.config.T:,} tokens, {best.recipe.optimizer.name}, {best.recipe.compute.dtype}, on {of}",
        highlight=False,
    )
    if found.left_out:
        console.print(f"next words alone; left out: {', '.join(found.left_out)}", highlight=False)
    if of.family == "gpu":
        console.print("[bold]unverified[/]: by arithmetic from data sheets; there is no compiler for GPUs without one")
    console.print(_tried_table(found))
    if best.fits:
        console.print(_memory_table(found), _time_table(found))
        console.print(f"[bold]suggested:[/] {settings(best.recipe, of)}", highlight=False, soft_wrap=True)
    elif best.fits is None:
        gave_up = [one for one in found.tried if one.fits is None and one.said != "not asked"]
        more = f", and at {len(gave_up) - 1} more" if len(gave_up) > 1 else ""
        console.print(f"[bold]not known[/]: {escape(gave_up[0].said)}{more}", highlight=False, soft_wrap=True)
    else:
        lacks = f"{best.memory / GB:.1f} GB, of {of.chip.memory / GB:.1f}"
        console.print(_memory_table(found))
        console.print(
            f"[bold]does not fit[/]: nearest is {settings(best.recipe, of)}, {lacks}", highlight=False, soft_wrap=True
        )
        console.print(found.changes, highlight=False, markup=False, soft_wrap=True)


def _tried_table(found: Plan) -> Table:
    table = Table("", f"mesh {', '.join(MESH)}", "remat", "rows", "micro", "GB a chip", "ms a step", "tokens/s", "",
                  title=f"{len(found.tried)} candidates, {found.machines.chip.memory / GB:.1f} GB a chip")  # fmt: skip
    for number, one in enumerate(found.tried):
        sizes, batch = one.recipe.mesh.over(found.machines.chips), one.recipe.batch
        hidden, _ = one.seconds(found.machines)
        table.add_row(
            f"{number + 1}", ", ".join(str(sizes[axis]) for axis in MESH),
            one.recipe.compute.remat, f"{batch.rows}", f"{batch.micro_batches}",
            f"{'' if one.compiled else '~'}{one.memory / GB:.1f}", f"{'' if one.compiled else '~'}{hidden * 1e3:,.0f}",
            f"{one.estimate.tokens / hidden:,.0f}", one.said,
        )  # fmt: skip
    return table


def _memory_table(found: Plan) -> Table:
    whose = "compiled" if found.best.compiled is not None else "by arithmetic, unverified"
    table = Table("memory of a chip", "GB", title=whose)
    for kind, size in found.memory().items():
        table.add_row(kind, f"{size / GB:.2f}")
    table.add_row("in all", f"{found.best.memory / GB:.2f} of {found.machines.chip.memory / GB:.2f}", style="bold")
    return table


def _time_table(found: Plan) -> Table:
    of, best = found.machines, found.best
    hidden, unhidden = best.seconds(of)
    near, far = of.nets
    table = Table("time", "", title="estimated; two figures: exchanges hidden behind the computing, or none of them")
    compiled = best.compiled
    if compiled is not None:
        table.add_row(
            "cycles, the compiler's", f"{compiled.cycles / 1e6:,.0f} M at {(of.chip.hertz or 0) / 1e9:.2f} GHz"
        )
        table.add_row("attention kernels beside them", f"{best.kernel_seconds * 1e3:,.0f} ms by arithmetic")
    for net, exchanged, rate in (
        (near, best.near_bytes, of.chip.near),
        (far, best.far_bytes, of.chip.far),
    ):
        for kind, size in sorted(exchanged.items()):
            table.add_row(f"{net}, {kind}", f"{size / GB:.2f} GB, {size / rate * 1e3:,.0f} ms at the data sheet's rate")
    table.add_row("a step", f"{hidden * 1e3:,.0f} to {unhidden * 1e3:,.0f} ms, {best.estimate.tokens:,} tokens")
    low, high = found.hours()
    table.add_row(f"{found.tokens:,.0f} tokens", f"{low:,.1f} to {high:,.1f} hours, {low * of.chips:,.0f} to "
                  f"{high * of.chips:,.0f} chip hours", style="bold")  # fmt: skip
    if found.asked.price is not None:
        low, high = (hours * of.chips * found.asked.price for hours in (low, high))
        table.add_row(f"price at {found.asked.price:g} a chip hour", f"{low:,.0f} to {high:,.0f}", style="bold")
    return table
