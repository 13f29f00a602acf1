"""`python -m tests.campaigns.chat_page TALKS BASE`: the chat page of real servers in headless Chromium.

TALKS is a model that talks, BASE one that continues text, such as runs of `finetune` and `pretrain`. Each check opens
the page anew, with empty storage; whatever it does, no console error, no exception, and no request to another address
may come of it. Refusals that a healthy server does not make (429, 503, a stream that breaks off) are made by
intercepting the page's own requests; everything else is the server's. Pictures of what the page looks like go to
`--pictures`: look at them.

Needs chromium, and playwright and axe-playwright-python beside gptjax.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Collection
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

import gptjax
from data.examples.forms import conversation, recognised
from gptjax.text.record_files import records
from tests.campaigns.server_process import serving

KEY = "a-key-of-the-campaign"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
             "--disable-component-update", "--disable-sync"]  # fmt: skip
HOSTILE = (
    "<script>document.title = 'broken'</script><img src=x onerror=alert(1)> ![a](http://outside.example/a.png) "
    "[b](javascript:alert(1)) \u202egnp.exe \x1b[31mred\x1b[0m **bold** `code`\n\n"
    "```html\n<iframe src=//outside.example>\n```"
)
# At the first words of an answer, in the page itself: an answer may be over before a program hears of it.
AT_FIRST_WORDS = """(act) => new Promise((done) => new MutationObserver((_, observer) => {
    if (!document.querySelector(".busy .said")?.textContent) return;
    observer.disconnect();
    if (act === "stop") document.dispatchEvent(new KeyboardEvent("keydown", {key: "Escape"}));
    if (act === "scroll up") document.querySelector("#talk").scrollTop = 0;
    done(document.querySelector(".busy .said").textContent);
}).observe(document.querySelector("#talk"), {childList: true, subtree: true}))"""


class Visit:
    """One check's page, and what went wrong beside it."""

    def __init__(self, browser: Browser, address: str, pictures: Path, ends: Collection[int], **context):
        """`ends`: ids that end what the model says."""
        settings = {"viewport": {"width": 1180, "height": 800}, "locale": "en-GB", "reduced_motion": "reduce"} | context
        self._context = browser.new_context(**settings)
        self._context.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
        self.page: Page = self._context.new_page()
        self.address, self.pictures, self._ends = address, pictures, ends
        self.wrong: list[str] = []
        self.refusals = 0  # those that the check provokes: Chromium reports each as a console error
        self.page.on("console", self.heard)
        self.page.on("pageerror", lambda error: self.wrong.append(f"exception: {error}"))
        self.page.on("dialog", lambda dialog: (self.wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("request", self._asked)
        self.page.goto(address)

    def heard(self, message) -> None:
        if message.type != "error":
            return
        if message.text.startswith("Failed to load resource"):
            self.refusals += 1
        else:
            self.wrong.append(f"console: {message.text}")

    def _asked(self, request) -> None:
        if not request.url.startswith((f"{self.address}/", "data:", "blob:")):
            self.wrong.append(f"asked {request.url}")

    def picture(self, name: str) -> None:
        self.page.screenshot(path=self.pictures / f"{name}.png")

    def say(self, text: str) -> str:
        """Sends a message; its answer as the page shows it, another where a small model has said nothing."""
        self.page.fill("#entry", text)
        self.page.press("#entry", "Enter")
        self.rest()
        for _ in range(5):
            if self.written or self.page.locator(".failed").count():
                break
            self.tool("again")
            self.rest()
        return self.answer

    def rest(self) -> None:
        """Until no answer comes any more."""
        expect(self.page.locator(".assistant").last).to_be_visible()
        expect(self.page.locator(".busy")).to_have_count(0, timeout=60_000)

    @property
    def answer(self) -> str:
        return self.page.locator(".assistant .said").last.inner_text()

    @property
    def written(self) -> str:
        """The last turn's text as it is kept, with the marks that the page shows otherwise."""
        return self.page.evaluate("""() => {
            const talk = JSON.parse(localStorage["gptjax.talk." + location.hash.slice(1)]);
            return talk.turns[talk.last].text;
        }""")

    def tool(self, name: str, role: str = "assistant") -> None:
        self.page.locator(f".{role} [name={name}]").last.click()

    def point_at_token(self, number: int) -> None:
        """With the mouse, at that one of those that are to be seen, or the last: a new line has no width."""
        shown = self.page.locator(".tokens span").filter(has_text=re.compile(r"\w"))
        shown.nth(min(number, shown.count() - 1)).hover()

    def speak_at_length(self) -> None:
        """From now on the model does not end by itself, but at its limit."""
        never = {"logit_bias": {str(id): -100 for id in self._ends}}

        def longer(route: Route) -> None:
            route.continue_(post_data=json.dumps(route.request.post_data_json | never))

        self.page.route("**/v1/chat/completions", longer)

    def close(self) -> None:
        self._context.close()


def chats_in_two_languages(visit: Visit) -> None:
    page = visit.page
    expect(page.locator("#empty h2")).to_have_text("What is on your mind?")
    assert visit.say("Hello! How are you today?").strip()
    expect(page.locator(".measures").last).to_contain_text("tokens")
    visit.picture("chat-english-light")
    page.click("#language")
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    page.click("#new")
    assert visit.say("你好，请推荐一个景点。").strip()
    assert visit.say("门票多少钱？").strip()
    expect(page.locator(".user")).to_have_count(2)
    expect(page.locator(".failed")).to_have_count(0)
    visit.picture("chat-chinese-light")


def begins_in_the_reader_s_language(visit: Visit) -> None:
    expect(visit.page.locator("#empty h2")).to_have_text("想聊些什么？")
    visit.page.click("#theme")
    visit.picture("empty-chinese-dark")


def streams_and_speaks_once(visit: Visit) -> None:
    """What is shown first is the beginning of the answer, and a screen reader hears of its begin and end alone."""
    page = visit.page
    visit.speak_at_length()
    page.evaluate("""() => {
        window.heard = [];
        const status = document.querySelector("#status");
        new MutationObserver(() => heard.push(status.textContent)).observe(status, {childList: true});
    }""")
    begun = page.evaluate_handle(f"() => ({{ seen: ({AT_FIRST_WORDS})('watch') }})")
    answer = visit.say("What do you like to eat?")
    seen = begun.evaluate("(it) => it.seen")
    assert len(seen) < len(answer), (seen, answer)
    assert answer.split()[0].startswith(seen.split()[0]) or seen in answer
    heard = page.evaluate("heard")
    assert heard[0] == "An answer is coming", heard
    assert len(heard) == 2, heard
    assert heard[1].startswith("Answer: "), heard


def stops(visit: Visit) -> None:
    page = visit.page
    visit.speak_at_length()
    page.evaluate(f"() => {{ ({AT_FIRST_WORDS})('stop'); }}")
    said = visit.say("Tell me everything that you know about books, please.")
    assert said.strip()
    expect(page.locator(".note")).to_have_text("You stopped it here.")
    expect(page.locator("#send")).to_be_visible()
    assert visit.say("Are you still there?").strip()
    expect(page.locator(".failed")).to_have_count(0)


def edits_and_tries_again(visit: Visit) -> None:
    """Each version of a question and of an answer stays, and is a click away."""
    page = visit.page
    visit.speak_at_length()
    first = visit.say("Do you have a dog?")
    visit.tool("again")
    visit.rest()
    expect(page.locator(".assistant .tools").last).to_contain_text("2/2")
    visit.tool("earlier")
    assert visit.answer == first
    visit.tool("edit", "user")
    page.locator(".edit textarea").fill("Do you have a cat?")
    page.get_by_role("button", name="Send").first.click()
    visit.rest()
    expect(page.locator(".user .said")).to_have_text("Do you have a cat?")
    expect(page.locator(".user .tools")).to_contain_text("2/2")
    visit.tool("earlier", "user")
    expect(page.locator(".user .said")).to_have_text("Do you have a dog?")
    visit.tool("edit")
    page.locator(".edit textarea").fill("I have two dogs.")
    page.get_by_role("button", name="Save").click()
    assert visit.answer == "I have two dogs."
    expect(page.locator(".measures").last).to_have_text("edited")


def reload_keeps_everything(visit: Visit) -> None:
    page = visit.page
    answer = visit.say("Hi there!")
    page.click("#theme")
    page.click("#new")
    other = visit.say("Good morning.")
    page.fill("#entry", "not sent yet")
    page.reload()
    assert visit.answer == other
    expect(page.locator("#entry")).to_have_value("not sent yet")
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.locator("#list .open", has_text="Hi there!").click()
    assert visit.answer == answer
    page.locator("#list li", has_text="Hi there!").get_by_role("button", name="Rename").click()
    page.locator("#list input").fill("A greeting")
    page.locator("#list input").press("Enter")
    expect(page.locator("#title")).to_have_text("A greeting")
    page.locator("#list li", has_text="A greeting").get_by_role("button", name="Delete").click()
    expect(page.locator("#list li")).to_have_count(1)
    page.locator("#toast button").click()
    expect(page.locator("#list li")).to_have_count(2)
    assert visit.answer == answer
    visit.picture("chat-english-dark")


def meeting(answer: dict | None) -> Callable[[Route], None]:
    """What meets a request with that answer; None = with no connection."""
    return lambda route: route.fulfill(**answer) if answer else route.abort()


def closed_in_the_middle_keeps_what_came(visit: Visit) -> None:
    page = visit.page
    visit.speak_at_length()
    page.fill("#entry", "Say something long about the weather.")
    seen = page.evaluate(f"""() => {{
        const seen = ({AT_FIRST_WORDS})("watch");
        document.querySelector("#send").click();
        return seen;
    }}""")
    page.reload()
    expect(page.locator(".user .said")).to_have_text("Say something long about the weather.")
    expect(page.locator(".failed strong")).to_have_text("The connection ended before the answer did.")
    assert seen.split()[0] in visit.answer
    visit.tool("retry")
    visit.rest()
    expect(page.locator(".failed")).to_have_count(0)


def shows_refusals(visit: Visit) -> None:
    """A 400 of the server; intercepted: 429, 503, no connection, a stream that breaks off or ends in an error."""
    page = visit.page
    page.click("#show-settings")
    page.fill("#temperature", "9")
    visit.picture("settings")
    page.click("#settings [data-close]")
    visit.say("Hello?")
    expect(page.locator(".failed strong")).to_have_text("The server refuses this request.")
    expect(page.locator(".failed .quiet")).to_contain_text("temperature")
    visit.picture("refused")
    page.click("#show-settings")
    page.click("#reset")
    page.click("#settings [data-close]")
    begun = 'data: {"choices":[{"index":0,"delta":{"content":"Half an"}}]}\n\n'
    broken = begun + 'data: {"error":{"message":"row 3 was lost","type":"server_error"}}\n\n'
    told = {"error": {"message": "the queue is full", "type": "", "param": None, "code": None}}
    for answer, words, said in (
        ({"status": 429, "json": told}, "Too many want an answer now", ""),
        ({"status": 503, "json": told}, "The model is not ready yet", ""),
        (None, "The server does not answer", ""),
        ({"body": begun, "content_type": "text/event-stream"}, "The connection ended before", "Half an"),
        ({"body": broken, "content_type": "text/event-stream"}, "The server failed on this one", "Half an"),
    ):
        page.route("**/v1/chat/completions", meeting(answer))
        visit.tool("retry")
        expect(page.locator(".failed strong").last).to_contain_text(words)
        assert visit.answer == said
        page.unroute("**/v1/chat/completions")
    visit.tool("retry")
    visit.rest()
    expect(page.locator(".failed")).to_have_count(0)
    expect(page.locator(".user .said")).to_have_text("Hello?")
    assert visit.answer.strip()
    assert visit.refusals == 4, visit.refusals
    visit.wrong = [what for what in visit.wrong if "ERR_FAILED" not in what]


def asks_for_the_key(visit: Visit) -> None:
    page = visit.page
    expect(page.locator("#empty p")).to_contain_text("API key")
    page.get_by_role("button", name="Enter the key").click()
    page.keyboard.type("wrong")
    page.keyboard.press("Escape")
    expect(page.locator("#empty p")).to_contain_text("API key")
    page.click("#show-settings")
    page.fill("#key", KEY)
    page.click("#settings [data-close]")
    expect(page.locator("#empty h2")).to_be_visible()
    assert visit.say("Hello!").strip()
    assert page.evaluate("localStorage.getItem('gptjax.key')") is None
    assert page.evaluate("sessionStorage.getItem('gptjax.key')") == KEY


def exports_what_finetune_reads(visit: Visit) -> None:
    """Two conversations, one with a system message and an edited answer; an answer that was stopped is left out."""
    page = visit.page
    page.click("#show-settings")
    page.fill("#system", "Be short.")
    page.click("#settings [data-close]")
    visit.say("Say “yes”.\nOr 好.")
    visit.tool("edit")
    page.locator(".edit textarea").fill("Yes. 好的 🙂")
    page.get_by_role("button", name="Save").click()
    visit.speak_at_length()
    page.evaluate(f"() => {{ ({AT_FIRST_WORDS})('stop'); }}")
    visit.say("And more?")
    page.unroute("**/v1/chat/completions")
    page.click("#new")
    visit.say("Hello.")
    visit.tool("edit")
    page.locator(".edit textarea").fill("Hello to you.")
    page.get_by_role("button", name="Save").click()
    with page.expect_download() as download:
        page.click("#export-all")
    expect(page.locator("#toast")).to_contain_text("2 answers exported; 1 that broke off")
    file = Path(download.value.path()).with_suffix(".jsonl")
    download.value.save_as(file)
    read = [conversation(record, where, recognised(record, where), {}, "all") for where, record in records(file)]
    said = [[(message.role, message.content) for message in one.messages] for one in read]
    assert [("system", "Be short."), ("user", "Say “yes”.\nOr 好."), ("assistant", "Yes. 好的 🙂")] in said, said
    assert [("user", "Hello."), ("assistant", "Hello to you.")] in said, said
    assert len(said) == 2


def plain(text: str | None) -> str:
    """Without control characters, which the page spells out, and the space that a template may write before."""
    return re.sub(r"[^\n -~\u00a0-\uffff]|⟨U\+\w+⟩|[\u202a-\u202e]", "", text or "").strip()


def shows_probabilities(visit: Visit) -> None:
    """Of an answer that is there, by scoring it; of one that comes; by mouse and by keyboard."""
    page = visit.page
    visit.say("What is your name?")
    visit.tool("probabilities")
    expect(page.locator(".tokens")).to_be_visible()
    assert plain(page.locator(".tokens").text_content()) == plain(visit.written)
    visit.point_at_token(1)
    expect(page.locator("#tip .taken")).to_contain_text("%")
    assert page.locator("#tip div").count() >= 3
    page.locator(".tokens span").first.focus()
    page.keyboard.press("ArrowRight")
    label = page.evaluate("document.activeElement.ariaLabel")
    assert re.search(r"%.*; instead: .*%", label), label
    visit.picture("probabilities-light")
    page.click("#theme")
    page.keyboard.press("Tab")
    visit.tool("probabilities")
    expect(page.locator(".tokens")).to_have_count(0)
    page.click("#show-settings")
    page.check("#live")
    page.click("#settings [data-close]")
    visit.say("你喜欢吃什么？")
    expect(page.locator(".tokens")).to_have_count(1)
    visit.point_at_token(2)
    visit.picture("probabilities-dark")


def looks_well(visit: Visit) -> None:
    """A picture of what there is to be seen, such as docs/chat.png."""
    page = visit.page
    page.set_viewport_size({"width": 1040, "height": 620})
    page.click("#show-settings")
    page.fill("#max_tokens", "60")
    page.fill("#temperature", "0.4")
    page.click("#settings [data-close]")
    for text in ("你好！", "A name for a cat, please", "What is your favourite book?"):
        visit.say(text)
        page.click("#new")
    visit.say("What is the capital of France?")
    visit.say("Tell me one thing about the sea, in one short sentence.")
    visit.tool("probabilities")
    visit.point_at_token(4)
    visit.picture("chat")


def shows_what_the_model_reads(visit: Visit) -> None:
    page = visit.page
    visit.say("Where do you live?")
    visit.tool("reading")
    expect(page.locator("#reading-text")).to_contain_text("Where do you live?")
    mark = page.locator("#reading-text mark").text_content()
    assert plain(mark) == plain(visit.written)
    page.keyboard.press("Escape")
    expect(page.locator("#reading")).to_be_hidden()
    visit.tool("probabilities")
    assert (page.locator(".tokens").text_content() or "").strip("\n") == (mark or "").strip("\n")
    visit.tool("reading")
    expect(page.locator("#reading-count")).to_have_text(re.compile(r"^[\d,]+ tokens of at most [\d,]+$"))
    visit.picture("reading")
    page.keyboard.press("Escape")
    expect(page.locator("#reading")).to_be_hidden()


def looks_inside(visit: Visit) -> None:
    """A page of its own, whole within the policy that it has from this one; its tokens are those that are read. What
    the server refuses is told, and no empty page is left."""
    page = visit.page
    answer = visit.say("Hello! How are you today? 🦊")
    with page.expect_popup() as opened:
        visit.tool("look")
    seen = opened.value
    seen.on("console", visit.heard)
    seen.on("pageerror", lambda error: visit.wrong.append(f"exception: {error}"))
    seen.wait_for_url(re.compile("^blob:"), timeout=120_000)
    expect(seen.locator("h1")).to_contain_text("a look inside", timeout=30_000)
    expect(seen.locator(".panel canvas")).to_have_count(2)
    expect(seen.locator("#failed")).to_be_hidden()
    spoken = re.sub(r"[^A-Za-z]", "", answer)  # what is no part of a character
    shown = seen.evaluate(
        "JSON.parse(document.querySelector('#seen').textContent).pieces.map((one) => one[1]).join('')"
    )
    assert spoken in re.sub(r"[^A-Za-z]", "", shown), (spoken, shown)
    assert seen.evaluate("getComputedStyle(document.querySelector('.meter')).width") != "auto"
    seen.set_viewport_size({"width": 1180, "height": 1500})
    seen.screenshot(path=visit.pictures / "look-inside.png")
    told = {"error": {"message": "prompt has 900 tokens", "type": "", "param": "prompt", "code": None}}
    page.route("**/look", lambda route: route.fulfill(status=400, json=told))
    with page.expect_popup() as opened:
        visit.tool("look")
    expect(page.locator("#toast")).to_contain_text("prompt has 900 tokens")
    assert opened.value.is_closed()


def shows_hostile_text_as_text(visit: Visit) -> None:
    page = visit.page
    event = {"choices": [{"index": 0, "delta": {"content": HOSTILE}, "finish_reason": "stop"}]}
    body = f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n"
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=body, content_type="text/event-stream"))
    visit.say(HOSTILE)
    text = page.locator("#talk").inner_text()
    assert "<script>document.title" in text
    assert "onerror=alert(1)" in text
    assert "⟨U+202E⟩gnp.exe" in text
    assert "⟨U+001B⟩[31mred" in text
    assert page.locator("#talk :is(script, img, a, iframe)").count() == 0
    assert page.locator("#talk strong").inner_text() == "bold"
    assert page.locator("#talk pre").inner_text().strip() == "<iframe src=//outside.example>"
    assert "broken" not in page.title().split("·")[0].replace("document.title = 'broken'", "")
    page.reload()
    assert page.locator("#talk :is(script, img, a, iframe)").count() == 0
    visit.picture("hostile")


