"""Our GGUF files beside llama.cpp and the package gguf: weights, tokens, greedy texts, scores, and what few bits cost.

    python -m tests.campaigns.gguf_live MODEL --llama PYTHON [--exported FOLDER] [--dtypes f32 q8_0 ...]
    python -m tests.campaigns.gguf_live families --llama PYTHON    # random models of every architecture, without JAX

MODEL: a run, a folder of Hugging Face or a .gguf file. PYTHON: an environment with xllamacpp and gguf. Every type of
weights is exported, into FOLDER where it is kept. Each line says what was compared and what was found; the exit status
is 1 if anything differs.
"""

import argparse
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import unicodedata
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import gptjax
from gptjax.exchange.export import logits_of
from gptjax.exchange.gguf_settings import DTYPES
from gptjax.exchange.witness.gguf_reread import logits
from gptjax.inference.language_model import LanguageModel
from tests.gptjax.exchange.witness.test_gguf_reread import SAID, file_of
from tests.hf_models import PROMPT

ROOT = Path(__file__).resolve().parents[2]
PORT = 8391
STRINGS = 2000
GREEDY = 200  # tokens
NATS = 1e-3  # of log-probabilities, with weights of 32 bits
GELU_NATS = 2e-2  # of loud random models of gpt2: llama.cpp looks GELU up in a table of 16 bits
PERPLEXITY = {"f16": 1e-3, "bf16": 1e-2, "q8_0": 1e-3, "q4_0": 0.05, "q4_1": 0.05}  # share by which it may rise
PROMPTS = ("The city of London was", "Once upon a time there was a man who", "曹操", "In the beginning", "A: hello\nB:")
SCRIPTS = (
    (0x41, 0x7A), (0xC0, 0x17F), (0x391, 0x3C9), (0x410, 0x44F), (0x5D0, 0x5EA), (0x620, 0x64A), (0x905, 0x939),
    (0x985, 0x9B9), (0xE01, 0xE3A), (0x10D0, 0x10F0), (0x1E00, 0x1EFF), (0x3041, 0x3096), (0x30A1, 0x30FA),
    (0x4E00, 0x9FA5), (0xAC00, 0xD7A3), (0x1F300, 0x1F64F), (0x2200, 0x22FF), (0x30, 0x39),
    (0x660, 0x669), (0x21, 0x2F),
)  # fmt: skip
BETWEEN = (" ", " ", " ", "  ", "\n", "\n\n", "\t", ", ", ". ", "'s ", "'LL ", "", "\u00a0", "\u3000", "-", "…")
SERVER = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port, params.n_ctx, params.n_parallel = sys.argv[1], int(sys.argv[2]), 512, 1
params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.warmup = False
server = xllamacpp.Server(params)
while True:
    time.sleep(1)
"""
BLOCKS = """
import sys
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, quants
exact = {tensor.name: quants.dequantize(tensor.data, tensor.tensor_type) for tensor in GGUFReader(sys.argv[1]).tensors}
count = 0
for tensor in GGUFReader(sys.argv[2]).tensors:
    wanted = quants.quantize(exact.pop(tensor.name), GGMLQuantizationType(tensor.tensor_type))
    if wanted.tobytes() != tensor.data.tobytes():
        sys.exit(f"{tensor.name} differs")
    count += 1
