"""Our reading and writing of other people's formats beside their own programs, in an environment that has them.

    python -m tests.campaigns.exchange_live families          # transformers: random models of each family, both ways
    python -m tests.campaigns.exchange_live gguf FILE         # the package gguf: quantised blocks, tensors of a file
    python -m tests.campaigns.exchange_live pretrained FILE   # transformers on that file: tokens, nats, text, a chat
    python -m tests.campaigns.exchange_live speed FILE        # tokens a second of both, in turn
    python -m tests.campaigns.exchange_live kill              # an export killed at random times is whole or absent

Each line says what was compared and what was found; the exit status is 1 if anything differs.
"""

import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import gptjax
from gptjax.decoding.sampling import Sampling
from gptjax.exchange.export import PROOF, export, logits_of
from gptjax.exchange.gguf_tokenizer import CUTS
from gptjax.inference.chat import Chat
from tests.campaigns.golden_gguf import blocks
from tests.hf_models import GPT2, LLAMA, LLAMA3, MISTRAL, PROMPT, QWEN2, QWEN3, SMOLLM3, weights, write_folder
from tests.tiny_run import SHAPES, random_model, write_run

ALLOWED = 1e-4  # of the largest logit
CONTINUED = 24
TURNS = 12  # of a timing; each program once a turn
TEXTS = (
    "The Amazon rainforest covers much of the Amazon basin of South America, 5,500,000 km2 of it in 2019.",
    "def add(a, b):\n    return a + b\n\n\nclass Point:\n\tpass\n",
    "曹操说：天下英雄，唯使君与操耳。 It's 12345 o'clock!  Two  spaces\n\n\ttabs 🦊",
)
wrong: list[str] = []


def say(what: str, good: bool, found: str) -> None:
    print(f"{'ok   ' if good else 'WRONG'} {what}: {found}", flush=True)
    if not good:
        wrong.append(what)


def configs() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every combination of what the families can have, odd sizes among them."""
    ropes = {"default": None, "linear": {"rope_type": "linear", "factor": 2.5}, "llama3": LLAMA3}
    for base, rope, groups, tied, biased in itertools.product(
        (LLAMA, QWEN3), ropes, (1, 2, 4), (True, False), (True, False)
    ):
        head = {"head_dim": 10} if groups == 2 else {"head_dim": 6}
        fields = base | head | {"num_key_value_heads": groups, "tie_word_embeddings": tied, "attention_bias": biased}
        fields |= {"rope_scaling": ropes[rope]} | ({"mlp_bias": biased} if base is LLAMA else {})
        yield f"{base['model_type']}, {rope}, {groups} groups, tied {tied}, biases {biased}", fields
    for tied, window in itertools.product((True, False), (None, 5)):
        windowed = {"use_sliding_window": True, "sliding_window": window, "layer_types": ["sliding_attention"] * 3}
        more = {"tie_word_embeddings": tied, "head_dim": 10}
        yield f"mistral, tied {tied}, window {window}", MISTRAL | more | {"sliding_window": window}
        for base in (QWEN2, QWEN3, SMOLLM3):
            name = f"{base['model_type']}, tied {tied}, window {window}"
            yield name, base | more | (windowed if window else {"sliding_window": 5})
    biases = {"attention_bias": True, "mlp_bias": True}
    yield "smollm3, biases, all layers without positions", SMOLLM3 | biases | {"no_rope_layers": [0] * 3}
    for tied, inner in itertools.product((True, False), (None, 33)):
        yield f"gpt2, tied {tied}, n_inner {inner}", GPT2 | {"tie_word_embeddings": tied, "n_inner": inner}


def theirs(folder: Path, prompt: list[int]) -> tuple[np.ndarray, list[int]]:
    """Logits and a greedy continuation of transformers."""
    import torch
    import transformers

    model, report = transformers.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    model.generation_config.eos_token_id = None
    with torch.no_grad():
        logits_TV = model(torch.tensor([prompt])).logits[0].float().numpy()
        ids = model.generate(torch.tensor([prompt]), max_new_tokens=CONTINUED, do_sample=False)[0].tolist()
    return logits_TV, ids[len(prompt) :]


def compare(what: str, model: Any, folder: Path, prompt: list[int]) -> None:
    logits_TV, continuation = theirs(folder, prompt)
    distance = np.abs(logits_of(model, [prompt])[0] - logits_TV).max() / np.abs(logits_TV).max()
    [[sample]] = model.generate(prompt, temperature=0, tokens=CONTINUED)
    same = list(sample.ids) == continuation[: len(sample.ids)]
    say(
        what,
        distance < ALLOWED and same and logits_TV.std() > 3,
        f"{distance:.1e}, deviation {logits_TV.std():.1f}, greedy {same}",
    )


def tokenizers_of_families(scratch: Path) -> None:
    """A folder with the tokenizer of a family's kind: our ids are those of transformers, of it and of its export."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import AutoTokenizer

    special = ["<s>", "</s>", "<unk>"]
    qwen2 = tokenizers.Tokenizer(models.BPE())
    qwen2.pre_tokenizer, qwen2.normalizer = CUTS["qwen2"]
    qwen2.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    qwen2.train_from_iterator(
        TEXTS * 3, trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    )
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abdehnrst", "▁t", "he", "▁the", "an"]
    joined = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("a", "n")]
    mistral = tokenizers.Tokenizer(
        models.BPE({piece: id for id, piece in enumerate(pieces)}, joined, unk_token="<unk>", byte_fallback=True)
    )
    mistral.add_special_tokens(special)
    mistral.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    mistral.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    kinds = {
        "Qwen2Tokenizer": (QWEN2, qwen2), "LlamaTokenizerFast": (MISTRAL, mistral),
        "PreTrainedTokenizerFast": (SMOLLM3, qwen2),
    }  # fmt: skip
    for kind, (fields, rules) in kinds.items():
        folder, again = scratch / kind, scratch / f"{kind}-again"
        write_folder(folder, fields | {"max_position_embeddings": 256})
        rules.save(str(folder / "tokenizer.json"))
        said = {"tokenizer_class": kind, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(said))
        model = gptjax.load(folder)
        export(model, again)
        for what, path in (("read", folder), ("written", again)):
            theirs = AutoTokenizer.from_pretrained(path)
            unequal = [text for text in TEXTS if theirs(text).input_ids != model.encode_prompt(text)]
            say(
                f"tokens {what}, {kind} of {fields['model_type']}",
                not unequal,
                f"{len(unequal)} of {len(TEXTS)} differ",
            )


