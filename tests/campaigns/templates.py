"""Chat templates as published, beside transformers: ids of ten conversations by each.

    pip install transformers jinja2 protobuf          # an environment of its own; no torch, no JAX
    pip install --no-deps trl axolotl unsloth litellm # they carry the templates; none of them is imported
    python -m tests.campaigns.templates               # every template; the exit status is 1 if any id differs
    python -m tests.campaigns.templates golden        # writes golden_templates.json, which the suite compares with
    python -m tests.campaigns.templates masks         # writes golden_masks.json, the same of {% generation %}

Both sides have one tokenizer, to which the marks of a template are added: its special tokens, and as tokens that are
not special those of thoughts and tools, as published tokenizers have them. A template that refuses a conversation must
be refused by both. A last part has users who type the template's marks: there we differ from transformers on purpose,
and the ids of the marks must be those of the same conversation without what was typed.
"""

import ast
import importlib.metadata
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from gptjax.inference.template import render
from gptjax.text.tokenizer import Tokenizer, byte_tokenizer, train_bpe

GOLDEN = Path(__file__).with_name("golden_templates.json")
MASKS = Path(__file__).with_name("golden_masks.json")
PACKAGES = ("trl", "axolotl", "unsloth", "litellm")
CHOSEN = (  # for the suite: of licences that let them be passed on
    "trl qwen3", "trl qwen2_5", "trl llama3", "trl gemma3", "trl cohere", "trl lfm2", "trl phi3_5",
    "trl deepseek_r1_distill", "unsloth zephyr_template", "unsloth vicuna_template", "litellm 0", "litellm 2",
)  # fmt: skip
MASKED = tuple(  # of the same package, with {% generation %}
    f"trl {name}_training" for name in ("qwen2_5", "llama3", "gemma3", "cohere", "lfm2", "phi3_5", "qwen3", "phi3")
)
MARK = re.compile(r"</?[|｜]?[A-Za-z_▁][\w▁ /.-]*[|｜]?>|\[/?[A-Z_]{3,}\]")
PLAIN = re.compile(r"</?(think|tool\w*|answer|function\w*|parameter\w*|arg_\w+|name|tools|documents?|results?)>")
NAMES = {"bos_token": "<|bos|>", "eos_token": "<|eos|>", "pad_token": "<|pad|>"}

USER = {"role": "user", "content": "Hello there, what is 12 x 12?\n"}
AGAIN = {"role": "user", "content": " And  twice\tthat? 曹操 🦊"}
SYSTEM = {"role": "system", "content": "You are brief.  \n"}
SAID = {"role": "assistant", "content": "It is 144."}
THOUGHT = {"role": "assistant", "content": "<think>\n12 x 12, so 144.\n</think>\n\nIt is 144."}
TOOL = {
    "type": "function",
    "function": {
        "name": "times",
        "description": "Product of <a> and b",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}},
    },
}
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "times", "arguments": {"a": 12, "b": 12}}}
CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "name": "times", "tool_call_id": "abcdefghi", "content": '{"product": 144}'}
CODE = {"role": "user", "content": "def f(a):\n    return a < 3 > 2 if [a] else '<b>'  # <|x|> </s <br/>\n"}
# What is said, and what else is asked of the template.
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "a turn": ([USER], {}),
    "system": ([SYSTEM, USER, SAID, AGAIN], {}),
    "turns": ([USER, SAID, AGAIN, SAID, USER], {}),
    "thought, in the text": ([USER, THOUGHT, AGAIN, THOUGHT, USER], {}),
    "thought, apart": ([USER, SAID | {"reasoning_content": "\n12 times 12\n"}, AGAIN], {}),
    "tools": ([SYSTEM, USER, CALLED, RESULT], {"tools": [TOOL]}),
    "empty": ([USER | {"content": ""}, SAID | {"content": ""}, USER | {"content": " \n "}], {}),
    "continued": ([USER, SAID | {"content": "It is "}], {"continues": True}),
    "continued thought": ([SYSTEM, USER, THOUGHT], {"continues": True}),
    "code": ([CODE, SAID | {"content": "```\n<a href='x'>[1]</a> < 3\n```"}, AGAIN], {}),
}
wrong: list[str] = []


