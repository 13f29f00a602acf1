"""Our GGUF files in Node and in a browser, beside llama.cpp's server: one text in, the same token ids out.

    python -m tests.campaigns.gguf_elsewhere MODEL --llama PYTHON --packages FOLDER [--exported FOLDER]

MODEL: a run, a folder of Hugging Face or a .gguf file; what is exported is kept in `--exported`, and taken from there.
PYTHON: an environment with xllamacpp. `--packages`: the folder where npm installed what docs/deployment.md says. Needs
Node and chromium, and playwright beside gptjax. What runs are the programs of that page: docs/node/greedy.mjs, and
docs/browser/index.html from docs/browser/serve.py, used as a person would; the page may ask no other address. Every
token of an f32 file must be the one that the server writes, and 99 % of them our own likeliest after the same
beginning; of other types, with which llama.cpp also rounds what it multiplies, in each build otherwise, that is only
told. A table of first token and tokens a second follows, one thread each, the best of five calls. The exit status is 1
if anything is wrong.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

import gptjax
from gptjax.exchange.export import logits_of
from gptjax.inference.language_model import LanguageModel
from tests.campaigns.gguf_live import PROMPTS, ROOT, asked, llama, say, wrong

BROWSER = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync"]
ALIKE = 0.99  # of the tokens are ours too
TIMED, CALLS = "The capital of France is", 5
IDS = """async ([prompt, count]) => {
    const asked = {prompt, max_tokens: count, temperature: 0, return_tokens: true, verbose: true};
    const told = (await model.createCompletion(asked)).__verbose;
    return {text: told.content, length: told.tokens_evaluated, ids: told.tokens};
}"""
Found = dict[str, Any]  # ids of the prompt, or their number as length; ids written; first (seconds), rate (tokens/s)
Run = Callable[[tuple[str, ...], int], list[Found]]  # of each prompt, and how many tokens


def in_cpp(prompt: str, count: int) -> Found:
    settings = {"temperature": 0, "return_tokens": True, "cache_prompt": False}
    answer = asked("/completion", prompt=prompt, n_predict=count, **settings)
    told = answer["timings"]
    begun = asked("/tokenize", content=prompt, add_special=True)["tokens"]
    speed = {"first": told["prompt_ms"] / 1000, "rate": told["predicted_per_second"]}
    return {"prompt": begun, "ids": answer["tokens"]} | speed


def in_node(script: Path, file: Path, prompts: tuple[str, ...], count: int) -> list[Found]:
    done = subprocess.run(["node", script, file, str(count), "1", *prompts], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{script.name} ended with status {done.returncode}: {done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]


@contextlib.contextmanager
def page_of(packages: Path) -> Iterator[Page]:
    """The page, open in Chromium; what it asks of another address is wrong."""
    command = [sys.executable, str(ROOT / "docs/browser/serve.py"), str(packages), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=BROWSER)
                page = browser.new_page()
                page.set_default_timeout(600_000)
                page.on("pageerror", lambda error: wrong.append(f"the page: {error}"))
                page.on("request", lambda request: request.url.startswith((address, "blob:", "data:"))
                        or wrong.append(f"the page asked {request.url}"))  # fmt: skip
                page.goto(address)
                yield page
                browser.close()
        finally:
            server.kill()


def in_chromium(page: Page, prompt: str, count: int) -> Found:
    """The text as the page shows it, with the ids that wllama tells when asked again."""
    page.fill("#prompt", prompt)
    page.fill("#count", str(count))
    page.click("#continue")
    page.wait_for_selector("body[aria-busy=false]")
    status = page.locator("#status").inner_text()
    speed = re.fullmatch(r"First token after (\d+) ms, then ([\d.]+) tokens/s\.", status)
    if speed is None:
        sys.exit(f"the page says: {status}")
    again = page.evaluate(IDS, [prompt, count])
    shown = page.locator("#text").text_content()
    if shown != prompt + again["text"]:
        wrong.append(f"the page shows {shown!r}, not {prompt + again['text']!r}")
    return again | {"first": int(speed[1]) / 1000, "rate": float(speed[2])}


def compared(model: LanguageModel, dtype: str, runs: dict[str, Run], count: int) -> None:
    """Prompts as ids, and what each program writes after them."""
    begun = [model.encode_prompt(prompt) for prompt in PROMPTS]
    found = {name: run(PROMPTS, count) for name, run in runs.items()}
    told, *_ = found.values()
    places = sum(len(one["ids"]) for one in told)
    for name, texts in found.items():
        read = sum(
            one.get("prompt", ids) == ids and one.get("length", len(ids)) == len(ids)
            for one, ids in zip(texts, begun, strict=True)
        )
        equal = sum(len(one["ids"]) for one, other in zip(texts, told, strict=True) if one["ids"] == other["ids"])
        what = f"{read} of {len(begun)} prompts have our ids, {equal} of {places} tokens stand in texts as in C++"
        say(f"{dtype}: {name}", read == len(begun) and (equal == places or dtype != "f32"), what)
    rows = [[*ids, *one["ids"][:-1]] for one, ids in zip(told, begun, strict=True)]
    ours = sum(
        int((logits_TV[-len(one["ids"]) :].argmax(-1) == one["ids"]).sum())
        for logits_TV, one in zip(logits_of(model, rows), told, strict=True)
    )
    say(
        f"{dtype}: gptjax",
        ours >= ALIKE * places or dtype != "f32",
        f"{ours} of {places} are its likeliest after the same beginning",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--llama", required=True)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--exported", type=Path)
    parser.add_argument("--dtypes", nargs="+", default=["f32", "q8_0"])
    parser.add_argument("--count", type=int, default=48)
    given = parser.parse_args()
    rows: list[str] = []
    with tempfile.TemporaryDirectory() as scratch, page_of(given.packages) as page:
        folder = given.exported or Path(scratch)
        folder.mkdir(exist_ok=True)
        script = Path(scratch, "greedy.mjs")  # Node looks for packages beside the script
        shutil.copy(ROOT / "docs/node/greedy.mjs", script)
        Path(scratch, "node_modules").symlink_to(given.packages.resolve() / "node_modules")
        for dtype in given.dtypes:
            if not (file := folder / f"model-{dtype}.gguf").exists():
                gptjax.export(gptjax.load(given.model), file, dtype)
            page.set_input_files("#file", file)
            page.wait_for_selector("body[aria-busy=false]")
            runs: dict[str, Run] = {
                "llama.cpp in C++": lambda prompts, count: [in_cpp(prompt, count) for prompt in prompts],
                "Node": lambda prompts, count, file=file: in_node(script, file, prompts, count),
                "Chromium": lambda prompts, count: [in_chromium(page, prompt, count) for prompt in prompts],
            }
            with llama(given.llama, file):
                compared(gptjax.load(file), dtype, runs, given.count)
                for name, run in runs.items():
                    calls = run((TIMED,) * CALLS, 32)
                    first, rate = min(one["first"] for one in calls), max(one["rate"] for one in calls)
                    rows.append(f"| {name}, {dtype} | {1000 * first:.0f} | {rate:.1f} |")
    print(f"\n| {TIMED!r}, 32 tokens out, the best of {CALLS} calls | first token, ms | tokens/s |\n|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    main()
    print("\n".join(wrong))
    sys.exit(bool(wrong))
