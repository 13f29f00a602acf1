"""The Transformer: one stack for every task, in two families.

Pure init and apply; what a token sees is decided by the batch.
Axes: B batch  T position  S key position  D residual  N query heads  K kv heads  H head width  F mlp width  L layers.
"""

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from gptjax.config import Architecture, ModelConfig
from gptjax.nn.attention import Rule, attention_shares
from gptjax.nn.cached_attention import Cache, Place, attend_cached, write
from gptjax.nn.decoding_weights import rows_of, times
from gptjax.nn.embedding_noise import embedding_noise
from gptjax.nn.kernels import Kernel, attend_by, prepared
from gptjax.nn.linear import RESULT, linear
from gptjax.sharding import constrain

Remat = Literal["none", "products", "full"]
# What the backward pass finds stored: everything; the results of products with weights; only each layer's input.
REMAT_POLICIES = {"products": jax.checkpoint_policies.save_only_these_names(RESULT), "full": None}
INIT_STD = 0.02
# What `gptjax.look` sees of a pass: it gives `apply` this collection, mutable, with room for what layers sow. Nobody
# else does, and then nothing is sown, and no program is another one.
SEEN = "intermediates"
INPUT = "input_BTD"  # of it, what the first layer reads, where there is room for that
LORA_A, LORA_B = "_lora_a", "_lora_b"  # endings of the two matrices beside a weight
LORA_START = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # A's, within 1/sqrt(width), as PEFT's is


def weight(
    module: nn.Module, name: str, axes: tuple[str | None, ...], shape: tuple[int, ...], std: float = INIT_STD
) -> Any:
    """A float32 parameter drawn from N(0, std), with the logical names of its axes; or what it was replaced by."""
    init: Any = nn.with_logical_partitioning(nn.initializers.normal(std), axes)
    return module.param(name, init, shape)


def vector(module: nn.Module, name: str, width: int, value: float = 0.0) -> Array:
    """A float32 parameter vector that starts at `value`."""
    init: Any = nn.with_logical_partitioning(nn.initializers.constant(value), ("width",))
    return module.param(name, init, (width,))


class Norm(nn.Module):
    """RMSNorm, or LayerNorm for gpt2. Computed in float32, returned in x's dtype.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467 (RMSNorm).
    """

    config: Architecture
    centred: bool = False
    recomputed: bool = False  # by the backward pass, from x

    @nn.compact
    def __call__(self, x: Float[Array, "*rows X"]) -> Float[Array, "*rows X"]:
        scale_X = vector(self, "scale", x.shape[-1], 1.0)
        bias_X = vector(self, "bias", x.shape[-1]) if self.centred else None
        run = jax.checkpoint(_normalised, static_argnums=3) if self.recomputed else _normalised
        return run(x, scale_X, bias_X, self.config.norm_epsilon)


def _normalised(x: Array, scale_X: Array, bias_X: Array | None, epsilon: float) -> Array:
    x32 = x.astype(jnp.float32)
    if bias_X is not None:
        x32 = x32 - x32.mean(axis=-1, keepdims=True)
    x32 = x32 * jax.lax.rsqrt(jnp.square(x32).mean(axis=-1, keepdims=True) + epsilon)
    per_channel = (1,) * (x.ndim - 1) + (-1,)
    x32 = x32 * scale_X.reshape(per_channel)
    return (x32 if bias_X is None else x32 + bias_X.reshape(per_channel)).astype(x.dtype)


def _activated(activation: str, up: Array, gate: Array | None) -> Array:
    """In float32, also for speed: a CPU takes twice as long in bfloat16."""
    up32 = up.astype(jnp.float32)
    match activation:
        case "swiglu":  # Shazeer 2020, arXiv:2002.05202
            assert gate is not None
            up32 = jax.nn.silu(gate.astype(jnp.float32)) * up32
        case "relu2":  # So et al. 2021, arXiv:2109.08668
            up32 = jnp.square(jax.nn.relu(up32))
        case "gelu":
            up32 = jax.nn.gelu(up32, approximate=True)
    return up32.astype(up.dtype)


def rotate(x_BTNH: Float[Array, "B T N H"], angle_BTh: Float[Array, "B T h"]) -> Float[Array, "B T N H"]:
    """Rotary positions: turns the pair (i, i + H/2) of every head by angle i, in float32.

    Source: Su et al. 2021, arXiv:2104.09864, section 3.2; pairs laid out in halves, as Hugging Face does.
    """
    cos, sin = jnp.cos(angle_BTh)[:, :, None], jnp.sin(angle_BTh)[:, :, None]
    left, right = jnp.split(x_BTNH.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1).astype(x_BTNH.dtype)


