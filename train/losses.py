"""How a micro-batch is scored: summed nats of each task, never divided here. Axes: B batch  T position  K tasks."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gptjax.batch import Batch
from gptjax.likelihood import token_nats
from gptjax.model import Transformer, head
from train.objectives import by_task


def task_nats(
    params: Any, model: Transformer, batch: Batch, chunks: int, dropout_key: Array | None = None
) -> Float[Array, "K"]:
    """Weighted nats of each task, summed over the batch in float32. Without a key, dropout is off."""
    hidden_BTD, _ = model.apply(
        {"params": params}, batch.tokens_BT, batch.segment_BT, batch.position_BT, batch.visible_BT,
        deterministic=dropout_key is None, rngs={} if dropout_key is None else {"dropout": dropout_key},
    )  # fmt: skip
    config = model.config
    nats_BT = token_nats(
        hidden_BTD, head(params), batch.targets_BT,
        vocabulary=config.vocabulary, chunks=chunks, cap=config.logit_cap,
    )  # fmt: skip
    return by_task(jnp.where(batch.weights_BT > 0, nats_BT * batch.weights_BT, 0.0), batch.task_BT)


def micro_batch_loss(
    params: Any, model: Transformer, batch: Batch, factor_K: Array, chunks: int, dropout_key: Array | None
) -> tuple[Float[Array, ""], Float[Array, "K"]]:
    """(this micro-batch's part of the step's loss, nats of each task)."""
    nats_K = task_nats(params, model, batch, chunks, dropout_key)
    return jnp.sum(nats_K * factor_K), jax.lax.stop_gradient(nats_K)
