"""How fast, and compared with what: seconds of the start, tokens a second, compilations, the share of the peak."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tensorflow as tf

from gptjax.nn.attention import product_precision
from train.record.journal import Journal, note_start, records_of

# Peak bfloat16 products, operations a second of one chip, from the makers' data sheets.
CHIP_PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def peak_flops(dtype: str) -> float:
    """Operations a second that all devices could do: the data sheet's for known chips, else a product timed here."""
    return data_sheet_flops(dtype) or measured_flops(dtype)


def data_sheet_flops(dtype: str) -> float | None:
    """What the maker promises of all devices; None for a dtype or a chip that is not in the table."""
    kind = jax.devices()[0].device_kind
    for name, peak in sorted(CHIP_PEAKS.items(), key=lambda item: -len(item[0])):
        if kind.startswith(name) and dtype == "bfloat16":
            return peak * jax.device_count()
    return None


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


class Records:
    """`metrics.jsonl`, and the same numbers as TensorBoard events, of a run that goes on after `step`, 0 for a new one.

    The other arguments are those of `Journal`. TensorBoard drops what earlier starts wrote of that step and later ones;
    what stays of that step is written to it again.
    """

    def __init__(
        self,
        run: Path,
        step: int,
        stays: Callable[[dict[str, Any]], bool],
        warn: Callable[[str], None],
        writes: bool = True,
    ):
        path = run / "metrics.jsonl"
        if writes:
            note_start(run, step, warn)
        self._journal = Journal(path, stays, warn, writes)
        self._events = _Events(run / "tensorboard", warn) if writes else None
        if self._events is None:
            return
        self._events.add(step, session_log={"status": tf.compat.v1.SessionLog.START})
        for record in records_of(path):
            if record["step"] == step:
                self._draw(**record)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Appends one record; numbers become TensorBoard curves named `kind/value`, of a source or a task
        `kind/source/value`, and those of a dict `kind/value/key`."""
        self._journal.note({"kind": kind, "step": step, **values})
        self._journal.flush()
        self._draw(kind, step, **values)

    def _draw(self, kind: str, step: int, **values: Any) -> None:
        if self._events is None:
            return
        group = "/".join([kind, *(values[key] for key in ("source", "task") if key in values)])
        numbers = {name: value for name, value in values.items() if not isinstance(value, dict)}
        for name, value in values.items():
            numbers |= {f"{name}/{key}": one for key, one in value.items()} if isinstance(value, dict) else {}
        points = [
            {"tag": f"{group}/{name}", "simple_value": value}
            for name, value in numbers.items()
            if isinstance(value, int | float)
        ]
        self._events.add(step, summary={"value": points})

    def close(self) -> None:
        self._journal.close()
        if self._events is not None:
            self._events.close()


class _Events:
    """TensorBoard's file, of which a run is independent: what cannot be written is told once, and then lost."""

    def __init__(self, folder: Path, warn: Callable[[str], None]):
        self._warn, self._lost = warn, False
        _await_new_second(folder)
        self._writer = tf.raw_ops.SummaryWriter(shared_name="", container="")
        opening = {"logdir": str(folder), "max_queue": 10, "flush_millis": 120_000, "filename_suffix": ".v2"}
        self._safely(lambda: tf.raw_ops.CreateSummaryFileWriter(writer=self._writer, **opening))

    def add(self, step: int, **what: Any) -> None:
        """One event, by its fields. A session_log that starts makes TensorBoard forget that step and later ones."""
        event = tf.compat.v1.Event(step=step, wall_time=float(tf.timestamp()), **what).SerializeToString()
        self._safely(lambda: tf.raw_ops.ImportEvent(writer=self._writer, event=event))

    def close(self) -> None:
        self._safely(lambda: tf.raw_ops.CloseSummaryWriter(writer=self._writer))

    def _safely(self, act: Callable[[], object]) -> None:
        if self._lost:
            return
        try:
            act()
        except (OSError, tf.errors.OpError) as error:
            self._lost = True
            self._warn(f"TensorBoard's events cannot be written ({error}): training goes on without them")


def _await_new_second(folder: Path) -> None:
    """Returns in a second in which no file was begun: TensorBoard reads files by name, which begins with that second.

    Of a younger file that sorted before an older one, what both say would be taken from the older.
    """
    while any(folder.glob(f"events.out.tfevents.{int(time.time()):010}.*")):
        time.sleep(0.05)
