"""`python -m tests.campaigns.look_in_browser [MODEL ...]`: pages of `gptjax look` in headless Chromium.

The first is of SmolLM2 over 512 tokens of English, Chinese, emoji and code: how long the command takes, a process from
its start to its end, and how large the page is, beside the figures that are wanted. Further pages are of the models
that are named, such as a run that reads from both sides, or one with output heads. Each page is used as a reader would,
in a light and a dark browser; no console error, no exception, and no request for anything may come of it. Pictures of
what the pages look like go to `--pictures`: look at them.

Needs chromium, fonts with Chinese and emoji, and playwright beside gptjax; SmolLM2 as `./launch.sh setup --smollm2`
installs it.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from gptjax.exchange.gguf_file import read_file
from gptjax.exchange.gguf_tokenizer import tokenizer_of
from train.tuning.base import base_path

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
             "--disable-component-update", "--disable-sync"]  # fmt: skip
TOKENS, MOST_SECONDS, MOST_BYTES = 512, 10.0, 5_000_000
PASSAGES = (
    "A language model reads a text from left to right and says at every place what may come next. ",
    "The old fox 🦊 ran over the hill, and the young dog 🐕 ran after it. When the old fox ran over the hill again, "
    "nobody followed. ",
    "狐狸跑过山头，狗在后面追。狐狸又跑过山头，没有人追它了。天气很好 ☀️，我们去公园散步吧！",
    "def add(a, b):\n    return a + b\n\nprint(add(2, 3))  # 5\n",
    "Paris is the capital of France, Rome is the capital of Italy, and Madrid is the capital of Spain. ",
)
SHORT = "".join(PASSAGES[1:3])[:90]


def text_of(path: Path, tokens: int) -> str:
    """The passages again and again, as many tokens of them as are wanted or one fewer."""
    tokenizer, _ = tokenizer_of(read_file(path)[0])
    text = ""
    while len(tokenizer.encode(text)) < tokens:
        text += "".join(PASSAGES)
    while len(tokenizer.encode(text)) > tokens:
        text = text[:-1]
    return text


def looked(model: Path, text: str, target: Path) -> float:
    """Seconds that `gptjax look` takes, from the start of its process to the end."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "gptjax.cli", "look", model, "--text", text, "--to", target, "--replace"]
    subprocess.run([str(word) for word in command], check=True)
    return time.monotonic() - begun


def used(browser: Browser, path: Path, pictures: Path, colours: str) -> list[str]:
    """What goes wrong while a page is used as a reader would."""
    context = browser.new_context(viewport={"width": 1180, "height": 1400}, color_scheme=colours)  # pyright: ignore[reportArgumentType]
    page, wrong = context.new_page(), []
    page.on(
        "console", lambda said: wrong.append(f"console: {said.text}") if said.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: wrong.append(f"exception: {error}"))
    page.on("request", lambda asked: wrong.append(f"asked {asked.url}") if not _own(asked.url, path) else None)
    page.goto(path.as_uri())
    expect(page.locator("#panel_b canvas")).to_be_visible(timeout=60_000)
    _use(page)
    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
        wrong.append("the page is wider than its window")
    page.screenshot(path=pictures / f"{path.stem}-{colours}.png", full_page=True)
    context.close()
    return [f"{path.stem}, {colours}: {one}" for one in wrong]


def _own(url: str, path: Path) -> bool:
    return url.startswith((path.as_uri(), "data:", "blob:"))


def _use(page: Page) -> None:
    """Points, clicks and keys; what must follow is waited for."""
    tokens = page.locator("#text > span")
    place = min(40, tokens.count() - 2)
    tokens.nth(place).click()
    expect(page.locator("#tip")).to_contain_text("expected here")
    page.keyboard.press("ArrowRight")
    for box in ("#text", "#panel_a .tokens", "#panel_b .tokens"):
        expect(page.locator(f"{box} > .here")).to_have_attribute("data-place", str(place + 1))
    page.locator("button[name=b]").click()
    page.locator("#map button").last.click()
    chosen = page.locator("#panel_b select").last
    expect(chosen).to_have_value(str(page.evaluate("seen.heads.length - 1")))
    page.locator("#direction button[name=in]").click()
    expect(page.locator("#panel_a .roleline")).not_to_be_empty()
    page.locator("#direction button[name=out]").click()
    page.locator("#panel_a canvas").hover()
    expect(page.locator("#tip")).to_contain_text("looks at")
    page.locator("#grid td").first.click()
    for way in page.locator("#ways button:enabled").all():
        way.click()
    for role in page.locator("#legend button").all()[:1]:
        role.click()
    page.mouse.move(0, 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL")
    parser.add_argument("--pictures", type=Path, default=Path("pictures"))
    asked = parser.parse_args()
    asked.pictures.mkdir(parents=True, exist_ok=True)
    smollm2 = base_path("smollm2")
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        pages = [Path(folder) / "smollm2.html"]
        text = text_of(smollm2, TOKENS)
        for turn in ("first", "second"):  # which finds its programs compiled
            seconds = looked(smollm2, text, pages[0])
            print(f"{turn} look: {seconds:.1f} s of {MOST_SECONDS:.0f}")
        size = pages[0].stat().st_size
        print(f"page: {size / 1e6:.1f} MB of {MOST_BYTES / 1e6:.0f}")
        wrong += ["too slow"] * (seconds > MOST_SECONDS) + ["too large"] * (size > MOST_BYTES)
        for number, model in enumerate(asked.models):
            pages.append(Path(folder) / f"{number}-{model.name}.html")
            looked(model, SHORT, pages[-1])
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGUMENTS)
            for path in pages:
                for colours in ("light", "dark"):
                    wrong += used(browser, path, asked.pictures, colours)
            browser.close()
    print("\n".join(wrong) or f"nothing wrong with {len(pages)} pages; look at {asked.pictures}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
