"""Programs that were written, run by the loader that lies beside them, in a process that has no gptjax.

Such a `run.py` has `load()`, which gives `prefill` and `step`, `empty_cache(rows, room)` and `greedy(ids, count)`.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.exchange.export import (
    CONTINUED,
    PROMPTS,
    TOLERANCE,
    check_greedy,
    largest_difference,
    logits_of,
    probes,
)
from gptjax.exchange.programs.program import SLOTS_MULTIPLE
from gptjax.files.plain_json import dumps
from gptjax.inference.language_model import LanguageModel
from gptjax.inference.prompt import encode_prompts

# Tokens of a text that is compared: read in one piece up to its middle, then one by one. One more text fills several
# blocks of the cache, where the context does, and is read in two pieces.
LONGEST = 48
CONSUMER = """
import json, runpy, sys
sys.modules.update(dict.fromkeys(json.loads(sys.argv[3])))  # an import of any fails
import numpy as np
asked, made = json.load(open(sys.argv[1])), runpy.run_path("run.py")
texts, (prefill, step) = asked["texts"], made["load"]()
B, T = len(texts), max(map(len, texts))
tokens_BT = np.zeros((B, T), np.int32)
for row, ids in enumerate(texts):
    tokens_BT[row, :len(ids)] = ids
read_B = np.array([(len(ids) + 1) // 2 for ids in texts], np.int32)
logits_BV, cache = prefill(tokens_BT[:, :read_B.max()], np.zeros(B, np.int32), read_B, made["empty_cache"](B, T))
found = [np.asarray(logits_BV)]
for more in range(T - read_B.min()):
    slot_B = np.minimum(read_B + more, T - 1).astype(np.int32)
    logits_BV, cache = step(tokens_BT[np.arange(B), slot_B], slot_B, cache)
    found.append(np.asarray(logits_BV))
ends, cache, place = [], made["empty_cache"](1, len(asked["long"])), 0
for ids in np.array_split(np.array(asked["long"], np.int32), 2):  # several blocks of slots, in two pieces
    logits_BV, cache = prefill(ids[None], np.int32([place]), np.int32([len(ids)]), cache)
    ends.append(np.asarray(logits_BV[0]))
    place += len(ids)
greedy = list(made["greedy"](asked["begun"], asked["count"]))
np.savez(sys.argv[2], logits_MBV=np.stack(found), long_2V=np.stack(ends), greedy=greedy)
"""


def prove(folder: Path, model: LanguageModel, missing: Sequence[str]) -> dict[str, Any]:
    """What the folder's own `run.py` computes, beside the source: scores within 1e-4 of the largest, and greedy text.

    `missing`: packages that its process cannot import. Raises ValueError that says what differs, or how it failed.
    """
    fixed = [ids for ids in encode_prompts(model.tokenizer, model.generation_config, PROMPTS) if ids]
    texts, begun = probes(model.config, fixed)
    texts, begun = [ids[:LONGEST] for ids in texts], begun[:LONGEST]
    count = min(CONTINUED, model.config.T - len(begun) + 1)
    long = [ids for text in texts for ids in text] * model.config.T
    long = long[: min(model.config.T, 2 * SLOTS_MULTIPLE + 1)]
    asked = {"texts": texts, "begun": begun, "count": count, "long": long}
    logits_MBV, long_2V, greedy = _run(folder, asked, missing)
    float32 = LanguageModel(model.config, model.tokenizer, model.params, mesh=model.mesh)
    *source, of_long, of_greedy = logits_of(float32, [*texts, long, [*begun, *greedy[:-1]]])
    halves = [(len(ids) + 1) // 2 for ids in texts]
    found = [logits_MBV[: len(ids) - half + 1, row] for row, (ids, half) in enumerate(zip(texts, halves, strict=True))]
    wanted = [logits_TV[half - 1 :] for logits_TV, half in zip(source, halves, strict=True)]
    found.append(long_2V)
    wanted.append(of_long[[(len(long) + 1) // 2 - 1, -1]])
    largest = max(float(np.abs(logits_TV).max()) for logits_TV in wanted)
    difference = largest_difference(found, wanted)
    if not difference <= TOLERANCE * largest:  # of NaN it is NaN
        raise ValueError(f"scores of up to {largest:.4g} differ by {difference:.4g} from the source's")
    if len(greedy) != count and greedy[-1] not in model.generation_config.ends:
        raise ValueError(f"its greedy continuation ends after {len(greedy)} of {count} tokens")
    check_greedy(of_greedy, begun, greedy, largest, "in what was written", "in the source")
    return {
        "logits": {
            "texts": len(texts) + 1,
            "tokens": sum(map(len, wanted)),
            "largest": largest,
            "largest_difference": difference,
            "allowed_difference": TOLERANCE * largest,
        },
        "greedy": {"prompt": begun, "continuation": greedy},
    }


def _run(folder: Path, asked: dict[str, Any], missing: Sequence[str]) -> tuple[np.ndarray, np.ndarray, list[int]]:
    with tempfile.TemporaryDirectory() as scratch:
        question, answer = Path(scratch) / "asked.json", Path(scratch) / "found.npz"
        question.write_text(dumps(asked), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-c", CONSUMER, str(question), str(answer), dumps(list(missing))],
            cwd=folder, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            last = "\n".join(done.stderr.strip().splitlines()[-3:])
            raise ValueError(f"its loader ended with status {done.returncode} in a process of its own: {last}")
        with np.load(answer) as found:
            return found["logits_MBV"], found["long_2V"], found["greedy"].tolist()
