"""Attention by the backend: XLA everywhere, the splash kernel on a TPU, cuDNN's flash attention on a GPU.

All three take the rule of `gptjax.nn.attention`, and each builds of it what it needs: `gptjax/nn/splash.py` numbers per
query and per block, XLA and cuDNN a mask, cuDNN's as a bias, and it skips nothing.
Axes: B batch  T query position  S key position  N query heads  K kv heads  H head width.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gptjax.mesh_axes import mesh_axes
from gptjax.nn.attention import Rule, attend, attention_mask
from gptjax.nn.context import over_context
from gptjax.nn.splash import SMALLEST_BLOCK, splash
from gptjax.sharding import length_ways, per_device, splits_evenly

Kernel = Literal["xla", "splash", "cudnn"]
CUDNN_WIDEST_HEAD = 128
OLDEST_CUDNN_GPU = 8.0  # compute capability
HEADS = ("batch", "length", "heads", "width")


def kernel_for(
    device: Any, dtype: Any, T: int, H: int, cap: float | None = None, wanted: Kernel | None = None
) -> Kernel:
    """The fastest kernel that computes exactly this on a device; or the one wanted, if it can.

    Splash wants T in blocks of 128 and 16-bit products, since it rounds float32 operands; cuDNN wants an Ampere GPU or
    later, 16 bits, an even T, heads of a width that is a multiple of 8 up to 128, and no cap. XLA does all.

    Raises ValueError where the wanted one cannot.
    """
    short = jnp.dtype(dtype).itemsize == 2
    nvidia = device.platform == "gpu" and device.device_kind.startswith("NVIDIA")
    able = {
        "splash": device.platform == "tpu" and short and T % SMALLEST_BLOCK == 0,
        "cudnn": (nvidia and float(device.compute_capability) >= OLDEST_CUDNN_GPU)
        and (short and T % 2 == 0 and H % 8 == 0 and H <= CUDNN_WIDEST_HEAD and cap is None),
        "xla": True,
    }
    if wanted is not None and not able[wanted]:
        raise ValueError(
            f"compute.kernel={wanted!r} cannot do this: device {device.platform}, {jnp.dtype(dtype).name}, T={T}, "
            f"heads of {H}, attention_cap={cap}; leave it out, and the fastest that can is taken"
        )
    return wanted or next(kernel for kernel, can in able.items() if can)  # pyright: ignore[reportReturnType]


def prepared(kernel: Kernel, rule: Rule) -> Rule | Bool[Array, "B T T"]:
    """What `attend_by` takes, made once for all layers: the rule, and for XLA, which splits products by itself unless
    devices share rows, the mask."""
    shared = length_ways() > 1 and splits_evenly(rule.segment_BT, "batch", "length")  # else a single text, or none
    return rule if shared or kernel != "xla" else attention_mask(rule)


def attend_by(
    kernel: Kernel,
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKH: Float[Array, "B S K H"],
    sees: Rule | Bool[Array, "B T S"],
    cap: float | None = None,
    *,
    interpret: bool = False,
) -> Float[Array, "B T N H"]:
    """`attend` by a kernel, of rows that look at themselves; `sees` as `prepared` gave it. `interpret` runs splash in
    Python, for tests."""
    if not isinstance(sees, Rule):
        return attend(q_BTNH, k_BSKH, v_BSKH, sees, cap)

    def run(q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, rule: Rule) -> Array:
        match kernel:
            case "xla":
                return attend(q_BTNH, k_BSKH, v_BSKH, attention_mask(rule), cap)
            case "cudnn":
                assert cap is None  # `kernel_for` sees to it
                mask_B1TS = attention_mask(rule)[:, None]
                return jax.nn.dot_product_attention(q_BTNH, k_BSKH, v_BSKH, mask=mask_B1TS, implementation="cudnn")
            case "splash":
                return splash(q_BTNH, k_BSKH, v_BSKH, rule, cap, interpret=interpret)

    def on_device(q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, rule: Rule) -> Array:
        return over_context(run, q_BTNH, k_BSKH, v_BSKH, rule)

    each = per_device(on_device, (HEADS, HEADS, HEADS, ("batch",)), HEADS, over=mesh_axes())
    return each(q_BTNH, k_BSKH, v_BSKH, sees)
