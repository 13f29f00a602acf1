"""From a gradient to an update: clipping, AdamW, the learning rate over the run, and which parameters decay."""

from typing import Any

import jax
import optax

from train.recipe import OptimizerSpec


def learning_rate(spec: OptimizerSpec, steps: int) -> optax.Schedule:
    """Learning rate of every step: linear warm-up, then a cosine, or a plateau and a linear fall, to `final` x peak."""
    peak, end = spec.learning_rate, spec.learning_rate * spec.final
    warmup = optax.linear_schedule(0.0, peak, spec.warmup)
    if spec.schedule == "cosine":
        rest = optax.cosine_decay_schedule(peak, max(1, steps - spec.warmup), alpha=spec.final)
        return optax.join_schedules([_from_one(warmup), rest], [spec.warmup])
    fall = max(1, round(steps * spec.decay))
    plateau = optax.constant_schedule(peak)
    return optax.join_schedules(
        [_from_one(warmup), plateau, optax.linear_schedule(peak, end, fall)], [spec.warmup, steps - fall]
    )


def _from_one(schedule: optax.Schedule) -> optax.Schedule:
    """The same ramp without its zero: the first step learns too."""
    return lambda count: schedule(count + 1)


def decays(params: Any) -> Any:
    """True for matrices, False for norms and biases; by name, as stacking gives a layer's vectors a second axis."""

    def is_matrix(path, _):
        name = [part.key for part in path if isinstance(part, jax.tree_util.DictKey)][-1]
        return not name.endswith(("scale", "bias"))

    return jax.tree_util.tree_map_with_path(is_matrix, params)


def make_optimizer(spec: OptimizerSpec, steps: int) -> optax.GradientTransformation:
    """AdamW with decoupled weight decay after clipping by global norm. Moments are float32, as the parameters are."""
    return optax.chain(
        optax.clip_by_global_norm(spec.clip),
        optax.adamw(
            learning_rate(spec, steps), b1=spec.beta1, b2=spec.beta2, weight_decay=spec.weight_decay, mask=decays
        ),
    )  # fmt: skip