def works_with_a_keyboard_alone(visit: Visit) -> None:
    page, key = visit.page, visit.page.keyboard
    visit.speak_at_length()
    expect(page.locator("#entry")).to_be_focused()
    key.type("Hello")
    key.press("Shift+Enter")
    key.type("you")
    key.press("Enter")
    visit.rest()
    expect(page.locator(".user .said")).to_have_text("Hello\nyou")
    expect(page.locator("#entry")).to_be_focused()
    key.press("Alt+r")
    visit.rest()
    expect(page.locator(".assistant .tools").last).to_contain_text("2/2")
    key.press("Alt+t")
    expect(page.locator("#reading")).to_be_visible()
    key.press("Escape")
    key.press("Alt+e")
    key.type("Hello again ")
    key.press("Control+Enter")
    visit.rest()
    expect(page.locator(".user .said")).to_contain_text("Hello again")
    key.press("Alt+p")
    expect(page.locator(".tokens")).to_be_visible()
    for _ in range(20):
        key.press("Shift+Tab")
        if page.evaluate("document.activeElement.role") == "option":
            break
    key.press("End")
    assert page.evaluate("document.activeElement === document.querySelector('.tokens span:last-child')")
    key.press("Control+/")
    expect(page.locator("#keys")).to_be_visible()
    visit.picture("keys")
    key.press("Escape")
    key.press("Alt+s")
    expect(page.locator("#settings")).to_be_visible()
    key.press("Escape")
    key.press("Alt+n")
    expect(page.locator("#empty")).to_be_visible()
    key.press("Alt+l")
    expect(page.locator("#side")).to_be_hidden()
    key.press("Alt+l")
    page.evaluate("document.activeElement.blur()")
    for _ in range(12):  # whatever has the focus is seen to have it
        key.press("Tab")
        focused = page.evaluate("""() => {
            const it = document.activeElement;
            return [it.id || it.tagName, getComputedStyle(it).outlineStyle];
        }""")
        assert focused[1] != "none" or focused[0] in ("entry", "BODY"), focused


