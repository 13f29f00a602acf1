"""What a linear probe reads out of every few layers, causally and from both sides, beside TF-IDF: one table a task.

    python -m tests.campaigns.layer_probes MODEL [--texts 400] [--every 6] [--tasks topic sentiment film]

MODEL is a run, or what `finetune` begins with, such as smollm2. The same shape with weights drawn at random stands
beside it. Texts are cut at 64 tokens, as in experiment E5; topic: English encyclopaedia openings, 11 classes;
sentiment: reviews of Chinese shops; film: reviews of films, in English; the last two want `./launch.sh setup --as-is`.
"""

import argparse
import sys
import time
from collections.abc import Sequence

import jax
import numpy as np
from flax import linen as nn

import gptjax
from gptjax.inference.embedding import layer_vectors
from gptjax.inference.feature_input import EMBEDDING, FINAL, Layer, feature_ids
from gptjax.inference.language_model import LanguageModel
from gptjax.nn.model import Transformer, init_params
from gptjax.probing.linear_probe import Features, figures_of, of_vectors, of_words, probed
from train.lab import few_labels
from train.lab.experiments.label_runs import LENGTH
from train.tuning.base import base_path

TASKS = {
    "topic": few_labels.wiki_topics, "sentiment": few_labels.shop_reviews, "film": few_labels.film_reviews,
}  # fmt: skip


def told(features: Features, label_I: np.ndarray, classes: int) -> str:
    """Accuracy with its interval."""
    found = figures_of(probed(features, label_I, classes), label_I)["accuracy"]
    return f"{found.value:6.1%} ({found.low:.1%} to {found.high:.1%})"


def main() -> int:
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("model")
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--every", type=int, default=6)
    parser.add_argument("--tasks", nargs="+", default=["topic", "sentiment"], choices=TASKS)
    asked = parser.parse_args()
    model = gptjax.load(base_path(asked.model))
    drawn = nn.unbox(init_params(Transformer(model.config), jax.random.key(0)))
    weights = {"pretrained": model, "random": LanguageModel(model.config, model.tokenizer, drawn,
                                                            generation_config=model.generation_config)}  # fmt: skip
    layers: list[Layer] = [EMBEDDING, *range(asked.every - 1, model.config.L, asked.every), FINAL]
    for task in asked.tasks:
        of_task(task, weights, layers, asked.texts)
    return 0


def of_task(task: str, weights: dict[str, LanguageModel], layers: Sequence[Layer], count: int) -> None:
    held = few_labels.held_apart(TASKS[task]()).test[:count]  # the first by their hashes
    classes = sorted({one.label for one in held})
    label_I, texts = np.array([classes.index(one.label) for one in held]), [one.text for one in held]
    model = weights["pretrained"]
    ids = feature_ids(model.config, model.tokenizer, model.generation_config, texts, texts, LENGTH)
    cut = [model.tokenizer.decode(one) for one in ids]  # words of what the model reads, no more
    print(f"\n{task}: {len(texts)} texts of at most {LENGTH} tokens, {len(classes)} classes; right answers")
    print(f"  the commonest class, always  {np.bincount(label_I).max() / len(texts):6.1%}")
    print(f"  TF-IDF                       {told(of_words(cut), label_I, len(classes))}", flush=True)
    for name, one in weights.items():
        for bidirectional in (False, True):
            begun = time.process_time()
            found_ICD = np.stack(
                layer_vectors(one._model, one.params, ids, layers, pool="mean", bidirectional=bidirectional)
            )
            seconds = time.process_time() - begun
            print(f"  {name}, {'from both sides' if bidirectional else 'causal'} ({seconds:.0f} s of CPU to read)")
            for number, layer in enumerate(layers):
                said = told(of_vectors(found_ICD[:, number]), label_I, len(classes))
                print(f"    {'layer ' if isinstance(layer, int) else ''}{layer!s:<20} {said}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
