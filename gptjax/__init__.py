"""gptjax: load, sample, score and ship GPT models. Importing it is cheap: JAX is imported when a model is loaded.

>>> model = gptjax.load("runs/first")  # or a Hugging Face folder, or a .gguf file
>>> model.generate("Once upon a time", tokens=100, temperature=0.7)[0][0].text
>>> for piece in model.stream("Once upon a time"):
...     print(piece, end="")
>>> model.loglikelihood([("The city of", " London")])[0].log_prob  # nats
>>> model.perplexity(["A whole text."]).metrics["bits a byte"].value
>>> model.score([gptjax.Row(ids=[1, 5, 6], at=[2], targets=[7])])[0].log_probs  # of any token, anywhere
>>> model.predict(["A whole text."], "topic")[0].answer  # by an output head that it was taught
>>> model.look("A whole text.").save("look.html")  # what happens inside while it reads
>>> next(model.features(["A whole text."], layer=3))  # its vector, out of any layer
>>> gptjax.export(model, "exported")  # a Hugging Face folder; "model.gguf" = a file for llama.cpp

All that a model does is in help(gptjax.LanguageModel). Tasks with items (multiple choice, classification, answers) are
in gptjax.evaluation.evaluate, conversations in gptjax.inference.chat; the program `gptjax` has the same as generate,
evaluate, export.
"""

import importlib
import os
import warnings
from typing import TYPE_CHECKING, Any, Literal

from gptjax import moved

if TYPE_CHECKING:
    from gptjax.config import ModelConfig
    from gptjax.exchange.peft_adapter import Adapter
    from gptjax.inference.language_model import LanguageModel, Sample
    from gptjax.inference.scoring import Row
    from gptjax.results import Result

moved.install()

__all__ = ["LanguageModel", "Result", "Row", "Sample", "export", "export_adapter", "load"]