def is_accessible(visit: Visit) -> None:
    """axe finds nothing, in both themes and languages, in every state of the page."""
    page, axe = visit.page, Axe()

    def look(state: str) -> None:
        found = axe.run(page).response["violations"]
        shown = [(one["id"], [node["html"][:120] for node in one["nodes"]][:3]) for one in found]
        assert not shown, f"{state}: {shown}"

    look("empty")
    visit.say("Hello!")
    look("an answer")
    visit.tool("probabilities")
    page.locator(".tokens span").first.focus()
    look("probabilities")
    page.click("#theme")
    look("dark")
    page.click("#language")
    look("Chinese")
    for opens, dialog in (("#show-settings", "settings"), ("#show-keys", "keys"), ("[name=reading]", "reading")):
        page.locator(opens).last.click()
        expect(page.locator(f"#{dialog}")).to_be_visible()
        look(dialog)
        page.keyboard.press("Escape")
    page.route("**/v1/chat/completions", lambda route: route.fulfill(status=503, json={}))
    visit.say("你好")
    look("a refusal")
    page.click("#theme")
    look("a refusal, light")


def follows_the_answer_unless_the_reader_scrolls(visit: Visit) -> None:
    page = visit.page
    visit.speak_at_length()
    gap = "talk.scrollHeight - talk.scrollTop - talk.clientHeight"
    for text in ("One.\n" * 20, "Two.\n" * 20):
        visit.say(text)
        assert page.evaluate(gap) < 60
    page.evaluate(f"() => {{ ({AT_FIRST_WORDS})('scroll up'); }}")
    visit.say("Three.\n" * 20)
    assert page.evaluate("document.querySelector('#talk').scrollTop") < 100
    expect(page.locator("#down")).to_be_visible()
    page.click("#down")
    assert page.evaluate(gap) < 60
    expect(page.locator("#down")).to_be_hidden()