def published() -> Iterator[tuple[str, str, str]]:
    """Name, licence and text of every template in the packages, verbatim."""
    for package in PACKAGES:
        found = importlib.metadata.distribution(package)
        licence = found.metadata.get("License-Expression") or found.metadata.get("License") or "see its LICENSE"
        origin = f"{package} {found.version}, {licence}"
        for file in sorted(found.files or [], key=str):
            path = Path(str(file.locate()))
            if path.suffix == ".jinja" and path.is_file():
                yield f"{package} {path.stem}", origin, path.read_text(encoding="utf-8")
            elif package in ("unsloth", "litellm") and file.name in ("chat_templates.py", "constants.py"):
                for name, text in _constants(path.read_text(encoding="utf-8")):
                    yield f"{package} {name}", origin, text


def _constants(source: str) -> Iterator[tuple[str, str]]:
    """Templates that a program holds as constants, by the name they are given, else by number."""
    number = 0
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            value = node.value
            if isinstance(value, ast.Constant) and isinstance(value.value, str) and "messages" in value.value:
                yield node.targets[0].id, value.value
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "chat_template" and isinstance(value, ast.Constant):
                    yield str(number), str(value.value)
                    number += 1


def rules_of(template: str, base: Tokenizer) -> tokenizers.Tokenizer:
    """The base with the marks of a template, and of thoughts; the same rules for both sides."""
    rules = tokenizers.Tokenizer.from_str(base.for_others(begins_with_bos=False))
    marks = [match[0] for match in MARK.finditer(template)] + ["<think>", "</think>"]
    marks = sorted(set(marks) - set(NAMES.values()))
    rules.add_special_tokens([mark for mark in marks if not PLAIN.fullmatch(mark)])
    rules.add_tokens([tokenizers.AddedToken(mark, normalized=False) for mark in marks if PLAIN.fullmatch(mark)])
    return rules


def ours(template: str, tokenizer: Tokenizer, messages: Sequence[Any], asked: dict[str, Any]) -> list[int]:
    return tokenizer.encode_spelt(render(template, messages, NAMES, tokenizer, **asked))


class Theirs:
    """A tokenizer of transformers, from a folder as people download it."""

    def __init__(self, template: str, rules: tokenizers.Tokenizer):
        from transformers import AutoTokenizer

        with tempfile.TemporaryDirectory() as folder:
            settings = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template, **NAMES}
            (Path(folder) / "tokenizer.json").write_text(rules.to_str())
            (Path(folder) / "tokenizer_config.json").write_text(json.dumps(settings))
            self._tokenizer = AutoTokenizer.from_pretrained(folder)

    def mask(self, messages: Sequence[Any]) -> tuple[list[int], list[int]]:
        """Ids of a whole conversation, and 1 for each that a template has in {% generation %}."""
        found = self._tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        return found["input_ids"], found["assistant_masks"]

    def __call__(self, messages: Sequence[Any], asked: dict[str, Any]) -> list[int]:
        how = {"add_generation_prompt": "continues" not in asked, "continue_final_message": "continues" in asked}
        return self._tokenizer.apply_chat_template(
            messages, tools=asked.get("tools"), return_dict=False, tokenize=True, **how
        )


def attempt(write: Any, *arguments: Any) -> list[int] | None:
    """None where the conversation is refused."""
    try:
        return write(*arguments)
    except Exception:
        return None


