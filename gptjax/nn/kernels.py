"""Attention by the backend: XLA everywhere, the splash kernel on a TPU, cuDNN's flash attention on a GPU.

All three take the whole rule of `gptjax.nn.attention.attention_mask`, as a mask. Splash skips each block of it in which
nobody may look, so that a causal row costs half of a bidirectional one; cuDNN takes the mask as a bias and skips
nothing.
Axes: B batch  T query position  S key position  N query heads  K kv heads  H head width  h heads of all rows.
"""

import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gptjax.mesh_axes import mesh_axes
from gptjax.nn.attention import attend
from gptjax.sharding import per_device

Kernel = Literal["xla", "splash", "cudnn"]
SMALLEST_BLOCK, LARGEST_BLOCK = 128, 512  # positions that splash works through at once
CUDNN_WIDEST_HEAD = 128
OLDEST_CUDNN_GPU = 8.0  # compute capability


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


def prepared(kernel: Kernel, mask_BTS: Bool[Array, "B T S"]) -> Any:
    """What `attend_by` takes for the mask; made once for all layers."""
    if kernel != "splash":
        return mask_BTS
    return per_device(_blocks_of, (("batch",),), ("batch",), over=mesh_axes())(mask_BTS)


def attend_by(
    kernel: Kernel,
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKH: Float[Array, "B S K H"],
    mask: Any,
    cap: float | None = None,
    *,
    interpret: bool = False,
) -> Float[Array, "B T N H"]:
    """`attend` by a kernel; `mask` as `prepared` gave it. `interpret` runs splash in Python, for tests."""
    match kernel:
        case "xla":
            return attend(q_BTNH, k_BSKH, v_BSKH, mask, cap)
        case "cudnn":
            assert cap is None  # `kernel_for` sees to it
            run = _cudnn
        case "splash":
            run = functools.partial(_splash, cap=cap, interpret=interpret)
    heads = ("batch", "length", "heads", "width")
    return per_device(run, (heads, heads, heads, ("batch",)), heads, over=mesh_axes())(q_BTNH, k_BSKH, v_BSKH, mask)


def _cudnn(q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, mask_BTS: Array) -> Array:
    return jax.nn.dot_product_attention(q_BTNH, k_BSKH, v_BSKH, mask=mask_BTS[:, None], implementation="cudnn")


def _blocks_of(mask_BTS: Array) -> tuple[Any, Any]:
    """Splash's two views of the mask: by query block for the forward pass, by key block for the backward pass.

    Each holds per row which blocks are empty, full or mixed, and the mixed blocks themselves.
    """
    # imported where it is used: it takes most of a second, which a CPU need not spend
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask_info as splash_mask

    block = math.gcd(mask_BTS.shape[1], LARGEST_BLOCK)
    views = (splash_mask.process_dynamic_mask, splash_mask.process_dynamic_mask_dkv)
    # rows take the place of heads here; the flag, a Python bool, would not survive tracing
    forward, backward = (view(mask_BTS, (block, block))[0]._replace(is_dynamic_mask=None) for view in views)
    return forward, backward


def _splash(q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, mask: Any, *, cap: float | None, interpret: bool) -> Array:
    """One call of the kernel for all rows: their heads follow one another, and each finds its row's blocks."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

    B, T, N, H = q_BTNH.shape
    block = math.gcd(T, LARGEST_BLOCK)
    sizes = splash.BlockSizes(
        block_q=block, block_kv=block, block_kv_compute=block,
        block_q_dkv=block, block_kv_dkv=block, block_kv_dkv_compute=block, use_fused_bwd_kernel=True,
    )  # fmt: skip

    def of_heads(info: Any) -> Any:
        named = {name: getattr(info, name) for name in ("data_next", "mask_next", "block_mask")}
        return info._replace(**{name: jnp.repeat(array, N, axis=0) for name, array in named.items()})

    forward, backward = map(of_heads, mask)
    kernel = splash.SplashAttentionKernel(
        forward, None, backward, block_sizes=sizes, is_mqa=False, save_residuals=False,
        mask_value=splash.DEFAULT_MASK_VALUE, attn_logits_soft_cap=cap, residual_checkpoint_name=None,
        mask_function=None, interpret=interpret,
    )  # fmt: skip

    def heads_first(x_BTNH: Array) -> Array:
        return jnp.swapaxes(x_BTNH, 1, 2).reshape(-1, x_BTNH.shape[1], H)

    out_hTH = kernel(heads_first(q_BTNH * H**-0.5), heads_first(k_BSKH), heads_first(v_BSKH))
    assert isinstance(out_hTH, jax.Array)  # residuals were not asked for
    return jnp.swapaxes(out_hTH.reshape(B, N, T, H), 1, 2)