def card(folder: Path) -> None:
    """The program in the README of an export runs."""
    [program] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    found = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)
    say("the card's program", found.returncode == 0 and bool(found.stdout.strip()), f"{found.stdout.strip()!r:.80}")


def families() -> None:
    from transformers import AutoTokenizer

    prompt = PROMPT[:20]
    with tempfile.TemporaryDirectory() as scratch:
        tokenizers_of_families(Path(scratch))
        for number, (name, fields) in enumerate(configs()):
            folder, again = Path(scratch) / f"{number}", Path(scratch) / f"{number}-again"
            model = gptjax.load(write_folder(folder, fields, weights(fields)))
            compare(f"read {name}", model, folder, prompt)
            export(model, again)
            compare(f"written {name}", model, again, prompt)
        for shape in SHAPES:
            folder = Path(scratch) / shape
            model = random_model(shape)
            model.params["head"] = model.params["head"] * 4  # louder
            export(model, folder)
            compare(f"written run, {shape}", model, folder, model.encode_prompt("hello there"))
            ids = AutoTokenizer.from_pretrained(folder)("hello 曹操 there").input_ids
            card(folder)
            say(f"tokens of {shape}", ids == model.encode_prompt("hello 曹操 there"), f"{len(ids)}")


def gguf(file: Path) -> None:
    from gguf import GGMLQuantizationType, GGUFReader, quants

    from gptjax.exchange.gguf_blocks import TYPES, unpacked
    from gptjax.exchange.gguf_file import read_file

    for number, (name, _, size) in TYPES.items():
        raw = blocks(name, size).reshape(-1)
        theirs = quants.dequantize(raw, GGMLQuantizationType(number)).reshape(-1)
        say(f"blocks {name}", unpacked(name, raw).tobytes() == theirs.tobytes(), f"{raw.nbytes} bytes")
    _, tensors = read_file(file)
    unequal = [
        theirs.name
        for theirs in GGUFReader(file).tensors
        if not np.array_equal(tensors[theirs.name], quants.dequantize(theirs.data, theirs.tensor_type))
    ]
    say(f"tensors of {file.name}", not unequal, f"{len(tensors)}, unequal {unequal[:3]}")


