"""How fast, and compared with what: seconds of the start, tokens a second, compilations, the share of the peak."""

import time
from collections import Counter, defaultdict
from typing import Any

import jax
import jax.numpy as jnp

from gptjax.nn.attention import product_precision
from train.planning.chips import peak_of


def peak_flops(dtype: str) -> float:
    """Operations a second that all devices could do: the data sheet's for known chips, else a product timed here."""
    return data_sheet_flops(dtype) or measured_flops(dtype)


def data_sheet_flops(dtype: str) -> float | None:
    """What the maker promises of all devices; None for a dtype or a chip that is not in the table."""
    peak = peak_of(jax.devices()[0].device_kind)
    return peak * jax.device_count() if peak is not None and dtype == "bfloat16" else None


def measured_flops(dtype: str) -> float:
    """The fastest of several products of square matrices on one device, times the devices (those of a CPU share it)."""
    kind = jax.devices()[0].device_kind
    size = 1024 if kind == "cpu" else 8192
    a = jnp.ones((size, size), dtype)
    exact = {"preferred_element_type": jnp.float32, "precision": product_precision(a.dtype)}  # as the model multiplies
    product = jax.jit(lambda a, b: jnp.matmul(a, b, **exact).astype(dtype))
    product(a, a).block_until_ready()
    fastest = min(_seconds(product, a) for _ in range(5))
    return 2 * size**3 / fastest * jax.device_count() / (jax.local_device_count() if kind == "cpu" else 1)


def _seconds(product: Any, a: jax.Array) -> float:
    start = time.perf_counter()
    product(a, a).block_until_ready()
    return time.perf_counter() - start


class Start:
    """What the seconds from the program's start to its first finished step went to, stage by stage."""

    def __init__(self, began: float):
        self.began = self._since = began  # by time.perf_counter()
        self.seconds: dict[str, float] = {}

    def finished(self, stage: str) -> None:
        """All the time since the stage before it ended was this stage's."""
        now = time.perf_counter()
        self.seconds[stage] = now - self._since
        self._since = now

    def __str__(self) -> str:
        stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in self.seconds.items())
        return f"{sum(self.seconds.values()):.1f} s after the start: {stages}"


class Compilations:
    """Every compilation while the block runs, as JAX reports them: `seconds` and `counts` by the function's name.

    What a compilation cache supplied counts too, with the seconds that it took to load.
    """

    EVENT = "/jax/core/compile/backend_compile_duration"

    def __enter__(self) -> "Compilations":
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.counts: Counter[str] = Counter()
        jax.monitoring.register_event_duration_secs_listener(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._note)

    def _note(self, event: str, duration_secs: float, **about: str | int) -> None:
        if event == self.EVENT:
            name = str(about["fun_name"])
            self.seconds[name] += duration_secs
            self.counts[name] += 1


class Speed:
    """Tokens a second over finished, warm steps. The clock stops while something else than training goes on."""

    def __init__(self, tokens_per_step: int, flops_per_token: int, peak: float):
        self._tokens, self._flops, self._peak = tokens_per_step, flops_per_token, peak
        self.start()

    def start(self) -> None:
        """Starts a new stretch: the steps before it, and the time they took, are forgotten."""
        self._since, self._steps = time.perf_counter(), 0

    def step(self) -> None:
        """Call when a step has finished, its loss read."""
        self._steps += 1

    @property
    def tokens_per_second(self) -> float:
        return self._steps * self._tokens / max(time.perf_counter() - self._since, 1e-9)

    @property
    def mfu(self) -> float:
        """Model FLOPs utilisation: tokens a second x ModelConfig.flops_per_token / peak operations a second."""
        return self.tokens_per_second * self._flops / self._peak
