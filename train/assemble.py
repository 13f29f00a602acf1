"""From a recipe to its text, mesh, model and steps: what training, benchmark and compiling for other chips share."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from data.prepare import Begun, prepare, vocabulary_bound
from gptjax.batch import Batch, ClassHead
from gptjax.config import ModelConfig
from gptjax.inference.generation_config import GenerationConfig
from gptjax.nn.kernels import Kernel, kernel_for
from gptjax.nn.model import Transformer
from gptjax.sharding import check_divides, local_shape, make_mesh, one_a_device
from gptjax.text.tokenizer import Tokenizer
from train.layout import Layout, asked_for
from train.losses.loss import Sums
from train.objectives import LossSpec, loss_spec
from train.recipe import Recipe
from train.step import State, abstract_state, make_train_step, make_validation_step
from train.tuning.base import open_base, with_kept_heads
from train.tuning.tune_recipe import TuneRecipe

if TYPE_CHECKING:  # imported where it is used: to compile for another chip needs no TensorFlow
    from train.loader import Loader
    from train.rows import RunRows


class Text(NamedTuple):
    """What a run reads."""

    prepared: Path  # folder of data.prepare
    tokenizer: Tokenizer
    rows: "RunRows"
    loss_spec: LossSpec  # what the objectives make of it
    generation_config: GenerationConfig  # how the model will talk


def open_text(recipe: Recipe, of_run: Begun | None = None) -> Text:
    """The text of a recipe, prepared now if it was not yet.

    Raises ValueError if a source cannot be read, or an objective cannot be learnt from this text.
    """
    prepared = prepared_of(recipe, of_run)
    rows = rows_of(recipe, prepared)
    head = recipe.examples.head if isinstance(recipe, TuneRecipe) else None
    of_heads = {} if head is None else {"smoothing": head.smoothing, "dropout": head.dropout}
    spec = loss_spec(rows, recipe.batch.rows, recipe.objectives.combine, **of_heads)
    if isinstance(recipe, TuneRecipe):
        from train.tuning.talks import talks_of

        tokenizer, generation_config = talks_of(recipe)
    else:
        tokenizer = rows.corpus.tokenizer
        generation_config = GenerationConfig.of_runs(tokenizer)
    return Text(prepared, tokenizer, rows, spec, generation_config)


def prepared_of(recipe: Recipe, of_run: Begun | None = None) -> Path:
    """The folder of a recipe's text, prepared now if it was not yet."""
    if isinstance(recipe, TuneRecipe):
        from train.tuning.talks import prepared_examples

        return prepared_examples(recipe)
    return prepare(recipe.data, of_run=of_run)


def vocabulary_of(recipe: Recipe) -> int:
    """Number of tokens, as far as it is known before any text is read: at most so many."""
    return open_base(recipe.base).tokenizer.size if isinstance(recipe, TuneRecipe) else vocabulary_bound(recipe.data)


def rows_of(recipe: Recipe, prepared: Path) -> "RunRows":
    """The training rows of a recipe. Raises ValueError where its objectives and the text do not fit."""
    from data.rows.rows import epochs
    from train.rows import RunRows

    objectives = recipe.objectives.for_epochs(epochs(prepared, recipe.horizon))
    augment = recipe.augment if isinstance(recipe, TuneRecipe) else None
    return RunRows(prepared, recipe.row_length, recipe.seed, recipe.horizon, objectives.tasks, augment)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Assembly:
    """A run before its first number: nothing is compiled or computed yet."""

    recipe: Recipe
    loss_spec: LossSpec
    model: Transformer
    mesh: Mesh
    layout: Layout  # on it: as the recipe asks, or as the devices of this start make it
    config: ModelConfig
    abstract: State  # shapes, dtypes and places of the state
    fresh: Callable[[], State]  # makes the state of step 0
    train_step: Callable[[State, Batch, jax.Array], tuple[State, dict[str, jax.Array]]]
    validation_step: Callable[..., tuple[dict[str, Sums], jax.Array, jax.Array]]

    @property
    def tokens_per_step(self) -> int:
        return self.recipe.batch.rows * self.recipe.row_length

    @functools.cached_property
    def loader(self) -> "Loader":
        """What brings batches onto the devices."""
        from train.loader import Loader

        return Loader(self.mesh, self.recipe.batch.rows, self.layout.micro_batches, self.layout.micro_rows)

    def stop_flag(self, stop: bool) -> jax.Array:
        """What this host tells the others with a step: whether it wants to stop after it."""
        own = np.full(len(self.mesh.local_devices), stop, np.int32)
        return jax.make_array_from_process_local_data(one_a_device(self.mesh), own)


