"""How fast, and compared with what: tokens a second over finished steps, and the share of the machine's peak."""

import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import tensorflow as tf

from gptjax.checkpoint import write_whole

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
    kind = jax.devices()[0].device_kind
    for name, peak in sorted(CHIP_PEAKS.items(), key=lambda item: -len(item[0])):
        if kind.startswith(name) and dtype == "bfloat16":
            return peak * jax.device_count()
    size = 1024 if kind == "cpu" else 8192
    a = jnp.ones((size, size), dtype)
    product = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32).astype(dtype))
    product(a, a).block_until_ready()
    fastest = min(_seconds(product, a) for _ in range(5))
    return 2 * size**3 / fastest * jax.device_count() / (jax.local_device_count() if kind == "cpu" else 1)


def _seconds(product: Any, a: jax.Array) -> float:
    start = time.perf_counter()
    product(a, a).block_until_ready()
    return time.perf_counter() - start


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
    """`metrics.jsonl`, and the same numbers as TensorBoard events."""

    def __init__(self, run: Path, last_step: int):
        path = run / "metrics.jsonl"
        keep = [line for line in _whole_lines(path) if json.loads(line)["step"] <= last_step]
        write_whole(path, "".join(keep))  # what a run did after its last checkpoint, it will do again
        self._file = path.open("a", encoding="utf-8")
        self._events = tf.summary.create_file_writer(str(run / "tensorboard"))

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Appends one record; numbers become TensorBoard curves named `kind/value` or `kind/source/value`."""
        print(json.dumps({"kind": kind, "step": step, **values}), file=self._file, flush=True)
        group = "/".join([kind, *([values["source"]] if "source" in values else [])])
        with self._events.as_default():
            for name, value in values.items():
                if isinstance(value, int | float):
                    tf.summary.scalar(f"{group}/{name}", value, step=step)

    def close(self) -> None:
        self._file.close()
        self._events.close()


def _whole_lines(path: Path) -> list[str]:
    """Lines of a file that end in a line break: a killed run may leave half a line behind."""
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