def rotary_angles(config: Architecture, position_BT: Int[Array, "B T"]) -> Float[Array, "B T h"]:
    """Angle of every position and pair, radians in float32."""
    frequency_h = rotary_frequencies(config)
    return position_BT[..., None].astype(jnp.float32) * frequency_h[None, None, :]


def rotary_frequencies(config: Architecture) -> Float[Array, "h"]:
    """Radians a position of every pair, float32; the scaling slows them, so that longer texts turn no further.

    Source: Chen et al. 2023, arXiv:2306.15595, section 2.3 (linear); Llama Team 2024, arXiv:2407.21783, section 3.4 and
    its published code (llama3: slow pairs are slowed, fast ones kept, those between blended).
    """
    h = config.H // 2
    frequency_h = config.rope_theta ** (-jnp.arange(h, dtype=jnp.float32) / h)
    scaling = config.rope_scaling
    if scaling is None:
        return frequency_h
    slowed_h = frequency_h / scaling.factor
    if scaling.kind == "linear":
        return slowed_h
    turns_h = scaling.original_T * frequency_h / (2 * jnp.pi)  # within the context of the first training
    kept_h = (turns_h - scaling.low_turns) / (scaling.high_turns - scaling.low_turns)
    return slowed_h + jnp.clip(kept_h, 0, 1) * (frequency_h - slowed_h)


class Block(nn.Module):
    """One layer: attention and a feed-forward block, each on a normalised copy added back to the residual stream."""

    config: ModelConfig
    kernel: Kernel
    deterministic: bool
    # Norms and activations anew in the backward pass, from their inputs: it then keeps no float32 parts of them, half
    # of all that a step holds. Where whole layers are computed anew, this would only slow a TPU down.
    recomputed: bool = False
    turned: bool = False

    @nn.compact
    def __call__(self, carried, layer, sees, angle_BTh):
        """`carried`: (hidden states, keys and values of the stack or None); `layer`: its number in the cache's stack;
        `sees`: who sees whom, as the kernel takes it, or the Place in the cache."""
        config = self.config
        x_BTD, kept = carried
        x_BTD = constrain(x_BTD, "batch", "length", "residual")
        normed_BTD = self._norm("attention_norm", config.family == "gpt2")(x_BTD)
        attended_BTD, kept = self._attention(normed_BTD, kept, layer, sees, angle_BTh)
        x_BTD = x_BTD + self._dropout(attended_BTD)
        fed_BTD = self._feed_forward(self._norm("feed_forward_norm", config.family == "gpt2")(x_BTD))
        x_BTD = x_BTD + self._dropout(fed_BTD)
        self._show("state_CBTD", layer, x_BTD)
        return (x_BTD, kept), None

    def _show(self, name, layer, shown):
        """Sown into the place that the room which was given has for this layer; where it has none, into the last."""
        if self.is_mutable_collection(SEEN):
            place = self.get_variable(SEEN, "place_L")[layer]
            shown = jax.lax.stop_gradient(shown)

            def put(room, new):
                return jax.lax.dynamic_update_index_in_dim(room, new.astype(room.dtype), place, 0)

            self.sow(SEEN, name, shown, reduce_fn=put)

    def _attention(self, x_BTD, kept, layer, sees, angle_BTh):
        config = self.config
        B, T, _ = x_BTD.shape
        heads = {"query": config.N, "key": config.K, "value": config.K}
        q_BTNH, k_BTKH, v_BTKH = (
            self._project(x_BTD, name, ("embed", "heads"), count * config.H).reshape(B, T, count, config.H)
            for name, count in heads.items()
        )
        if config.qk_norm:
            q_BTNH, k_BTKH = self._norm("query_norm")(q_BTNH), self._norm("key_norm")(k_BTKH)
        if config.family == "llama":
            q_BTNH, k_BTKH = rotate(q_BTNH, angle_BTh), rotate(k_BTKH, angle_BTh)
        if kept is None:
            if self.is_mutable_collection(SEEN):
                prob_BNTS = attention_shares(q_BTNH, k_BTKH, sees, config.attention_cap)
                self._show("prob_CBnTS", layer, prob_BNTS[:, self.get_variable(SEEN, "head_n")])
            out_BTNH = attend_by(self.kernel, q_BTNH, k_BTKH, v_BTKH, sees, config.attention_cap)
        else:
            kept = tuple(write(old, new, layer, sees) for old, new in zip(kept, (k_BTKH, v_BTKH), strict=True))
            out_BTNH = attend_cached(q_BTNH, *kept, layer, sees, config.window, config.attention_cap)
        out_std = INIT_STD / (2 * config.L) ** 0.5  # Radford et al. 2019, section 2.3
        out_BTD = self._project(out_BTNH.reshape(B, T, -1), "attention_out", ("heads", "embed"), config.D, out_std)
        return out_BTD, kept

    def _feed_forward(self, x_BTD):
        config = self.config
        up_BTF = self._project(x_BTD, "up", ("embed", "mlp"), config.F)
        gated = config.activation == "swiglu"
        gate_BTF = self._project(x_BTD, "gate", ("embed", "mlp"), config.F) if gated else None
        run = jax.checkpoint(_activated, static_argnums=0) if self.recomputed else _activated
        up_BTF = run(config.activation, up_BTF, gate_BTF)
        return self._project(up_BTF, "down", ("mlp", "embed"), config.D, INIT_STD / (2 * config.L) ** 0.5)

    def _project(self, x_BTX, name, axes, width, std=INIT_STD):
        if self.turned:
            y_BTY = times(x_BTX, weight(self, name, axes[::-1], (width, x_BTX.shape[-1]), std)).astype(x_BTX.dtype)
        else:
            y_BTY = linear(x_BTX, weight(self, name, axes, (x_BTX.shape[-1], width), std), axes)
        if name in self.config.adapted:
            y_BTY = y_BTY + self._adapter(x_BTX, name, axes, width)
        if self.config.biased("heads" if "heads" in axes else "mlp"):
            y_BTY = y_BTY + vector(self, f"{name}_bias", width).astype(y_BTY.dtype)[None, None, :]
        return y_BTY

    def _adapter(self, x_BTX, name, axes, width):
        """Scale (x A) B. The rank, a few columns, lies whole on every device."""
        lora, X = self.config.lora, x_BTX.shape[-1]
        assert lora is not None
        into, out = (axes[0], None), (None, axes[1])
        start: Any = nn.with_logical_partitioning(LORA_START, into)
        a_Xr = self.param(f"{name}{LORA_A}", start, (X, lora.rank))
        b_rY = weight(self, f"{name}{LORA_B}", out, (lora.rank, width), std=0.0)
        dropout = nn.Dropout(lora.dropout, deterministic=self.deterministic, name=f"{name}_lora_dropout")
        return linear(lora.scale * linear(dropout(x_BTX), a_Xr, into), b_rY, out)

    def _norm(self, name, centred=False):
        return Norm(self.config, centred=centred, recomputed=self.recomputed, name=name)

    def _dropout(self, x_BTD):
        return nn.Dropout(self.config.dropout, deterministic=self.deterministic)(x_BTD)


