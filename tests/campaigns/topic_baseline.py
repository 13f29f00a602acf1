"""What TF-IDF with logistic regression makes of the topics that the recipe `topics` learns: run by hand.

    python -m tests.campaigns.topic_baseline        # needs scikit-learn, which nothing else here does

It learns from the same training documents, whole, and is asked the same held-out segments as the model, which a row may
have cut, and then whole held-out documents too.
"""

import sys

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer  # pyright: ignore[reportMissingImports]
from sklearn.linear_model import LogisticRegression  # pyright: ignore[reportMissingImports]
from sklearn.metrics import f1_score  # pyright: ignore[reportMissingImports]
from sklearn.model_selection import GridSearchCV  # pyright: ignore[reportMissingImports]
from sklearn.pipeline import make_pipeline  # pyright: ignore[reportMissingImports]

from data.prepare import prepare
from data.rows.rows import Builder, HeldOutRows, open_corpus
from data.tasks.task import Corpus
from train.recipes.topics import recipe


def documents(corpus: Corpus) -> tuple[list[str], list[int]]:
    """Text and topic of every document that has one."""
    (store,) = corpus.stores
    topics = store.label_DF[:, 0].tolist()
    bounds = zip(store.offset_D[:-1], store.offset_D[1:], topics, strict=True)
    found = [(corpus.tokenizer.decode(store.tokens[a:b].tolist()), topic) for a, b, topic in bounds if topic >= 0]
    texts, labels = zip(*found, strict=True)
    return list(texts), list(labels)


def segments(corpus: Corpus) -> tuple[list[str], list[int]]:
    """Text and topic of the held-out segments that the model is asked."""
    made = recipe()
    builder = Builder(corpus, made.objectives.tasks, made.model.T)
    rows = HeldOutRows(corpus, 0, builder, "classify", made.model.T, made.validation.final_task_rows)
    batch = rows.batch(np.arange(rows.count))
    texts, labels = [], []
    for row, slot in np.argwhere(batch.label_weight_BQ > 0).tolist():
        segment = batch.segment_BT[row, batch.at_BQ[row, slot]]
        texts.append(corpus.tokenizer.decode(batch.tokens_BT[row][batch.segment_BT[row] == segment].tolist()))
        labels.append(int(batch.label_BQ[row, slot]))
    return texts, labels


def main() -> int:
    prepared = prepare(recipe().data)
    train, held_out = (open_corpus(prepared, split) for split in ("train", "validation"))
    texts, labels = documents(train)
    search = GridSearchCV(LogisticRegression(max_iter=1000), {"C": [3.0, 10.0, 30.0]}, cv=3, n_jobs=2)
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True, min_df=2), search).fit(texts, labels)
    for name, (asked, wanted) in {"segments": segments(held_out), "whole documents": documents(held_out)}.items():
        said = model.predict(asked)
        right = float(np.mean(said == np.array(wanted)))
        print(
            f"held-out {name}: {len(wanted)}, right {right:.1%}, macro-F1 {f1_score(wanted, said, average='macro'):.3f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
