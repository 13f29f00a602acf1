"""run.py TEXT COUNT: so many tokens greedily, by the SavedModel in this folder. Needs tensorflow, tokenizers."""

import functools
import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

FOLDER = Path(__file__).resolve().parent
said = functools.cache(lambda: json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8")))


def i32(values):
    return np.array(values, np.int32)


def load():
    loaded = tf.saved_model.load(str(FOLDER))

    def run(name, cache, **ids):
        found = loaded.signatures[name](**{key: tf.constant(value) for key, value in ids.items()}, **cache)
        return found.pop("logits"), found

    return (
        lambda tokens, slot, length, cache: run("prefill", cache, tokens=tokens, slot=slot, length=length),
        lambda token, slot, cache: run("step", cache, token=token, slot=slot),
    )


def empty_cache(rows, room):
    _, heads, block, width = said()["cache"]["shape"]  # of one block of slots
    return {name: tf.zeros((rows, heads, -(-room // block) * block, width)) for name in said()["cache"]["names"]}


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

    prompt, count = sys.argv[1], int(sys.argv[2])
    tokenizer = tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    begun = tokenizer.encode(prompt).ids
    print(tokenizer.decode([*begun, *greedy(begun, count)]))
