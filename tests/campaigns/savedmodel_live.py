"""A model as StableHLO and SavedModel, run without gptjax: in Python, and in C++ through TensorFlow's C API.

    python -m tests.campaigns.savedmodel_live MODEL [--exported FOLDER] [--count 32] [--prompt TEXT]

MODEL: a run, a folder of Hugging Face, a .gguf file; its exports are kept in FOLDER, and taken from there. Needs cmake
and a C++ compiler. Every line says what was compared with the model's own scores and greedy tokens; a table of first
token and tokens a second follows, the best of five calls; the C++ program calls once, and its first token compiles. The
exit status is 1 if anything differs.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import gptjax
from gptjax.exchange.export import TOLERANCE, logits_of

ROOT = Path(__file__).resolve().parents[2]
TIMED = """
import json, runpy, sys, time
sys.modules.update(dict.fromkeys(["gptjax", *sys.argv[3:]]))
import numpy as np
ids, count = json.loads(sys.argv[1]), int(sys.argv[2])
made = runpy.run_path("run.py")
prefill, step = made["load"]()
firsts, rates = [], []
for call in range(5):
    began, said, cache = time.perf_counter(), [], made["empty_cache"](1, len(ids) + count)
    logits, cache = prefill(np.int32([ids]), np.int32([0]), np.int32([len(ids)]), cache)
    scores = [np.asarray(logits)[0]]
    said.append(int(scores[-1].argmax()))
    firsts.append(time.perf_counter() - began)
    for slot in range(len(ids), len(ids) + count - 1):
        logits, cache = step(np.int32([said[-1]]), np.int32([slot]), cache)
        scores.append(np.asarray(logits)[0])
        said.append(int(scores[-1].argmax()))
    rates.append((count - 1) / (time.perf_counter() - began - firsts[-1]))
np.save(sys.stdout.buffer, np.stack(scores))
print(json.dumps({"ids": said, "first": min(firsts), "rate": max(rates)}), file=sys.stderr)
"""
wrong: list[str] = []


def compared(name, model, begun, ids, scores_TV):
    """A line: are these the model's likeliest tokens, and how far are the scores from its own?"""
    [source_TV] = logits_of(model, [[*begun, *ids[:-1]]])
    source_TV = source_TV[len(begun) - 1 :]
    difference, largest = float(np.abs(scores_TV - source_TV).max()), float(np.abs(source_TV).max())
    same = ids == source_TV.argmax(-1).tolist()
    good = same and difference <= TOLERANCE * largest
    print(
        f"{'ok   ' if good else 'WRONG'} {name}: {len(ids)} greedy tokens {'the same' if same else 'differ'}, "
        f"scores of up to {largest:.4g} within {difference:.2g}",
        flush=True,
    )
    if not good:
        wrong.append(name)


def in_python(folder, begun, count, missing):
    command = [sys.executable, "-c", TIMED, json.dumps(begun), str(count), *missing]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=True)
    found = json.loads(done.stderr.decode().strip().splitlines()[-1])
    with tempfile.TemporaryFile() as file:
        file.write(done.stdout)
        file.seek(0)
        return found, np.load(file)


def in_cpp(folder, begun, count, build):
    tensorflow = Path(importlib.util.find_spec("tensorflow").origin).parent
    subprocess.run(
        ["cmake", "-S", ROOT / "docs/cpp", "-B", build, f"-DTENSORFLOW={tensorflow}"], check=True, capture_output=True
    )
    subprocess.run(["cmake", "--build", build], check=True, capture_output=True)
    scores = build / "scores"
    command = [build / "greedy", folder, str(count), scores, *map(str, begun)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    ids = [int(id) for id in done.stdout.split()]
    first, _, rest = done.stderr.strip().splitlines()[-1].removeprefix("first token ").partition(" s, ")
    rate = float(rest.split("; ")[1].split()[0])
    return {"ids": ids, "first": float(first), "rate": rate}, np.fromfile(scores, np.float32).reshape(len(ids), -1)


def ours(model, begun, count):
    """`generate`, the best of five calls."""
    firsts, rates = [], []
    for _ in range(5):
        began, first = time.perf_counter(), None
        for _ in model.stream(begun, temperature=0, tokens=count):
            first = first or time.perf_counter() - began
        firsts.append(first)
        rates.append((count - 1) / (time.perf_counter() - began - first))
    return {"first": min(firsts), "rate": max(rates)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--exported", type=Path)
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--prompt", default="The capital of France is")
    given = parser.parse_args()
    model = gptjax.load(given.model)
    begun = model.encode_prompt(given.prompt)
    table = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = (given.exported or Path(scratch)).absolute()
        hlo, saved = folder / "programs", folder / "saved"
        export = ["-m", "gptjax.cli", "export", given.model, hlo, "--as", "stablehlo"]
        for target, command in ((hlo, export), (saved, ["-m", "train", "savedmodel", given.model, saved])):
            if not target.exists():
                subprocess.run([sys.executable, *command], check=True)
        runs = {
            "StableHLO": lambda: in_python(hlo, begun, given.count, []),
            "SavedModel, Python": lambda: in_python(saved, begun, given.count, ["jax", "jaxlib"]),
            "SavedModel, C++": lambda: in_cpp(saved, begun, given.count, Path(scratch) / "build"),
        }
        for name, run in runs.items():
            table[name], scores_TV = run()
            compared(name, model, begun, table[name]["ids"], scores_TV)
    table["gptjax"] = ours(model, begun, given.count)
    print(f"\n| {len(begun)} tokens in, {given.count} out | first token, ms | tokens/s |\n|---|---|---|")
    for name, found in table.items():
        print(f"| {name} | {1000 * found['first']:.0f} | {found['rate']:.1f} |")


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
    sys.exit(bool(wrong))