_HOMES = {
    "LanguageModel": "inference.language_model", "Result": "results", "Row": "inference.scoring",
    "Sample": "inference.language_model",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """The classes, fetched when one is asked for: their files import JAX."""
    if name not in _HOMES:
        raise AttributeError(f"module 'gptjax' has no attribute {name!r}")
    return getattr(importlib.import_module(f"gptjax.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load(
    path: Any,
    step: int | None = None,
    *,
    weights: Literal["trained", "ema"] = "trained",
    dtype: Any = "float32",
    mesh: Any = None,
    adapter: str | os.PathLike[str] | None = None,
) -> "LanguageModel":
    """The model of a run, of a folder in Hugging Face's layout, or of a .gguf file, ready to work.

    >>> model = gptjax.load("runs/first")
    >>> model.generate("Once upon a time", tokens=100, temperature=0.7)[0][0].text
    >>> model.loglikelihood([("The city of", " London")])[0].log_prob  # nats

    A gptjax.LanguageModel: it can `generate` and `stream` texts, `score` tokens, and has `loglikelihood`,
    `loglikelihood_rolling`, `perplexity`, `log_probs`, `mean_states`, `features`, `class_log_probs`, `predict` and
    `look`;
    gptjax.evaluation.evaluate has tasks with items, and gptjax.export writes it for others.

    A run may lie on a bucket, as "gs://bucket/runs/first" or "s3://..."; its step is fetched into a cache and verified.
    For a run: `step`: which checkpoint; None = the newest good one, with a warning for each newer one that is damaged,
    or the best one of a run that is judged by a figure.
    Its files are verified first. `weights`: "ema" = their moving average, where the run kept one.

    `dtype`: of the products, float32, bfloat16 or float16; or int8, of the weights, by row, while products take the
    fastest of this machine. Scores are float32. `mesh`: from
    gptjax.sharding.make_mesh, to spread the parameters; None = all on one device. `adapter`: the folder of a LoRA
    adapter in PEFT's layout, which is merged into the weights in float32.
    Raises ValueError if there is no such model or step, if its files do not belong together, are damaged or ask for
    what is not supported, if a weight is NaN or infinite, or if the adapter is for another model.
    """
    from gptjax import arguments
    from gptjax.runs.bucket_run import local_run
    from gptjax.runs.rundir import credit_of, read_run
    from gptjax.spelling import did_you_mean

    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"path: must be the folder of a model or a .gguf file, not {arguments.kind(path)}")
    if weights not in (kinds := ("trained", "ema")):
        raise ValueError(f"weights={weights!r}{did_you_mean(str(weights), kinds)}")
    step = None if step is None else arguments.whole("step", step)
    dtype = arguments.dtype_name(dtype)
    path = local_run(path, warnings.warn, step)
    credit = credit_of(path)
    is_gguf = path.suffix.lower() == ".gguf"
    is_folder = (path / "config.json").is_file() and not (path / "model.json").is_file()
    if not is_gguf and not is_folder:
        run = read_run(path)  # before the slow import, so that a typo is reported at once
        beside = None if adapter is None else _adapter(adapter, run.config)

        from gptjax.loading import restore_model

        model = restore_model(run, step, weights=weights, dtype=dtype, mesh=mesh, adapter=beside)
    else:
        if step is not None or weights != "trained":
            chosen = f"step={step}" if step is not None else f"weights={weights!r}"
            raise ValueError(f"{path}: is no run, so it has no {chosen} to choose")
        from gptjax.exchange.gguf_model import read_gguf
        from gptjax.exchange.hf_folder import read_folder

        imported = read_gguf(path) if is_gguf else read_folder(path)
        beside = None if adapter is None else _adapter(adapter, imported.config)

        from gptjax.loading import place_model

        model = place_model(imported, dtype=dtype, mesh=mesh, adapter=beside)
        credit = imported.credit if credit is None else credit
    model.credit = credit
    return model


def _adapter(folder: Any, config: "ModelConfig") -> "Adapter":
    from gptjax import arguments
    from gptjax.exchange.peft_adapter import read_adapter
    from gptjax.files.places import expanded

    if not isinstance(folder, str | os.PathLike):
        raise ValueError(f"adapter: must be the folder of an adapter, not {arguments.kind(folder)}")
    return read_adapter(expanded(folder), config)


def export_adapter(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    step: int | None = None,
    *,
    weights: Literal["trained", "ema"] = "trained",
) -> None:
    """Writes the adapters of a run as a folder in PEFT's layout, which appears whole or not at all.

    It is for the weights that the run froze: `gptjax.load(base, adapter=folder)` refuses others. Raises ValueError
    where the run has no adapters, PEFT has no name for a layer, or the folder exists.
    """
    from gptjax.exchange.peft_adapter import check_writable, write_adapter
    from gptjax.runs.bucket_run import local_run
    from gptjax.runs.rundir import read_run

    run = read_run(local_run(path, warnings.warn, step))
    check_writable(folder, run.config)

    from gptjax.loading import restore_model
    from gptjax.nn.fingerprint import fingerprint

    model = restore_model(run, step, weights=weights, dtype="float32", mesh=None, merge=False)
    write_adapter(folder, model.params, model.config, fingerprint(model.params, model.config))


def export(model: "LanguageModel", path: str | os.PathLike[str], dtype: str | None = None) -> dict[str, Any]:
    """Writes a model as a folder in Hugging Face's layout, or where the name ends in .gguf as a file for llama.cpp.

    Either appears only when it is proven to be the model. `dtype`: of a file's weights, f32, f16, bf16, q8_0, q4_0 or
    q4_1; None = f32, as a folder has them.
    Returns the proof; gptjax.exchange.export and gptjax.exchange.gguf_export say what is compared, and what is raised.
    """
    from gptjax import arguments
    from gptjax.files.places import expanded

    if not isinstance(path, str | os.PathLike):
        raise ValueError(f"path: must be that of a folder or a .gguf file to make, not {arguments.kind(path)}")
    if isinstance(model, str | os.PathLike):
        raise ValueError(f"model: is the path {os.fspath(model)!r}; load it first, with gptjax.load")
    if expanded(path).suffix.lower() == ".gguf":
        from gptjax.exchange.gguf_export import export_gguf

        return export_gguf(model, path, "f32" if dtype is None else dtype)
    if dtype is not None:
        raise ValueError(f"dtype={dtype!r} is for a .gguf file; a folder holds float32")
    from gptjax.exchange.export import export

    return export(model, path)
