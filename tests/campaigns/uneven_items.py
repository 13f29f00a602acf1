"""Time and compilations of 1,000 uneven items, by hand, in turn with lm_eval's Hugging Face backend, same weights.

    python -m tests.campaigns.uneven_items MODEL [REPEATS]     # in an environment that has lm_eval[hf] beside gptjax

Contexts of 1 to 200 words of this repository's pages, log-uniform, so that some exceed a short model's context;
continuations of 1 to 20 words. No two begin and end at the same words: of items that differ only in where the context
ends, lm_eval 0.4.13's backend gets the one with the shorter continuation wrong. Words that spell special tokens are
left out, for it reads them as these, and we as text. It is tried with several batch sizes. Both start from text. Ours
is timed with its compilations (the first time) and without.
"""

import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}

import jax
import numpy as np
from lm_eval.models.huggingface import HFLM

import gptjax

ROOT = Path(__file__).resolve().parents[2]
ITEMS = 1000
BATCHES = (1, 8, 32)  # of the backend: its default, and what suits long and short items


def uneven(words: list[str]) -> list[tuple[str, str]]:
    """(context, continuation) of every item."""
    chance, pairs = random.Random(0), {}
    while len(pairs) < ITEMS:
        long, more = round(200 ** chance.random()), chance.randint(1, 20)
        first = chance.randrange(len(words) - long - more)
        shown, asked = words[first : first + long], words[first + long : first + long + more]
        pairs.setdefault((first, first + long + more), (" ".join(shown), " " + " ".join(asked)))
    return list(pairs.values())


def main(path: str, repeats: int) -> None:
    model = gptjax.load(path)
    folder = Path(tempfile.mkdtemp()) / "exported"
    gptjax.export(model, folder)
    words = " ".join(page.read_text() for page in sorted(ROOT.glob("docs/*.md"))).split()
    words = [word for word in words if len(word) < 20 and "<" not in word]
    pairs = uneven(words)
    requests = [SimpleNamespace(args=pair) for pair in pairs]
    sizes = [len(ids) for ids in model.tokenizer.encode_batch([a + b for a, b in pairs])]
    print(f"{len(pairs)} items of {min(sizes)} to {max(sizes)} tokens, {sum(sizes):,} together; T={model.config.T}")

    compiled = []

    def note(event, *_, **__):
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(note)
    began = time.perf_counter()
    ours = model.loglikelihood(pairs)
    print(f"gptjax, first: {time.perf_counter() - began:.1f} s, {len(compiled)} compilations")
    backends = {
        f"hf, batch {size}": HFLM(str(folder), device="cpu", dtype="float32", batch_size=size) for size in BATCHES
    }
    runs = {"gptjax": lambda: model.loglikelihood(pairs)}
    runs |= {name: lambda lm=lm: lm.loglikelihood(requests, disable_tqdm=True) for name, lm in backends.items()}
    taken = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            began = time.perf_counter()
            found = run()
            taken[name].append(time.perf_counter() - began)
            apart = np.abs(np.array([one[0] for one in found]) - [one[0] for one in ours]).max()
            greedy = sum(one[1] == other[1] for one, other in zip(found, ours, strict=True))
            print(
                f"  {name}: {taken[name][-1]:.1f} s; log-likelihoods {apart:.1e} apart, {greedy} greedy alike",
                flush=True,
            )
    for name, seconds in taken.items():
        middle = statistics.median(seconds)
        print(f"{name:<12} {middle:.1f} s (median of {repeats}, {min(seconds):.1f} to {max(seconds):.1f})")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 3)
