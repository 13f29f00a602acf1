"""lm_eval's `local-completions` against a real server equals `--model gptjax` in process, item by item.

    python -m tests.campaigns.lm_eval_http RUN        # in an environment that has lm_eval[api] and transformers beside
                                                      # gptjax[serve]

Multiple choice over paragraphs of this repository's pages, with and without a context, their log-likelihoods, and
greedy answers to their beginnings; one request after another, and many at once in batches. Each item fits the model's
context: of longer ones the server, which draws a token behind each, reads one token less. lm_eval gets the tokenizer
of the exported run; where it is to begin contexts with BOS it must be told so (`add_bos_token`), and for rolling
log-likelihoods, which it begins with BOS by itself, it must not. The exit status is 1 where a log-likelihood differs by
more than TOLERANCE, or a greedy mark or an answer at all.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager

import gptjax
from gptjax import harness
from tests.campaigns.four_ways import PAGES, TASKS, quiz
from tests.campaigns.server_process import serving

TOLERANCE = 1e-4  # nats of an item
ITEMS, TOKENS = 150, 24
ANSWERS = """
task: answers
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/answers.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{context}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n", "."], max_gen_toks: TOKENS, do_sample: false}
metric_list: [{metric: exact_match}]
""".replace("TOKENS", str(TOKENS))


def write_tasks(model: gptjax.LanguageModel, folder: Path) -> None:
    """The tasks and their items, of those that fit the context."""

    def fits(text: str, more: int = 0) -> bool:
        return 1 + len(model.tokenizer.encode(text)) + more <= model.config.T

    paragraphs = [line.strip() for page in PAGES for line in page.read_text().splitlines() if len(line.split()) > 9]
    items = [item for item in quiz(paragraphs[: ITEMS + 10])
             if all(fits(f"{item['context']} {choice}") for choice in item["choices"])]  # fmt: skip
    begun = [item for item in items if item["context"] and fits(item["context"], TOKENS)]
    for item, [sample] in zip(
        begun, model.generate([one["context"] for one in begun], tokens=4, temperature=0), strict=True
    ):
        item["choices"][item["answer"] - 1] = sample.text.strip() or "."  # as the model would go on
    written = {
        "quiz": items,
        "pages": [{"text": text} for text in paragraphs[:ITEMS] if fits(text)],
        "answers": [{"context": item["context"], "answer": ""} for item in begun],
    }
    for name, text in {**TASKS, "answers": ANSWERS}.items():
        (folder / f"{name}.yaml").write_text(text.replace("FOLDER", str(folder)))
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(item) + "\n" for item in written[name]))


def answers(model: Any, task: str, folder: Path, **settings: Any) -> list[Any]:
    """What lm_eval got from a model, item by item: (nats, greedy) for each choice, nats, or a text."""
    found = lm_eval.simple_evaluate(
        model=model, tasks=[task], task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        log_samples=True, bootstrap_iters=0, **settings,
    )  # fmt: skip
    assert found is not None
    return [sample["filtered_resps"] for sample in sorted(found["samples"][task], key=lambda one: one["doc_id"])]


def apart(task: str, ours: list[Any], theirs: list[Any]) -> tuple[float, int]:
    """(largest difference, nats; how many greedy marks or texts differ)."""
    assert len(ours) == len(theirs) > 0
    pairs = [pair for one, other in zip(ours, theirs, strict=True) for pair in zip(one, other, strict=True)]
    if task == "answers":
        return 0.0, sum(one != other for one, other in pairs)
    if task == "pages":
        return max(abs(one - other) for one, other in pairs), 0
    return max(abs(one[0] - other[0]) for one, other in pairs), sum(one[1] != other[1] for one, other in pairs)


def main(run: Path) -> int:
    folder = Path(tempfile.mkdtemp())
    model = gptjax.load(run)
    write_tasks(model, folder)
    gptjax.export(model, folder / "exported")
    wrong = 0
    with serving(run, "--dtype", "float32", name=None) as server:
        reached = {
            "model": run.name,
            "base_url": f"{server.address}/v1/completions",
            "tokenizer_backend": "huggingface",
            "tokenizer": str(folder / "exported"),
            "max_length": model.config.T + 1,  # lm_eval keeps one for the token that is drawn
        }
        for task in (*TASKS, "answers"):
            ours = answers(harness.lm(model), task, folder)
            begins = model.generation_config.begins_with_bos and task != "pages"
            for how, together in {"in turn": {}, "16 at once": {"num_concurrent": 4, "batch_size": 4}}.items():
                theirs = answers(
                    "local-completions", task, folder, model_args={**reached, **together, "add_bos_token": begins}
                )
                nats, others = apart(task, ours, theirs)
                wrong += others + (nats > TOLERANCE)
                greedy = sum(one[1] for each in ours for one in each) if task == "quiz" else 0
                print(f"{task}, {how}: {sum(map(len, ours))} requests, {greedy} greedy:", end=" ")
                print(f"largest difference {nats:.1e} nats; marks or texts that differ: {others}", flush=True)
    print("all equal" if not wrong else f"{wrong} differ", f"(allowed {TOLERANCE:.0e} nats)")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