sys.exit(f"{min(exact)} is missing" if exact else print(count))
"""
wrong: list[str] = []


def say(what: str, good: bool, found: str) -> None:
    print(f"{'ok   ' if good else 'WRONG'} {what}: {found}", flush=True)
    if not good:
        wrong.append(what)


def strings() -> list[str]:
    """Lines of our own pages and corpora in several languages, and words of random characters of twenty scripts."""
    draw = random.Random(0)
    pages = [*ROOT.glob("docs/*.md"), *ROOT.glob("README*.md"), *ROOT.glob("data/corpora/*/dummy_data/**/*.txt")]
    lines = {line for page in pages for line in page.read_text("utf-8", errors="ignore").splitlines() if line.strip()}
    found = draw.sample(sorted(lines), min(len(lines), STRINGS // 2))

    def word() -> str:
        first, last = draw.choice(SCRIPTS)
        points = (chr(draw.randint(first, last)) for _ in range(draw.randint(1, 6)))
        return "".join(point for point in points if unicodedata.category(point) != "Cn")

    while len(found) < STRINGS:
        found.append("".join(word() + draw.choice(BETWEEN) for _ in range(draw.randint(1, 12))))
    return found


@contextlib.contextmanager
def llama(python: str, file: Path) -> Iterator[None]:
    """llama.cpp's server, with caches of 32 bits."""
    process = subprocess.Popen(
        [python, "-c", SERVER, str(file), str(PORT)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        began = time.monotonic()
        while True:
            if process.poll() is not None or time.monotonic() > began + 300:
                sys.exit(f"llama.cpp did not start with {file}: status {process.poll()}")
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=5):
                break
            time.sleep(0.2)
        yield
    finally:
        process.kill()
        process.wait()


def asked(path: str, **body: Any) -> Any:
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.load(answer)


def tokens(model: LanguageModel) -> None:
    unequal, first, texts = 0, "", strings()
    for text in texts:
        found = asked("/tokenize", content=text, add_special=False, parse_special=False)["tokens"]
        if found != model.tokenizer.encode(text):
            unequal, first = unequal + 1, first or repr(text)
    say(f"tokens of {len(texts)} strings", not unequal, f"{unequal} differ {first}")


def greedy(model: LanguageModel, dtype: str, needed: int, nats: float) -> None:
    """Every token that llama.cpp writes is our likeliest after the same beginning, and as likely as it says."""
    count = places = probabilities = differing = 0
    largest = 0.0
    for prompt in PROMPTS:
        begun = model.encode_prompt(prompt)
        answer = asked(
            "/completion", prompt=begun, n_predict=min(needed, model.config.T - len(begun)), temperature=0, n_probs=10,
            return_tokens=True, cache_prompt=False,
        )  # fmt: skip
        written = answer["tokens"]
        [logits_TV] = logits_of(model, [[*begun, *written]])
        logits_TV = logits_TV[len(begun) - 1 : -1].astype(np.float64)
        scores_TV = logits_TV - np.log(np.exp(logits_TV - logits_TV.max(-1, keepdims=True)).sum(-1, keepdims=True))
        scores_TV -= logits_TV.max(-1, keepdims=True)
        differing += int((scores_TV.argmax(-1) != written).sum())
        told = answer.get("completion_probabilities", [])
        for place, id in enumerate(written):
            if told and told[0]["id"] == id:  # tokens that end inside a character are left out
                for one in told.pop(0)["top_logprobs"]:
                    largest = max(largest, abs(one["logprob"] - scores_TV[place, one["id"]]))
                    probabilities += 1
        places, count = places + len(written), count + 1
        if places >= needed:
            break
    good = places >= needed and (differing == 0 or dtype != "f32")
    say(f"{dtype}: greedy tokens of llama.cpp", good, f"{places} after {count} prompts, {differing} are not ours")
    found = f"largest difference {largest:.2e} nats of {probabilities} log-probabilities"
    say(f"{dtype}: log-probabilities", probabilities > 0 and largest <= nats, found)


def families(python: str) -> None:
    """Scores of random models whose logits the tests compare with those of transformers."""
    with tempfile.TemporaryDirectory() as scratch:
        for number, (name, fields) in enumerate(SAID.items()):
            file = file_of(Path(scratch) / f"{number}.gguf", fields)
            [logits_TV] = logits(file, [PROMPT])
            scores_TV = logits_TV - logits_TV.max(-1, keepdims=True)
            scores_TV -= np.log(np.exp(scores_TV).sum(-1, keepdims=True))
            count, largest = 0, 0.0
            with llama(python, file):
                for length in range(4, len(PROMPT) + 1):
                    answer = asked(
                        "/completion",
                        prompt=PROMPT[:length],
                        n_predict=1,
                        temperature=0,
                        n_probs=20,
                        cache_prompt=False,
                    )
                    for entry in answer.get("completion_probabilities", []):  # none of what ends inside a character
                        for one in entry["top_logprobs"]:
                            largest = max(largest, abs(one["logprob"] - scores_TV[length - 1, one["id"]]))
                            count += 1
            allowed = GELU_NATS if "gpt2" in name else NATS
            say(f"{name}: log-probabilities", count > 0 and largest <= allowed, f"{largest:.2e} nats of {count}")


def perplexities(source: LanguageModel, files: dict[str, Path]) -> None:
    """Of our own pages, by our own forward pass over the weights as they were stored."""
    text = "".join((ROOT / name).read_text("utf-8") for name in ("README.md", "docs/finetuning.md", "docs/serving.md"))
    ids, length = source.tokenizer.encode(text), min(source.config.T, 256)
    rows = [ids[at : at + length] for at in range(0, length * 8, length)]

    def of(model: LanguageModel) -> float:
        return float(np.exp(-np.concatenate(model.log_probs(rows)).mean()))

    exact = of(source)
    for dtype, file in files.items():
        share = of(gptjax.load(file)) / exact - 1
        found = f"{exact * (1 + share):.4f}, of the source {exact:.4f}: {100 * share:+.3f} %"
        say(f"{dtype}: perplexity", abs(share) <= PERPLEXITY.get(dtype, 1e-6), found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--llama", required=True)
    parser.add_argument("--exported", type=Path)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    given = parser.parse_args()
    if given.model == "families":
        families(given.llama)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.exported or Path(scratch)
        folder.mkdir(exist_ok=True)
        files = {dtype: folder / f"model-{dtype}.gguf" for dtype in ("f32", *given.dtypes)}
        model = gptjax.load(given.model)
        if "q8_0" in files and not files["q8_0"].exists():
            export = ["export", given.model, str(files["q8_0"]), "--dtype", "q8_0"]
            subprocess.run([sys.executable, "-m", "gptjax.cli", *export], check=True)
        for dtype, file in files.items():
            if not file.exists():
                proof = gptjax.export(model, file, dtype)
                say(f"{dtype}: exported", True, f"scores moved by {proof['logits']['moved']:.3g} of their deviation")
        for dtype, file in files.items():
            done = subprocess.run(
                [given.llama, "-c", BLOCKS, str(files["f32"]), str(file)], capture_output=True, text=True
            )
            found = (done.stdout + done.stderr[-300:]).strip()
            say(f"{dtype}: bytes of every tensor are the package gguf's", done.returncode == 0, found)
        with llama(given.llama, files["f32"]):
            tokens(model)
            greedy(model, "f32", GREEDY, NATS)
        perplexities(model, files)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
    sys.exit(bool(wrong))
