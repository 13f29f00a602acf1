"""Reads the text of a compiled TPU program: the compiler's own estimate of cycles, and the bytes that chips exchange.

The text is XLA's optimised HLO, as `compiled.as_text()` gives it. A loop's body counts as often as it runs.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterable

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BITS = {"pred": 8, "bf16": 16, "f8e4m3fn": 8, "f8e5m2": 8} | {
    f"{kind}{bits}": bits for kind in "fsu" for bits in (4, 8, 16, 32, 64)
}
_COMPUTATION = re.compile(r"^(ENTRY )?%?(\S+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?(\S+) = (.*?) ([a-z][\w\-]*)\((.*)$")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of HLO."""

    name: str
    shape: str  # with layout; a tuple's parts in brackets
    opcode: str
    rest: str  # operands and attributes, as written

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.rest.partition("), ")[0])

    def called(self, attribute: str) -> str | None:
        """The computation that an attribute such as `body` names."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.rest)
        return found[1] if found else None

    @property
    def cycles(self) -> int:
        """The compiler's estimate for this instruction alone; 0 where it gives none."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.rest)
        return int(found[1]) if found else 0

    @property
    def collective(self) -> str | None:
        """The exchange that starts here: `all-gather` for `all-gather` and `all-gather-start`."""
        kind = self.opcode.removesuffix("-start")
        return kind if kind in COLLECTIVES else None

    @property
    def together(self) -> float:
        """Chips that take part in an exchange with each other; infinite where the text does not say."""
        if found := re.search(r"replica_groups=\{\{([\d,]+)\}", self.rest):
            return len(found[1].split(","))
        if found := re.search(r"replica_groups=\[\d+,(\d+)\]<=", self.rest):
            return int(found[1])
        if found := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", self.rest):
            sizes = dict(axis.split("=") for axis in found[1].split(","))
            return math.prod(int(sizes[axis]) for axis in found[2].split(","))
        return math.inf

    @property
    def channel(self) -> str:
        """Number of an exchange's channel; "" where it has none."""
        found = re.search(r"channel_id=(\d+)", self.rest)
        return found[1] if found else ""

    @property
    def op_name(self) -> str:
        """The JAX operation that it came from, as a path."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""


class Program:
    """A compiled module. Totals are of one run of it on one chip."""

    def __init__(self, text: str):
        self._computations: dict[str, dict[str, Instruction]] = {}
        current: dict[str, Instruction] = {}
        for line in text.splitlines():
            if opening := _COMPUTATION.match(line):
                current = self._computations[opening[2]] = {}
                if opening[1]:
                    self._entry = opening[2]
            elif found := _INSTRUCTION.match(line):
                current[found[1]] = Instruction(*found.groups())

    @functools.cached_property
    def runs(self) -> dict[str, int]:
        """How often each computation that schedules instructions runs: the entry once, a loop's body as it turns."""
        runs: dict[str, int] = collections.defaultdict(int)

        def visit(name: str, times: int) -> None:
            runs[name] += times
            for instruction in self._computations[name].values():
                if instruction.opcode == "while":
                    body = instruction.called("body")
                    assert body is not None
                    visit(body, times * self.trips(instruction, name))
                elif instruction.opcode == "call" and (target := instruction.called("to_apply")):
                    visit(target, times)
                elif instruction.opcode == "conditional":  # each branch once: an upper bound
                    listed = re.search(r"branch_computations=\{([^}]*)\}", instruction.rest)
                    both = [instruction.called("true_computation"), instruction.called("false_computation")]
                    for branch in re.findall(r"%([\w.\-]+)", listed[1]) if listed else filter(None, both):
                        visit(branch, times)

        visit(self._entry, 1)
        return dict(runs)

    def scheduled(self):
        """Every instruction that runs by itself, with how often it does."""
        for name, times in self.runs.items():
            for instruction in self._computations[name].values():
                yield instruction, times

    @property
    def cycles(self) -> int:
        """Estimated cycles of computing, loops multiplied out. Waiting for other chips is not in it."""
        return sum(instruction.cycles * times for instruction, times in self.scheduled())

    @property
    def kernel_calls(self) -> int:
        """Calls of Pallas kernels, whose cycles the compiler does not estimate."""
        called = 'custom_call_target="tpu_custom_call"'
        return sum(times for instruction, times in self.scheduled() if called in instruction.rest)

    @property
    def collective_bytes(self) -> dict[str, int]:
        """Kind of exchange -> bytes that this chip receives, those within fusions too, where they go round in rings."""
        received: dict[str, float] = collections.defaultdict(float)
        seen: set[tuple[str, str]] = set()  # an exchange that several fusions share, its start, steps and end
        for name, times in self.runs.items():
            for instruction in self._computations[name].values():
                if kind := instruction.collective:
                    received[kind] += _received(kind, instruction, _result_bytes(instruction)) * times
                for inner in self._fused(instruction):
                    if inner.collective is None or (name, inner.channel) in seen:
                        continue
                    if inner.channel:
                        seen.add((name, inner.channel))
                    # a sum of which each chip keeps its part, which is what the fusion gives
                    scatters = (instruction.called("calls") or "").startswith("all-reduce-scatter")
                    kind = "reduce-scatter" if scatters else inner.collective
                    size = _result_bytes(instruction if scatters else inner)
                    received[kind] += _received(kind, inner, size) * times
        return {kind: round(size) for kind, size in received.items()}

    def _fused(self, instruction: Instruction) -> Iterable[Instruction]:
        """What a fusion is made of; nothing of any other instruction."""
        called = instruction.called("calls") if instruction.opcode == "fusion" else None
        return () if called is None else self._computations[called].values()

    @property
    def far_bytes(self) -> dict[str, int]:
        """Kind of exchange -> bytes that come in from other slices, over the data centre's network."""
        received: dict[str, int] = collections.defaultdict(int)
        for instruction, times in self.scheduled():
            kind = re.search(r'megascale_transfer_type="(\w+)"', instruction.rest)
            if instruction.opcode == "recv" and kind:
                arrived = _parts(instruction.shape)[0]  # beside it a number and a token
                received[kind[1].lower().replace("_", "-")] += sum(_shapes(arrived)) * times
        return dict(received)

    def trips(self, loop: Instruction, within: str) -> int:
        """How often a loop turns: (bound - start) / step of its counter. Raises ValueError for another kind of loop."""
        condition, body = (self._computations[loop.called(part) or ""] for part in ("condition", "body"))
        compare = next((item for item in condition.values() if "direction=LT" in item.rest), None)
        if compare is None:
            raise ValueError(f"loop {loop.name}: its condition is no counter below a bound; cannot count its turns")
        counter, bound = (condition[name] for name in compare.operands[:2])
        place = int(re.search(r"index=(\d+)", counter.rest)[1])  # pyright: ignore[reportOptionalSubscript]
        root = list(body.values())[-1]
        following = body[root.operands[place]]
        steps = [_constant(body[name]) for name in following.operands]
        step = next((value for value in steps if value is not None), 1)
        carried = self._computations[within][loop.operands[0]]
        start = _constant(self._computations[within][carried.operands[place]]) if carried.opcode == "tuple" else None
        limit = _constant(bound)
        if limit is None:
            raise ValueError(f"loop {loop.name}: its bound is computed; cannot count its turns")
        return math.ceil((limit - (start or 0)) / step)


