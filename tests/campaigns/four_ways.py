"""One figure four ways, by hand: the Python API, the command line, lm_eval's adapter, and lm_eval's own Hugging Face
backend on the exported folder.

    python -m tests.campaigns.four_ways RUN        # in an environment that has lm_eval[hf] beside gptjax

Multiple choice over paragraphs of this repository's pages (own ending or another's, with and without a context, some
beyond the model's) and perplexity over whole pages (several windows). All log-likelihoods are compared item by item
with the API's; the exit status is 1 where one differs by more than TOLERANCE, or a figure does.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

import lm_eval
import numpy as np
from lm_eval.tasks import TaskManager

import gptjax
from gptjax import harness
from gptjax.evaluation.evaluate import multiple_choice

Found = tuple[list[list[float]], dict[str, float]]  # (log-likelihoods of each item, nats; figures)
TOLERANCE = 1e-4  # of a figure, and of the nats a token of an item
ITEMS = 300
ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("*.md")])
TASKS = {
    "quiz": """
task: quiz
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/quiz.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "pages": """
task: pages
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/pages.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}, {metric: byte_perplexity}]
""",
}


def quiz(paragraphs: list[str]) -> list[dict]:
    """Items with four choices; the first ten have no context, the next ten a very long one."""
    chance = random.Random(0)
    halves = [(text[: (cut := text.rfind(" ", 0, len(text) * 2 // 3))], text[cut + 1 :]) for text in paragraphs]
    items = []
    for number, (context, ending) in enumerate(halves):
        choices = [ending, *(other for _, other in chance.sample(halves, 3))]
        chance.shuffle(choices)
        context = "" if number < 10 else " ".join(paragraphs[:30]) + " " + context if number < 20 else context
        items.append({"context": context, "choices": choices, "answer": choices.index(ending)})
    return items


def by_us(result: dict, items: Sequence[dict]) -> Found:
    """The same of a result of ours."""
    value = {name: figure["value"] for name, figure in result["metrics"].items()}
    if "accuracy" in value:
        return [item["log_probs"] for item in items], {
            "acc": value["accuracy"],
            "acc_norm": value["accuracy by length"],
        }
    bits = value["bits a byte"]
    return [[item["log_prob"]] for item in items], {"bits_per_byte": bits, "byte_perplexity": 2**bits}


def by_command(run: str, task: str, folder: Path) -> Found:
    """What `gptjax evaluate` wrote."""
    ours, out = {"quiz": "choices", "pages": "perplexity"}[task], folder / f"{task}-command"
    words = [
        sys.executable,
        "-m",
        "gptjax.cli",
        "evaluate",
        run,
        ours,
        str(folder / f"{task}.jsonl"),
        "--out",
        str(out),
    ]
    subprocess.run(words, check=True)
    items = [json.loads(line) for line in (out / "items.jsonl").read_text().splitlines()]
    return by_us(json.loads((out / "result.json").read_text()), items)


def by_lm_eval(model: object, task: str, folder: Path, **settings) -> Found:
    """What lm_eval found with a model."""
    found = lm_eval.simple_evaluate(
        model=model, tasks=[task], task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        log_samples=True, bootstrap_iters=0, **settings,
    )  # fmt: skip
    assert found is not None
    samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
    answers = [[np.ravel(np.array(one, float))[0] for one in sample["filtered_resps"]] for sample in samples]
    return answers, {name.split(",")[0]: value for name, value in found["results"][task].items()}


def main(run: str) -> int:
    folder = Path(tempfile.mkdtemp())
    texts = [page.read_text() for page in PAGES]
    paragraphs = [line.strip() for text in texts for line in text.splitlines() if len(line.split()) > 9]
    items = quiz(paragraphs[:ITEMS])
    (folder / "quiz.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "pages.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(text.replace("FOLDER", str(folder)))
    model = gptjax.load(run)
    gptjax.export(model, folder / "exported")
    # its tokenizer writes a BOS, which lm_eval would then predict, behind a second one
    bos = {"quiz": None, "pages": False}
    worst = 0.0
    for task, result in {"quiz": multiple_choice(model, items), "pages": model.perplexity(texts)}.items():
        wanted, figures = by_us(result.summary(), result.items)
        tokens = [
            [len(ids) for ids in model.tokenizer.encode_batch(each)]
            for each in ([item["choices"] for item in items] if task == "quiz" else [[text] for text in texts])
        ]
        ways = {
            "command line": by_command(run, task, folder),
            "lm_eval's adapter": by_lm_eval(harness.lm(model), task, folder),
            "lm_eval's hf": by_lm_eval(
                "hf", task, folder, device="cpu", batch_size=8,
                model_args={"pretrained": str(folder / "exported"), "dtype": "float32", "add_bos_token": bos[task]},
            ),
        }  # fmt: skip
        print(f"{task}: {len(wanted)} items, {sum(map(sum, tokens)):,} tokens")
        print(f"  {'API':<18}", *(f"{name} {value:.6f}" for name, value in figures.items()))
        for name, (found, said) in ways.items():
            apart = max(
                abs(a - b) / count
                for one, other, sizes in zip(wanted, found, tokens, strict=True)
                for a, b, count in zip(one, other, sizes, strict=True)
            )
            worst = max(worst, apart, *(abs(said[figure] - value) for figure, value in figures.items()))
            print(
                f"  {name:<18}",
                *(f"{figure} {said[figure]:.6f}" for figure in figures),
                f"items {apart:.1e} nats a token",
            )
    print(f"largest difference {worst:.1e}, allowed {TOLERANCE:.0e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
