"""run.py TEXT COUNT: so many tokens greedily, by the model in this folder. Needs jax, numpy, tokenizers; no gptjax."""

import functools
import json
import sys
from pathlib import Path

import jax
import numpy as np
from jax import export

FOLDER = Path(__file__).resolve().parent
i32 = functools.partial(np.array, dtype=np.int32)
said = functools.cache(lambda: json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8")))


def load():
    raw = np.memmap(FOLDER / "weights.safetensors", np.uint8, "r")  # a length, JSON of what lies where, the numbers
    start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
    places = json.loads(raw[8:start].tobytes())
    parts = {name: raw[start:][slice(*at["data_offsets"])].view(np.float32) for name, at in places.items()}
    weights = {name: jax.device_put(part.reshape(places[name]["shape"])) for name, part in parts.items()}
    for name, cache in (("prefill", 4), ("step", 3)):
        exported = export.deserialize(bytearray((FOLDER / f"{name}.jax_export").read_bytes()))
        yield functools.partial(jax.jit(exported.call, donate_argnums=cache), weights)


def empty_cache(rows, room):
    _, heads, block, width = said()["cache"]["shape"]  # of one block of slots
    return {name: jax.numpy.zeros((rows, heads, -(-room // block) * block, width)) for name in said()["cache"]["names"]}


def greedy(ids, count):
    assert 1 <= len(ids) <= said()["context"] - count + 1, f"1 to {said()['context']} tokens fit, written ones too"
    (prefill, step), cache = load(), empty_cache(1, len(ids) + count)
    logits, cache = prefill(i32([ids]), i32([0]), i32([len(ids)]), cache)
    for slot in range(len(ids), len(ids) + count):
        yield (token := int(np.argmax(logits[0])))
        if token in said()["ends"] or slot == len(ids) + count - 1:
            return
        logits, cache = step(i32([token]), i32([slot]), cache)


if __name__ == "__main__":
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    begun = tokenizer.encode(sys.argv[1]).ids
    print(tokenizer.decode([*begun, *greedy(begun, int(sys.argv[2]))]))
