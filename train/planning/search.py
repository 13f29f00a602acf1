"""The fastest candidate that fits: all of them by arithmetic, the best few by the compiler."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from gptjax.config import ModelConfig
from gptjax.mesh_axes import REMAINDER
from train.planning.chips import Machines
from train.planning.compile_for import CompiledFor, TooLargeError
from train.planning.compiler_process import CompilerEndedError, CompilerProcess
from train.planning.estimate import Estimate, estimate, kernel_seconds
from train.recipe import Recipe

COMPILED = 6  # candidates that the compiler finds room for, at most
ASKED = 8  # candidates that it is asked of; where none had room, then the smallest
GIVEN_UP = 3  # candidates that it gave up at, after which it is asked no more where it found room for none
NEAR = 1.25  # times the time of the fastest: of candidates so close the arithmetic does not know which is faster
SLACK = 1.25  # the arithmetic is believed that a step does not fit where it says so much more than there is


class Tried(NamedTuple):
    """One candidate, and what is known of it."""

    recipe: Recipe
    estimate: Estimate
    fits: bool | None  # None = nobody knows: the compiler was not asked, or did not come to an end
    said: str  # by whom the verdict is
    compiled: CompiledFor | None = None
    kernel_seconds: float = 0.0

    @property
    def compute_seconds(self) -> float:
        """The compiler's cycles and the kernels beside them; without a compiler the estimate."""
        found = None if self.compiled is None else self.compiled.milliseconds
        return self.estimate.compute_seconds if found is None else found / 1e3 + self.kernel_seconds

    @property
    def near_bytes(self) -> dict[str, float]:
        """Received a step within a slice or node, by kind."""
        return self.estimate.near_bytes if self.compiled is None else dict(self.compiled.collective_bytes)

    @property
    def far_bytes(self) -> dict[str, float]:
        """Received a step from other slices or nodes, by kind."""
        return self.estimate.far_bytes if self.compiled is None else dict(self.compiled.far_bytes)

    @property
    def memory(self) -> float:
        """Bytes a chip at the fullest moment."""
        if self.compiled is None:
            return self.estimate.memory
        return self.compiled.peak_bytes + self.compiled.program_bytes

    def seconds(self, machines: Machines) -> tuple[float, float]:
        """Of a step: (exchanges hidden behind the computing, none of them hidden)."""
        near = sum(self.near_bytes.values()) / machines.chip.near
        far = sum(self.far_bytes.values()) / machines.chip.far
        return max(self.compute_seconds + self.estimate.waited_seconds, near, far), self.compute_seconds + near + far

    def pace(self, machines: Machines) -> tuple[float, float]:
        """Seconds a token, by which candidates are ranked: hidden first."""
        hidden, unhidden = self.seconds(machines)
        return hidden / self.estimate.tokens, unhidden / self.estimate.tokens


def search(
    recipes: Sequence[Recipe], config: ModelConfig, machines: Machines, say: Callable[[str], object]
) -> list[Tried]:
    """Every candidate with its verdict; those that fit come first, the fastest of them at the top."""
    room = machines.chip.memory
    tried = [_weighed(Tried(one, estimate(one, config, machines), None, ""), room, machines) for one in recipes]
    if machines.family == "tpu":
        with CompilerProcess(machines.name, machines.groups) as compiler:
            tried = _by_compiler(tried, config, machines, compiler, say)
    rank = {True: 0, None: 1, False: 2}
    return sorted(tried, key=lambda one: (rank[one.fits], one.pace(machines) if one.fits else (one.memory, 0.0)))


def _weighed(one: Tried, room: float, machines: Machines) -> Tried:
    """By arithmetic."""
    if one.estimate.state.total > room:
        return one._replace(fits=False, said="its state alone is too large")
    slack = SLACK if machines.family == "tpu" else 1.0
    if one.memory > room * slack:
        return one._replace(fits=False, said="too large, by arithmetic")
    return one if machines.family == "tpu" else one._replace(fits=True, said="by arithmetic, unverified")


def _by_compiler(
    tried: list[Tried],
    config: ModelConfig,
    machines: Machines,
    compiler: CompilerProcess,
    say: Callable[[str], object],
) -> list[Tried]:
    """The compiler's word on the most promising; those that need more than one which it refused are not asked."""
    refused = float("inf")
    answers: dict[int, Tried] = {}
    order = sorted((n for n, one in enumerate(tried) if one.fits is None), key=lambda n: tried[n].pace(machines))
    while order:
        done = sum(bool(answer.fits) for answer in answers.values())
        gave_up = sum(answer.fits is None for answer in answers.values())
        if done == COMPILED or (len(answers) >= ASKED and done) or (gave_up >= GIVEN_UP and not done):
            break
        order.remove(number := _next(order, tried, answers, machines))
        one = tried[number]
        if one.memory >= refused:
            tried[number] = one._replace(fits=False, said="larger than one that the compiler refused")
            continue
        say(f"compiling {settings(one.recipe, machines)}")
        answers[number] = answered(one, config, machines, compiler)
        refused = min(refused, one.memory) if answers[number].fits is False else refused
    unasked = "slower, by arithmetic" if any(answer.fits for answer in answers.values()) else "not asked"
    return [answers.get(number, one if one.said else one._replace(said=unasked))
            for number, one in enumerate(tried)]  # fmt: skip


def _next(order: Sequence[int], tried: Sequence[Tried], answers: Mapping[int, Tried], machines: Machines) -> int:
    """Which of `order`, the fastest by arithmetic first, the compiler is asked of: one of each mesh that comes near the
    fastest of them; then others of the mesh that the compiler found fastest."""
    if len(answers) >= ASKED:
        return min(order, key=lambda n: tried[n].memory)

    def mesh(n: int) -> dict[str, int]:
        return tried[n].recipe.mesh.over(machines.chips)

    done = [n for n, answer in answers.items() if answer.fits]
    seen, near = [mesh(n) for n in done], NEAR * min(tried[n].pace(machines)[0] for n in (*order, *done))
    if fresh := [n for n in order if mesh(n) not in seen and tried[n].pace(machines)[0] <= near]:
        return fresh[0]
    best = mesh(min(done, key=lambda n: answers[n].pace(machines))) if done else None
    return next((n for n in order if mesh(n) == best), order[0])


def answered(one: Tried, config: ModelConfig, machines: Machines, compiler: CompilerProcess) -> Tried:
    """A candidate as the compiler sees it."""
    try:
        found = compiler(one.recipe, config.vocabulary)
    except TooLargeError as refusal:
        return one._replace(fits=False, said=refusal.needs)
    except CompilerEndedError as ended:
        return one._replace(said=f"the compiler gave up: {ended}")
    if found.kernels == 0:
        return one._replace(fits=True, said="compiled", compiled=found)
    return one._replace(
        fits=True, said="compiled", compiled=found, kernel_seconds=kernel_seconds(one.recipe, config, machines)
    )


def settings(recipe: Recipe, machines: Machines) -> str:
    """What a candidate is, as the words of a command line."""
    sizes = recipe.mesh.over(machines.chips)
    words = {
        **{f"mesh.{axis}": size for axis, size in sizes.items() if axis != REMAINDER and (size > 1 or axis == "fsdp")},
        "batch.rows": recipe.batch.rows,
        "batch.micro-batches": recipe.batch.micro_batches, "compute.remat": recipe.compute.remat,
    }  # fmt: skip
    flags = [f"--{name} {value}" for name, value in words.items()]
    return " ".join([*flags, "--compute.unroll" if recipe.compute.unroll else "--compute.no-unroll"])
