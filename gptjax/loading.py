"""Parameters onto devices: from a run's checkpoint, or from files that somebody else wrote."""

import dataclasses
import math
import warnings
from typing import Any, Literal

import jax
from flax import linen as nn

from gptjax.config import ModelConfig
from gptjax.exchange.imported_model import ImportedModel
from gptjax.exchange.peft_adapter import Adapter, check_base
from gptjax.inference.language_model import LanguageModel
from gptjax.nn.fingerprint import fingerprint
from gptjax.nn.lora import adapters_of, merged, with_adapters
from gptjax.nn.model import Transformer, init_params
from gptjax.runs import checkpoint, manifest
from gptjax.runs.rundir import Run
from gptjax.sharding import check_divides, shardings


def restore_model(
    run: Run,
    step: int | None,
    *,
    weights: Literal["trained", "ema"],
    dtype: Any,
    mesh: Any,
    adapter: Adapter | None = None,
    merge: bool = True,
) -> LanguageModel:
    """The model of a run at a step, None = the one to load, after verifying the step's files.

    The run's own adapters are merged into their weights, then `adapter`, so that what comes is a plain model; without
    `merge` it is as it was trained.
    """
    usable = manifest.steps(run.path)
    if step is None:
        step = manifest.to_load(run.path, lambda line: warnings.warn(line, stacklevel=6))
        if step is None:
            raise ValueError(f"{run.path}: no usable checkpoint yet (a step counts once its manifest.json is written)")
    elif step in usable:
        manifest.verify(run.path, step)
    else:
        raise ValueError(f"{run.path}: no usable checkpoint of step {step}; there are {usable}")
    name = "params" if weights == "trained" else weights
    if not (manifest.folder_of(run.path, step) / name).is_dir():
        raise ValueError(f"{run.path}: step {step} has no {name}; a run started with --optimizer.ema 0.999 keeps one")
    params = checkpoint.restore(run.path, step, name, abstract_params(run.config, mesh))
    checkpoint.refuse_nonfinite(step, name, params)
    params, config = merged(params, run.config) if merge else (params, run.config)
    if adapter is not None:
        params, config = adapted(params, config, adapter, mesh)
    talks = run.generation_config
    model = LanguageModel(config, run.tokenizer, params, generation_config=talks, dtype=dtype, mesh=mesh)
    model.step = step
    if adapter is None:
        model.run, model.weights = run.path, weights
    return model


def place_model(imported: ImportedModel, *, dtype: Any, mesh: Any, adapter: Adapter | None = None) -> LanguageModel:
    """The model of somebody else's files, on its devices, with an adapter merged into it."""
    params, config = placed(imported.params, abstract_params(imported.config, mesh)), imported.config
    if adapter is not None:
        params, config = adapted(params, config, adapter, mesh)
    return LanguageModel(
        config,
        imported.tokenizer,
        params,
        generation_config=imported.generation_config,
        dtype=dtype,
        mesh=mesh,
    )


def adapted(params: Any, config: ModelConfig, adapter: Adapter, mesh: Any) -> tuple[Any, ModelConfig]:
    """The plain model that an adapter makes of its base. Raises ValueError where it is for another base."""
    check_base(adapter.folder, fingerprint(params, config))
    config = dataclasses.replace(config, lora=adapter.lora, class_heads=adapter.heads or config.class_heads)
    abstract = abstract_params(config, mesh)
    leaves = placed(adapter.leaves, adapters_of(abstract))
    if adapter.heads:  # which learnt to read what it makes of the base, as the base's own did not
        params = {name: leaf for name, leaf in params.items() if not name.startswith("class_heads")}
        params |= placed(adapter.bank, {name: abstract[name] for name in adapter.bank})
    return merged(with_adapters(params, leaves), config)


def placed(params: Any, abstract: Any) -> Any:
    """The arrays where `abstract` has its leaves."""
    return jax.tree.map(lambda leaf, place: jax.device_put(leaf, place.sharding), params, abstract)


def abstract_params(config: ModelConfig, mesh: Any) -> Any:
    """Shape, dtype and place of every parameter; without a mesh, all on one device.

    Raises ValueError where the mesh does not divide the model.
    """
    if not isinstance(mesh, jax.sharding.Mesh | None):
        raise ValueError(f"mesh={mesh!r}: must be of gptjax.sharding.make_mesh, or None")
    boxed = jax.eval_shape(lambda: init_params(Transformer(config), jax.random.key(0)))
    if mesh is None:
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        places = jax.tree.map(lambda _: device, nn.unbox(boxed))
    else:
        any_number = math.prod(mesh.devices.shape)
        check_divides(mesh.shape, config, rows=any_number, tokens=any_number)
        places = shardings(mesh, boxed)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), nn.unbox(boxed), places
    )
