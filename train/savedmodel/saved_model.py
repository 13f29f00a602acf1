"""A model as TensorFlow's SavedModel, which appears whole and proven, or never.

The two programs of `gptjax.exchange.programs.program` stand in it as they are, as StableHLO that TensorFlow compiles
where it runs; the weights are its variables. Ids go in and scores come out: of our tokenizers none is said in
TensorFlow's operations. Its own loader is run in a process that can import neither gptjax nor JAX.
"""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxlib.mlir.dialects import stablehlo

from gptjax.exchange.programs.consumer import prove
from gptjax.exchange.programs.program import PLATFORMS, cache_of, exported_programs, weights_of
from gptjax.exchange.programs.stablehlo_export import (
    MANIFEST,
    check_exportable,
    check_room,
    description,
    left_out,
    write_small,
)
from gptjax.files.atomic_folder import absent, appearing
from gptjax.files.file_digest import describe
from gptjax.files.plain_json import dumps
from gptjax.inference.language_model import LanguageModel

LOADER = Path(__file__).with_name("run_saved_model.py")
TENSORS = "tensors.txt"  # for programs that read no JSON and no protocol buffers
# An older version than JAX writes by itself: TensorFlow 2.21 reads up to 1.13.7.
STABLEHLO = "1.13.0"
IDS = {"prefill": {"tokens": 2, "slot": 1, "length": 1}, "step": {"token": 1, "slot": 1}}  # how many axes each has
README = """# A language model as SavedModel

{parameters:,} parameters, a context of {T} tokens; exported by gptjax for TensorFlow {tensorflow}. {left_out}

    pip install tensorflow tokenizers
    python run.py "The capital of France is" 20

Signatures: `prefill` (tokens [b,t], slot [b], length [b], all int32, and the cache) and `step` (token [b], slot [b] and
the cache); both give `logits` [b,V] and the cache. An empty cache is zeros; `manifest.json` has its names and shape,
how the export was compared with the model that it was made from, and the SHA-256 of every file. `tensors.txt` names the
graph's tensors for a program in C.
"""


def export_saved_model(model: LanguageModel, folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Writes the folder, and returns its manifest.

    Output heads are left out; the manifest names them. Raises as `export_stablehlo` does; ModuleNotFoundError without
    TensorFlow. Then nothing appears and nothing is left.
    """
    target = absent(folder)
    check_exportable(model)
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    weights = {name: np.asarray(x, np.float32) for name, x in weights_of(model.params).items()}
    with appearing(target) as (aside, appear):
        check_room(aside, weights)
        _write(aside, model, weights)
        manifest = description(model) | {"tensorflow": tf.__version__, "jax": jax.__version__}
        (aside / MANIFEST).write_text(dumps(manifest), encoding="utf-8")  # the loader reads it
        try:
            manifest["proof"] = prove(aside, model, missing=("gptjax", "jax", "jaxlib", "flax", "safetensors"))
        except ValueError as error:
            raise ValueError(f"savedmodel: {error}; nothing was written") from error
        files = [path for path in sorted(aside.rglob("*")) if path.is_file() and path.name != MANIFEST]
        manifest["files"] = {str(path.relative_to(aside)): describe(path) for path in files}
        (aside / MANIFEST).write_text(dumps(manifest, indent=1) + "\n", encoding="utf-8")
        describe(aside / MANIFEST)  # on the disk before the folder has its name
        appear()
    return manifest


def _write(folder: Path, model: LanguageModel, weights: dict[str, np.ndarray]) -> None:
    import tensorflow as tf

    config = model.config
    holder = tf.Module()
    names = sorted(weights)  # as JAX flattens a dictionary
    holder.weights = [
        tf.Variable(tf.constant(weights[name]), name=name.replace("/", "."), trainable=False) for name in names
    ]
    cache, of_layer = sorted(cache_of(config, 1, 1)), [None, config.K, None, config.H]
    programs = exported_programs(config, model.params, PLATFORMS)
    shapes = [tf.TensorShape(shape) for shape in ([None, config.vocabulary], *[of_layer] * len(cache))]
    signatures = {}
    for program, ids in IDS.items():
        specs = {name: tf.TensorSpec([None] * axes, tf.int32, name) for name, axes in ids.items()}
        specs |= {name: tf.TensorSpec(of_layer, tf.float32, name) for name in cache}
        called = _called(programs[program], holder.weights, list(ids), cache, shapes)
        signatures[program] = tf.function(called, autograph=False).get_concrete_function(**specs)
    try:
        tf.saved_model.save(holder, str(folder), signatures=signatures)
    except tf.errors.OpError as error:  # how it reports a full disk
        raise OSError(f"{folder}: {error.message}") from error
    (folder / TENSORS).write_text(_tensors(folder, model), encoding="utf-8")
    readme = README.format(
        parameters=config.parameters, T=config.T, tensorflow=tf.__version__, left_out=left_out(model)
    )  # fmt: skip
    write_small(folder, model, LOADER, readme)


def _called(exported: Any, weights: Any, ids: list[str], cache: list[str], Sout: Any) -> Any:
    """A function of named tensors that runs a program, whose arguments JAX has put in order.

    Source: jax.experimental.jax2tf, `_run_exported_as_tf`, whose call of XlaCallModule this is for one device.
    """
    import tensorflow as tf
    from tensorflow.compiler.tf2xla.python.xla import call_module

    def run(**given):
        flat = [*weights, *(given[name] for name in (*ids, *cache))]
        found: Any = call_module(
            [flat[number] for number in exported.module_kept_var_idx],
            version=exported.calling_convention_version,
            module=stablehlo.serialize_portable_artifact_str(exported.mlir_module(), STABLEHLO),
            Tout=[tf.float32] * len(Sout),
            Sout=Sout,
            platforms=tuple(platform.upper() for platform in exported.platforms),
            use_shardy_partitioner=jax.config.jax_use_shardy_partitioner,  # pyright: ignore[reportAttributeAccessIssue]
        )
        return dict(zip(["logits", *cache], found, strict=True))

    return run


def _tensors(folder: Path, model: LanguageModel) -> str:
    """The cache's shape [1,K,slots of a block,H], the context, the vocabulary, the ends; then each tensor: program, in
    or out, name, operation, number."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    said = description(model)
    lines = [
        f"cache {' '.join(map(str, said['cache']['shape']))}",
        f"context {said['context']}",
        f"vocabulary {said['vocabulary']}",
    ]
    lines += [f"end {id}" for id in said["ends"]]
    saved = SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    for program in IDS:
        signature = saved.meta_graphs[0].signature_def[program]
        for way, tensors in (("in", signature.inputs), ("out", signature.outputs)):
            for name in sorted(tensors):
                operation, number = tensors[name].name.split(":")
                lines.append(f"{program} {way} {name} {operation} {number}")
    return "\n".join(lines) + "\n"
