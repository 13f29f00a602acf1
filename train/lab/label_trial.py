"""What experiments with few labels do with models, each in a process of its own:

python -m train.lab.label_trial tested RUN FILE       # figures of the run's head on a file of labelled texts
python -m train.lab.label_trial scratch BASE FOLDER --seed 1    # a run like the base's that has learnt nothing
python -m train.lab.label_trial states BASE FOLDER --length 64  # the mean state of every text of a folder's files
"""

import dataclasses
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import tyro
from flax import linen as nn

import gptjax
from gptjax.batch import ClassHead
from gptjax.command.console import print_any_text
from gptjax.command.options import print_mistake, read
from gptjax.config import save_model_config
from gptjax.evaluation.head_figures import figures
from gptjax.files.atomic_file import write_whole
from gptjax.files.plain_json import dumps
from gptjax.inference.embedding import mean_states
from gptjax.inference.head_input import head_inputs
from gptjax.inference.language_model import LanguageModel
from gptjax.nn.model import Transformer, init_params
from gptjax.runs.checkpoint import CheckpointWriter
from train.lab.few_labels import Rated, read_labelled, states_file, tested_file
from train.supervision.exits import DONE
from train.tuning.base import base_path

HEAD = "label"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """What is done, with which model, where."""

    do: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="WHAT")]
    """tested, scratch or states"""
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """a run, or what finetune begins with"""
    path: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """a file of labelled texts, or the folder that is written to"""
    seed: int = 0  # of scratch
    length: int = 64  # tokens of a text that states are made of


def tested(run: str, file: Path) -> dict[str, float]:
    """Accuracy, macro F1 and the other figures of a head's answers; of numbers, their mean squared error and others."""
    model, texts = gptjax.load(run), read_labelled(file)
    number = next(n for n, head in enumerate(model.config.class_heads) if head.name == HEAD)
    head = model.config.class_heads[number]
    if head.kind == "values":
        return value_figures(model, [Rated(one.text, float(one.label)) for one in texts])
    ids = [one.ids for one in head_inputs(model.tokenizer, head, [one.text for one in texts])]
    probability_IC = np.exp(model.class_log_probs(ids, number).astype(np.float64))
    true_IC = np.eye(len(head.classes))[[head.classes.index(one.label) for one in texts]]
    return {name: float(value) for name, value in figures("classes", probability_IC, true_IC).items()}


def value_figures(model: LanguageModel, texts: Sequence[Rated]) -> dict[str, float]:
    """Mean squared error and the other figures of the numbers that a head tells."""
    told = model.predict([one.text for one in texts], HEAD)
    answer_I1, true_I1 = np.array([[one.answer] for one in told]), np.array([[one.label] for one in texts])
    return {name: float(value) for name, value in figures("values", answer_I1, true_I1).items()}


def scratch(base: str, folder: Path, seed: int) -> None:
    """Writes a run of the base's shape and tokenizer, its weights drawn anew; heads it has none."""
    path = base_path(base)
    if (folder / "model.json").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    config = dataclasses.replace(gptjax.load(path).config, class_heads=())
    params = nn.unbox(init_params(Transformer(config), jax.random.key(seed)))
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "data.json", "recipe.json", "ATTRIBUTION.md"):
        if (path / name).exists():
            shutil.copyfile(path / name, folder / name)
    writer = CheckpointWriter(folder, keep=1)
    writer.save(0, {"params": params, "training": {"step": np.int32(0)}}, {})
    writer.close()
    save_model_config(config, folder / "model.json")  # last: marks it as whole


def states(base: str, folder: Path, length: int) -> None:
    """Writes the mean of the last states of each text, as it is read from the left, cut at so many tokens; f32 [D]."""
    model = gptjax.load(base_path(base))
    head = ClassHead(name=HEAD, classes=("",), length=length, causal=True)
    texts = sorted({one.text for file in sorted(folder.glob("*.jsonl")) for one in read_labelled(file)})
    ids = [one.ids for one in head_inputs(model.tokenizer, head, texts)]
    found_ID = mean_states(Transformer(model.config), model.params, ids)
    out = states_file(folder.parent, folder.name, base)
    with out.with_suffix(".new").open("wb") as file:
        np.savez(file, allow_pickle=False, texts=np.array(texts), states=found_ID)
    out.with_suffix(".new").rename(out)


def main() -> int:
    """Returns the exit code."""
    print_any_text()
    try:
        trial = read(Trial, sys.argv[1:], "python -m train.lab.label_trial", about=__doc__)
        match trial.do:
            case "tested":
                found = tested(trial.model, trial.path)
                write_whole(tested_file(Path(trial.model), trial.path), dumps(found, indent=1) + "\n")
            case "scratch":
                scratch(trial.model, trial.path, trial.seed)
            case "states":
                states(trial.model, trial.path, trial.length)
            case other:
                raise ValueError(f"{other!r}: give tested, scratch or states")
    except (ValueError, OSError) as error:
        return print_mistake(error)
    return DONE


if __name__ == "__main__":
    sys.exit(main())