def _received(kind: str, exchange: Instruction, size: int) -> float:
    """Bytes that come in for a result of this size. Of a ring: Thakur et al. 2005, "Optimization of Collective
    Communication Operations in MPICH", IJHPCA 19(1), sections 4.1 to 4.4."""
    n = exchange.together
    if kind == "collective-permute":
        return size
    if kind == "reduce-scatter":
        return size * (n - 1) if n < math.inf else size
    return size * (1 - 1 / n) * (2 if kind == "all-reduce" else 1)


def _result_bytes(exchange: Instruction) -> int:
    """Of an exchange, or of a fusion.

    An asynchronous start gives (operands, results, ...), but that of an all-reduce its results alone.
    """
    parts = _parts(exchange.shape)
    both = exchange.opcode.endswith("-start") and exchange.collective != "all-reduce" and len(parts) > 1
    return sum(_shapes(parts[1] if both else exchange.shape))


def _constant(instruction: Instruction) -> int | None:
    found = re.match(r"(-?\d+)\)", instruction.rest) if instruction.opcode == "constant" else None
    return int(found[1]) if found else None


def _parts(shape: str) -> list[str]:
    """The elements of a tuple's shape, which may be tuples; an array's shape alone."""
    if not shape.startswith("("):
        return [shape]
    parts, depth = [""], 0
    for letter in shape[1:-1]:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _shapes(text: str) -> list[int]:
    """Bytes of every array of a shape."""
    sizes = []
    for kind, axes in re.findall(r"([a-z]+\d*\w*)\[([\d,]*)\]", text):
        if kind in BITS:
            sizes.append(math.prod(int(axis) for axis in axes.split(",") if axis) * BITS[kind] // 8)
    return sizes