def fits_a_phone(visit: Visit) -> None:
    page = visit.page
    expect(page.locator("#side")).to_be_hidden()
    page.fill("#entry", "Hello, are you well?")
    page.click("#send")
    visit.rest()
    expect(page.locator(".assistant")).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth && talk.scrollWidth <= talk.clientWidth")
    visit.picture("phone")
    page.click("#toggle")
    expect(page.locator("#side")).to_be_visible()
    visit.picture("phone-side")
    page.click("#new")
    expect(page.locator("#side")).to_be_hidden()
    page.click("#show-settings")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def continues_text(visit: Visit) -> None:
    """A base model: the text is continued as it stands, again with nothing written, and exported as text."""
    page = visit.page
    expect(page.locator("#empty h2")).to_have_text("Begin a text")
    first = visit.say("Once upon a time, there was")
    assert first.strip()
    written = visit.written
    with page.expect_request("**/v1/completions") as request:
        page.press("#entry", "Enter")
    assert request.value.post_data_json["prompt"] == f"Once upon a time, there was{written}"
    expect(page.locator(".assistant")).to_have_count(2)
    visit.rest()
    visit.say("\nThe end of it was")
    for _ in range(20):  # longer than the model can read, it goes on from what is left
        if page.get_by_text("did not see the beginning").count():
            break
        visit.say("" if visit.written else " And then the")  # it may have ended at once
    else:
        raise AssertionError("nothing is left out")
    expect(page.locator(".failed")).to_have_count(0)
    if not visit.written:
        visit.say(" And then the")
    visit.tool("probabilities")
    expect(page.locator(".tokens")).to_be_visible()
    visit.point_at_token(3)
    visit.picture("text-light")
    with page.expect_download() as download:
        page.click("#export")
    text = Path(download.value.path()).read_text(encoding="utf-8")
    assert text.startswith(f"Once upon a time, there was{first[:5]}"), text[:60]
    assert "\nThe end of it was" in text