def pretrained(file: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    began = time.perf_counter()
    model = gptjax.load(file)
    say("load", (took := time.perf_counter() - began) < 20, f"{took:.1f} s")
    [[sample]] = model.generate("The capital of France is", temperature=0, tokens=4)
    say("the capital of France", sample.text.startswith(" Paris."), repr(sample.text))
    other = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    for text in TEXTS:
        ids = tokenizer(text).input_ids
        say(f"tokens of {text[:20]!r}", model.encode_prompt(text) == ids, f"{len(ids)}")
        with torch.no_grad():
            scores_TV = torch.log_softmax(other(torch.tensor([ids])).logits[0].double(), -1)
        nats = -np.mean([scores_TV[place, id].item() for place, id in enumerate(ids[1:])])
        ours = -model.log_probs([ids])[0].mean()
        say("nats a token", abs(ours / nats - 1) < 1e-3, f"{ours:.6f} and {nats:.6f}")
    chat = Chat(model, Sampling(temperature=0, tokens=24))
    said = ["".join(chat.say(turn)) for turn in ("What is the capital of France?", "And of Italy?")]
    say("a chat", "Paris" in said[0] and "Rome" in said[1], repr(said))
    messages = [
        {"role": ("user", "assistant")[n % 2], "content": turn} for n, turn in enumerate([*chat.turns, "Hi 12"])
    ]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    say("tokens of the chat", chat.tokens("Hi 12") == ids, f"{len(ids)}")


def speed(file: Path) -> None:
    """The first round, which compiles, is left out."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = gptjax.load(file)
    other = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    prompt, tokens = tokenizer("The capital of France is").input_ids, 32
    long = (tokenizer(" ".join(TEXTS)).input_ids * 8)[:512]

    def theirs_writes() -> None:
        other.generate(torch.tensor([prompt]), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)

    def theirs_scores() -> None:
        with torch.no_grad():
            torch.log_softmax(other(torch.tensor([long])).logits[0], -1)

    programs = {
        "writing": (lambda: model.generate(prompt, temperature=0, tokens=tokens), theirs_writes, tokens),
        "scoring": (lambda: model.log_probs([long]), theirs_scores, len(long)),
    }
    for what, (ours, others, count) in programs.items():
        rates: list[list[float]] = [[], []]
        for turn in range(1 + TURNS):
            for which, run in enumerate((ours, others)):
                began = time.perf_counter()
                run()
                if turn:
                    rates[which].append(count / (time.perf_counter() - began))
        ratios = np.divide(*rates)
        print(
            f"      {what}: {np.median(rates[0]):.1f} tokens/s beside {np.median(rates[1]):.1f}, median ratio "
            f"{np.median(ratios):.2f} of {TURNS}, {ratios.min():.2f} to {ratios.max():.2f}",
            flush=True,
        )


def kill() -> None:
    """A run exported by the command, killed sooner and later; the last is left to end."""
    with tempfile.TemporaryDirectory() as scratch:
        run, target = write_run(Path(scratch) / "run", random_model()), Path(scratch) / "exported"
        command = [sys.executable, "-m", "gptjax.cli", "export", str(run), str(target)]
        began = time.perf_counter()
        subprocess.run([*command[:-1], str(target) + "-first"], check=True)
        whole = time.perf_counter() - began
        found = {"absent": 0, "whole": 0}
        for _ in range(40):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            time.sleep(whole * random.uniform(0.3, 1.1))
            process.send_signal(signal.SIGKILL)
            process.wait()
            found["whole" if target.exists() else "absent"] += 1
            if target.exists():
                proof_is_there = (target / PROOF).is_file()
                gptjax.load(target)
                if not proof_is_there:
                    say("killed", False, str(os.listdir(target)))
                subprocess.run(["rm", "-r", target], check=True)
        subprocess.run(command, check=True)
        left = [path for path in os.listdir(scratch) if path.startswith(".")]
        say("killed 40 times", not left and gptjax.load(target) is not None, f"{found}, left behind {left}")


if __name__ == "__main__":
    programs = {"families": families, "gguf": gguf, "pretrained": pretrained, "speed": speed, "kill": kill}
    programs[sys.argv[1]](*map(Path, sys.argv[2:]))
    sys.exit(bool(wrong))
