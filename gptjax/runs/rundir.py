"""A run directory from outside: is it one, and do its model and its tokenizer belong together? Does not import JAX."""

import dataclasses
import os
import re
from pathlib import Path

from gptjax.config import ModelConfig, load_model_config
from gptjax.files.bounded_files import read_text
from gptjax.inference.generation_config import GenerationConfig
from gptjax.spelling import did_you_mean
from gptjax.text.tokenizer import Tokenizer

CREDIT = "ATTRIBUTION.md"  # whose texts a model has read, and under which licences; it goes where the model goes
GENERATION = "generation.json"  # how the model talks; a run without one does as GenerationConfig.of_runs


@dataclasses.dataclass(frozen=True)
class Run:
    """A run whose `model.json`, `tokenizer.json` and `generation.json` were read and found to agree."""

    path: Path
    config: ModelConfig
    tokenizer: Tokenizer
    generation_config: GenerationConfig


def read_run(path: str | os.PathLike[str]) -> Run:
    """Raises ValueError if this is no run directory (naming those beside it), or if its files contradict each other."""
    path = Path(path)
    if not (path / "model.json").is_file():
        raise ValueError(_no_run(path))
    config = load_model_config(path / "model.json")
    if not (path / "tokenizer.json").is_file():
        raise ValueError(f"{path}: has a model.json but no tokenizer.json; copy the whole run directory")
    generation_config, roles = None, {}
    if (path / GENERATION).is_file():
        generation_config, roles = GenerationConfig.load(path / GENERATION, config.vocabulary)
    tokenizer = Tokenizer.load(path / "tokenizer.json", roles)
    # a model that began as somebody else's may have rows of its token table without a token
    spare = config.vocabulary - tokenizer.size
    if spare < 0 or (spare and generation_config is None):
        raise ValueError(
            f"{path}: tokenizer.json has {tokenizer.size} tokens, model.json says vocabulary={config.vocabulary}; "
            f"they are not of one run"
        )
    return Run(path, config, tokenizer, generation_config or GenerationConfig.of_runs(tokenizer))


def run_as_loaded(path: Path) -> Run | None:
    """What is known of the model that gptjax.load makes of a run, before its weights are read: adapters are merged.

    None where this is no run, but somebody else's model. Raises as `read_run`.
    """
    if not (path / "model.json").is_file():
        return None
    run = read_run(path)
    return dataclasses.replace(run, config=dataclasses.replace(run.config, lora=None))


def credit_of(folder: Path) -> str | None:
    """What the folder of a model says of the texts that the model has read; None = nothing."""
    return read_text(folder / CREDIT) if (folder / CREDIT).is_file() else None


def _no_run(path: Path) -> str:
    within = runs_in(path)
    if within:
        return f"{path}: holds runs, but is none itself; did you mean {str(path / within[0])!r}?"
    beside = runs_in(path.parent)
    hint = did_you_mean(path.name, beside) if beside else f"; {path.parent} holds no runs"
    what = "neither a run (no model.json) nor a model of others (no config.json)" if path.exists() else "no such run"
    by_name = re.match(r"(hf|https?):|[\w.-]+(/[\w.-]+)?$", str(path))  # as a hub names models
    if by_name and not path.exists() and not beside and (path.parent == Path() or not path.parent.exists()):
        hint = "; nothing is downloaded: give the path of a run, of a model's folder or of a .gguf file on this machine"
    return f"{path}: {what}{hint}"


def runs_in(folder: Path) -> list[str]:
    """Names of the runs directly inside a folder, newest first."""
    configs = sorted(folder.glob("*/model.json"), key=lambda config: config.stat().st_mtime, reverse=True)
    return [config.parent.name for config in configs]