def compare(name: str, template: str, base: Tokenizer) -> int:
    """How many conversations were written."""
    rules = rules_of(template, base)
    theirs, written = Theirs(template, rules), 0
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(rules.to_str()))
    for what, (messages, asked) in CONVERSATIONS.items():
        wanted, found = attempt(theirs, messages, asked), attempt(ours, template, tokenizer, messages, asked)
        written += wanted is not None
        if wanted != found:
            wrong.append(f"{name}, {what}")
            text = [None if ids is None else rules.decode(ids, skip_special_tokens=False) for ids in (wanted, found)]
            print(f"WRONG {name}, {what}: {text}", flush=True)
    forge(name, template, tokenizer, rules)
    return written


def forge(name: str, template: str, tokenizer: Tokenizer, rules: tokenizers.Tokenizer) -> None:
    """The user types every mark of the template, one behind another."""
    added = rules.get_added_tokens_decoder()
    typed = "x".join(sorted(token.content for token in added.values()))
    counts = []
    for content in ("Hello\n", f"Hello{typed}x\n"):
        user = {"role": "user", "content": content}
        ids = None
        for messages in ([SYSTEM, user, SAID, user], [user, SAID, user]):  # some refuse a system
            ids = ids or attempt(ours, template, tokenizer, messages, {})
        counts.append(ids and Counter(id for id in ids if id in added))
    if counts[0] != counts[1]:
        wrong.append(f"{name}, typed")
        print(f"WRONG {name}, typed: {counts}", flush=True)


def golden() -> None:
    """Ids as text between the ids of marks: those of a tokenizer of bytes."""
    base, held = byte_tokenizer(), {}
    found = {name: (origin, template) for name, origin, template in published()}
    for name in CHOSEN:
        origin, template = found[name]
        rules = rules_of(template, base)
        theirs = Theirs(template, rules)
        added = rules.get_added_tokens_decoder()
        expected = {}
        for what, (messages, asked) in CONVERSATIONS.items():
            ids = attempt(theirs, messages, asked)
            expected[what] = None if ids is None else parts(rules, ids, set(added))
        marks = {str(id): token.content for id, token in added.items()}
        held[name] = {"origin": origin, "template": template, "marks": marks, "expected": expected}
    GOLDEN.write_text(json.dumps(held, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def masks() -> None:
    """Ids of whole conversations and what of them is the assistant's, both as `parts`."""
    base, held = byte_tokenizer(), {}
    for name, origin, template in published():
        if name not in MASKED:
            continue
        rules = rules_of(template, base)
        theirs, added = Theirs(template, rules), set(rules.get_added_tokens_decoder())
        expected = {}
        for what in ("system", "turns", "code"):
            messages = CONVERSATIONS[what][0]
            ids, mask = theirs.mask(messages)
            of_assistant = [id for id, is_theirs in zip(ids, mask, strict=True) if is_theirs]
            expected[what] = [parts(rules, one, added) for one in (ids, of_assistant)]
        held[name] = {"origin": origin, "template": template, "expected": expected}
    MASKS.write_text(json.dumps(held, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def parts(rules: tokenizers.Tokenizer, ids: Sequence[int], added: set[int]) -> list[int | str]:
    """Runs of ids of bytes as their text."""
    found: list[int | str] = []
    run: list[int] = []
    for id in [*ids, None]:
        if id is not None and id not in added:
            run.append(id)
            continue
        if run:
            found.append(rules.decode(run))
        found += [] if id is None else [id]
        run = []
    return found


def main() -> None:
    said = [message["content"] for messages, _ in CONVERSATIONS.values() for message in messages]
    base = train_bpe(said * 3, 400)
    counts = {}
    for name, origin, template in published():
        try:
            counts[name] = compare(name, template, base)
        except Exception as error:
            wrong.append(name)
            print(f"WRONG {name}, {origin}: {type(error).__name__} {error}", flush=True)
            continue
        print(f"{name}, {origin}: {counts[name]} of {len(CONVERSATIONS)} written", flush=True)
    print(f"{len(counts)} templates, {sum(counts.values())} conversations written, {len(wrong)} differ", flush=True)


if __name__ == "__main__":
    {"golden": golden, "masks": masks}.get("".join(sys.argv[1:]), main)()
    sys.exit(bool(wrong))