class Transformer(nn.Module):
    """Token ids to the final hidden state; `logits_from` and `token_nll` of gptjax.nn.likelihood make scores of it.

    `dtype` is that of the products; parameters stay float32. `remat` says what the backward pass may keep; `unroll` how
    many layers one turn of the loop holds (numbers are the same; on a CPU a fully unrolled loop is faster, elsewhere it
    only compiles longer). `kernel` computes attention where there is no cache. `causal`: no token is visible to earlier
    ones, in any batch; kernels then know more before they are compiled. `parts`: the stack of layers is given in
    parts of those lengths, `layers_0`, `layers_1`, ... in place of `layers`, run one after another: what none of
    a part's parameters is differentiated by costs no gradient. Dropout then draws other numbers. `turned`: the layers'
    matrices lie [Y,X], as `gptjax.nn.decoding_weights` lays them out. `embedding_noise`: NEFTune's alpha, 0 = none; of
    training alone, as dropout.
    """

    config: ModelConfig
    dtype: Any = jnp.float32
    remat: Remat = "none"
    unroll: int = 1
    kernel: Kernel = "xla"
    causal: bool = False
    parts: tuple[int, ...] | None = None
    turned: bool = False
    embedding_noise: float = 0.0

    @nn.compact
    def __call__(
        self,
        tokens_BT: Int[Array, "B T"],
        segment_BT: Int[Array, "B T"],
        position_BT: Int[Array, "B T"],
        visible_BT: Bool[Array, "B T"],
        *,
        cache: Cache | None = None,
        slot_B: Int[Array, "B"] | None = None,
        row: Int[Array, ""] | int = 0,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        """Hidden states after the last norm.

        With a cache the batch is rows `row`... of it, each one text: tokens go to slots slot_B... and see all earlier
        ones; padding stands at the end. Only with slot 0 may any be visible to all.
        """
        config = self.config
        table_VD = weight(self, "embedding", ("vocabulary", "embed"), (config.V, config.D))
        if not config.tied:  # made here, so that init knows it; used by `head`
            weight(self, "head", ("vocabulary", "embed"), (config.V, config.D))
        if config.class_heads:  # likewise, for gptjax.nn.class_heads
            count = len(config.class_heads)
            weight(self, "class_heads", (None, "embed", None), (count, config.D, config.C))
            weight(self, "class_heads_bias", (None, None), (count, config.C), std=0.0)
            if config.attends:  # each starts as the plain mean
                weight(self, "class_heads_query", (None, "embed"), (count, config.D), std=0.0)
        # + 0, unless `gptjax.look` asks how the result moves with it
        x_BTD = self.perturb("embedded_BTD", rows_of(table_VD, tokens_BT, self.dtype))
        if self.embedding_noise and not deterministic:
            noise_BTD = embedding_noise(self.make_rng("dropout"), segment_BT, config.D, self.embedding_noise)
            x_BTD = x_BTD + noise_BTD.astype(self.dtype)
        if config.family == "gpt2":
            place_TD = weight(self, "position_embedding", (None, "embed"), (config.T, config.D))
            x_BTD = x_BTD + jnp.take(place_TD, position_BT, axis=0).astype(self.dtype)
        x_BTD = nn.Dropout(config.dropout, deterministic=deterministic)(x_BTD)
        if self.has_variable(SEEN, INPUT):  # there is room for what the first layer reads
            self.sow(SEEN, INPUT, x_BTD, reduce_fn=lambda room, new: new.astype(room.dtype))

        if cache is None:
            sees = prepared(self.kernel, Rule.of(segment_BT, None if self.causal else visible_BT, config.window))
        else:
            assert slot_B is not None
            sees = Place(jnp.asarray(row, jnp.int32), slot_B, visible_BT.sum(axis=1, dtype=jnp.int32))
        angle_BTh = rotary_angles(config, position_BT)
        recomputed = self.remat == "none"
        stacks = [("layers", config.L)] if self.parts is None else numbered(self.parts)
        kept = []  # keys and values of each stack
        for number, (name, length) in enumerate(stacks):
            layers = self._stack(length)(config, self.kernel, deterministic, recomputed, self.turned, name=name)
            of_stack = None if cache is None else (cache.k_LBKSH[number], cache.v_LBKSH[number])
            numbered_layers = cache is not None or self.is_mutable_collection(SEEN)
            layer_L = jnp.arange(length) if numbered_layers else None
            (x_BTD, of_stack), _ = layers((x_BTD, of_stack), layer_L, sees, angle_BTh)
            kept.append(of_stack)
        hidden_BTD = Norm(config, config.family == "gpt2", recomputed, name="final_norm")(x_BTD)
        return hidden_BTD, None if cache is None else Cache(*map(tuple, zip(*kept, strict=True))).placed()

    def _stack(self, length: int) -> Any:
        """So many layers one after another, as a module class."""
        # an unrolled loop is no loop to XLA, nor is one of a single turn, and it would then merge what is computed anew
        # with what was computed before
        no_loop = self.unroll > 1 or length < self.config.L
        block = (
            Block if self.remat == "none" else nn.remat(Block, policy=REMAT_POLICIES[self.remat], prevent_cse=no_loop)
        )
        return nn.scan(
            block,
            variable_axes={"params": 0},
            variable_carry=SEEN,
            split_rngs={"params": True, "dropout": True},
            # flax leaves in_axes without a type, and int is inferred from its default
            in_axes=(0, nn.broadcast, nn.broadcast),  # pyright: ignore[reportArgumentType]
            length=length,
            unroll=min(self.unroll, length),
            metadata_params={nn.PARTITION_NAME: "layers"},
        )


def numbered(parts: Sequence[int]) -> list[tuple[str, int]]:
    """The names of a stack's parts, with their lengths."""
    return [(f"layers_{number}", length) for number, length in enumerate(parts)]


def draws(model: Transformer) -> bool:
    """Whether its training draws numbers."""
    return model.config.drops or model.embedding_noise > 0


def head(params: Any) -> Any:
    """The table that scores tokens: the embedding itself where it is tied."""
    return params["head"] if "head" in params else params["embedding"]


def init_params(model: Transformer, key: Array) -> Any:
    """Parameters in Linen's boxes, which carry the logical axis names (`nn.unbox` takes them off)."""
    one = jnp.zeros((1, 1), jnp.int32)  # too small a text for any kernel
    return model.clone(kernel="xla").init(key, one, one + 1, one, one.astype(bool), mutable=["params"])["params"]