def forgets_the_oldest_where_all_is_too_long(visit: Visit) -> None:
    page = visit.page
    visit.speak_at_length()
    for number in range(6):
        with page.expect_response(lambda response: response.ok and "chat/completions" in response.url) as response:
            visit.say(f"This is the remark of the number {number}.")
    expect(page.locator(".failed")).to_have_count(0)
    expect(page.locator(".note", has_text="did not see the beginning")).not_to_have_count(0)
    sent = response.value.request.post_data_json["messages"]
    assert sent[0]["role"] == "user"
    assert "number 0" not in sent[0]["content"]
    visit.tool("reading")
    expect(page.locator("#reading-text")).to_contain_text(sent[0]["content"])
    expect(page.locator("#reading-text")).not_to_contain_text("number 0")


PHONE = {"viewport": {"width": 390, "height": 780}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
Check = Callable[[Visit], None]
CHECKS: dict[Check, tuple[str, dict]] = {  # the server that each needs, and the browser
    chats_in_two_languages: ("talks", {}),
    begins_in_the_reader_s_language: ("talks", {"locale": "zh-CN"}),
    streams_and_speaks_once: ("talks", {}),
    stops: ("talks", {}),
    edits_and_tries_again: ("talks", {}),
    reload_keeps_everything: ("talks", {}),
    closed_in_the_middle_keeps_what_came: ("talks", {}),
    shows_refusals: ("talks", {}),
    asks_for_the_key: ("locked", {}),
    exports_what_finetune_reads: ("talks", {}),
    shows_probabilities: ("talks", {}),
    looks_well: ("talks", {}),
    shows_what_the_model_reads: ("talks", {}),
    looks_inside: ("talks", {}),
    shows_hostile_text_as_text: ("talks", {}),
    works_with_a_keyboard_alone: ("talks", {}),
    is_accessible: ("talks", {}),
    follows_the_answer_unless_the_reader_scrolls: ("talks", {"viewport": {"width": 1000, "height": 500}}),
    forgets_the_oldest_where_all_is_too_long: ("talks", {}),
    fits_a_phone: ("talks", PHONE),
    continues_text: ("base", {}),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("talks", help="a model that talks, as `gptjax serve` takes it")
    parser.add_argument("base", help="a model that continues text")
    parser.add_argument("--pictures", type=Path, default=Path(tempfile.gettempdir(), "chat_page"))
    parser.add_argument("--only", default="", help="checks whose name has this in it")
    arguments = parser.parse_args()
    arguments.pictures.mkdir(parents=True, exist_ok=True)
    chosen = {check: needs for check, needs in CHECKS.items() if arguments.only in check.__name__}
    ends = gptjax.load(arguments.talks).generation_config.ends
    failed = 0
    with contextlib.ExitStack() as stack:
        keys = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "keys.txt"
        keys.touch(mode=0o600)
        keys.write_text(f"{KEY}\n")
        starts = {
            "talks": (arguments.talks,),
            "base": (arguments.base,),
            "locked": (arguments.talks, "--api-key-file", str(keys)),
        }
        needed = {server for server, _ in chosen.values()}
        servers = {one: stack.enter_context(serving(*starts[one], name=None)) for one in sorted(needed)}
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=ARGUMENTS)
        for check, (server, context) in chosen.items():
            visit = Visit(browser, servers[server].address, arguments.pictures, ends, **context)
            try:
                check(visit)
                wrong = "; ".join(visit.wrong)
            except Exception as error:
                visit.picture(f"failed-{check.__name__}")
                wrong = "".join(traceback.format_exception(error, limit=-2)) + "; ".join(visit.wrong)
            visit.close()
            failed += bool(wrong)
            name = check.__name__.replace("_", " ")
            print(f"WRONG  {name}: {wrong}" if wrong else f"right  {name}", flush=True)
        browser.close()
    print(f"{len(chosen) - failed} of {len(chosen)} right; pictures are in {os.fspath(arguments.pictures)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
