"""What the model writes: continuations of held-out documents' first words, kept in `samples.jsonl` for the report."""

import json
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape

import gptjax
from data.rowplan import TokenStore

PROMPT_TOKENS, TOKENS = 12, 160
TEMPERATURE, TOP_P = 0.8, 0.95


def write_samples(run: Path, prepared: Path, *, samples: int, seed: int, console: Console) -> None:
    """Appends `samples` texts a source, by the newest checkpoint, to samples.jsonl; shows the first of each."""
    model = gptjax.load(run)
    prompts: list[list[int]] = []
    sources = json.loads((prepared / "prepared.json").read_text(encoding="utf-8"))["sources"]
    for source in sources.values():
        prompts += _openings(prepared / source["folder"] / "validation", samples)
    texts = model.generate(prompts, tokens=TOKENS, temperature=TEMPERATURE, top_p=TOP_P, seed=seed) if prompts else []
    names = [name for name in sources for _ in range(samples)]
    with (run / "samples.jsonl").open("a", encoding="utf-8") as file:
        for number, (name, prompt, (sample,)) in enumerate(zip(names, prompts, texts, strict=True)):
            record = {
                "step": model.step, "source": name, "language": sources[name]["language"],
                "prompt": model.tokenizer.decode(prompt), "text": sample.text,
                "temperature": TEMPERATURE, "top_p": TOP_P,
            }  # fmt: skip
            print(json.dumps(record, ensure_ascii=False), file=file)
            if number % samples == 0:
                console.print(
                    f"\n[dim]{escape(name)}[/]\n[bold]{escape(record['prompt'])}[/]{escape(sample.text)}",
                    highlight=False,
                )


def _openings(folder: Path, count: int) -> list[list[int]]:
    """The first tokens of `count` documents spread over a split; of too few documents, tokens at `count` places."""
    store = TokenStore(folder)
    if store.documents >= count:
        first = store.offset_D[np.linspace(0, store.documents - 1, count).astype(int)]
    else:
        first = np.linspace(0, max(0, len(store.tokens) - PROMPT_TOKENS), count).astype(int)
    return [store.tokens[start : start + PROMPT_TOKENS + 1].tolist() for start in first]