def mesh_of(recipe: Recipe, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh that a recipe asks for; None = over all devices that are here."""
    devices = jax.devices() if devices is None else devices
    return make_mesh(**recipe.mesh.over(len(devices)), devices=devices)


def model_of(recipe: Recipe, vocabulary: int, heads: Sequence[ClassHead] = ()) -> ModelConfig:
    """The model of a recipe, a tokenizer and output heads beside that of the tokens."""
    if isinstance(recipe, TuneRecipe):
        heads = with_kept_heads(recipe.base, recipe.run, heads, recipe.heads_alone)
    config = ModelConfig.of(recipe.model, vocabulary, heads)
    if isinstance(recipe, TuneRecipe) and recipe.lora is not None:
        config = dataclasses.replace(config, lora=recipe.lora)
    return config


def config_of(
    recipe: Recipe, vocabulary: int, mesh: Mesh, heads: Sequence[ClassHead] = (), layout: Layout | None = None
) -> ModelConfig:
    """The same; `layout`: how the rows lie, None = as the recipe asks.

    Raises ValueError where mesh or kernel cannot compute it.
    """
    config, layout = model_of(recipe, vocabulary, heads), layout or asked_for(recipe, mesh.size)
    check_divides(mesh.shape, config, rows=layout.micro_rows, tokens=recipe.row_length)
    kernel_of(recipe, config, mesh)
    return config


def kernel_of(recipe: Recipe, config: ModelConfig, mesh: Mesh) -> Kernel:
    """The attention kernel that a recipe asks for, or the fastest here. Raises ValueError if it cannot be had."""
    compute, device = recipe.compute, mesh.devices.flat[0]
    _, T = local_shape(mesh, recipe.batch.micro_rows, recipe.row_length)
    return kernel_for(device, compute.dtype, T, config.H, config.attention_cap, compute.kernel)


def assemble(
    recipe: Recipe, vocabulary: int, loss_spec: LossSpec, mesh: Mesh, layout: Layout | None = None
) -> Assembly:
    """Builds all of a run but its text; `layout` as in `config_of`.

    Call it, and the steps, under jax.set_mesh(mesh).
    """
    layout = layout or asked_for(recipe, mesh.size)
    config = config_of(recipe, vocabulary, mesh, loss_spec.heads, layout)
    unroll = config.L if recipe.compute.unroll else 1
    compute = recipe.compute
    model = Transformer(
        config, jnp.dtype(compute.dtype), compute.remat, unroll, kernel_of(recipe, config, mesh),
        causal=recipe.objectives.all_causal, gradient_dtype=jnp.dtype(compute.gradients),
    )  # fmt: skip
    if isinstance(recipe, TuneRecipe):
        model = model.clone(embedding_noise=float(recipe.augment.embedding_noise))
    spec, steps, B = recipe.optimizer, recipe.steps, layout.micro_rows
    if len(config.class_heads) > len(loss_spec.heads):  # those of a base, which nothing trains, do not decay either
        spec = dataclasses.replace(spec, decays=(("class_heads.*", 0.0), *spec.decays))
    # unrolled, the first state would take seconds longer to compile, and be the same
    abstract, fresh = abstract_state(model.clone(unroll=1), spec, loss_spec, steps, mesh, recipe.seed)
    return Assembly(
        recipe=recipe, loss_spec=loss_spec, model=model, mesh=mesh, layout=layout, config=config,
        abstract=abstract, fresh=fresh,
        train_step=make_train_step(model, spec, loss_spec, steps, abstract, mesh, B, recipe.seed),
        validation_step=make_validation_step(model, loss_spec, abstract, mesh, B),
    )  # fmt: skip
