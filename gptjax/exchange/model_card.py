"""README.md of an exported folder: what is known of the model, how to run it, and what it cannot do; nothing else.

Source of the fields in front: huggingface.co/docs/hub/model-cards, section "Model card metadata".
"""

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from gptjax.evaluation.head_figures import FIGURES
from gptjax.exchange.gguf_settings import described
from gptjax.exchange.hf_config import class_of
from gptjax.exchange.hf_params import names, shape_of, table
from gptjax.inference.chat import LINES
from gptjax.runs.run_facts import HeadFigure, RunFacts, run_facts
from gptjax.runs.rundir import CREDIT

if TYPE_CHECKING:
    from gptjax.config import ModelConfig
    from gptjax.inference.language_model import LanguageModel

# Licences that Hugging Face has a name for, which is theirs in small letters.
LICENCES = (
    "Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0",
    "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "GPL-3.0", "Unlicense",
)  # fmt: skip
TRANSFORMERS = """
## In transformers

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForCausalLM.from_pretrained(".")
ids = tokenizer("Once upon a time", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids, max_new_tokens=20)[0]))
```
"""
GPTJAX = """
## In gptjax

    gptjax generate . --prompt "Once upon a time"
"""
LLAMA_CPP = """
## In llama.cpp

    gptjax export . model.gguf --dtype {dtype}
    llama-cli -m model.gguf -n 64 -p "Once upon a time"
"""
STABLEHLO = """
## As StableHLO, with JAX alone

    gptjax export . programs --as stablehlo
    python programs/run.py "Once upon a time" 20
"""
HEADS = """
## Output heads

A plain loader does not see them: they are in `class_heads.safetensors`. The scores of a head's classes are
`hidden @ NAME.weight.T + NAME.bias`, of the hidden state after the last norm at the position that is asked about, or of
the mean of a text's states that a head's `pool` says, which `NAME.query` weighs where it is learnt. The classes, in
order, how a head reads a text, and the `mean` and `scale` of a number are in `class_heads.json`.

"""
LINES_END = """
## How it talks

Its chat template writes a conversation as lines of A, you, and B, the model. Its answer ends where its line does: stop
there, for it may go on as A.
"""


def model_card(model: "LanguageModel", template: str | None) -> str:
    """The file, of a model that talks by this chat template."""
    averaged, step = model.weights == "ema", model.step
    facts = None if model.run is None or step is None else run_facts(model.run, step, averaged=averaged)
    heads = "".join(f"- `{head.name}`: {', '.join(head.classes)}\n" for head in model.config.class_heads)
    return "".join([
        _front(model, facts),
        _what(model, facts),
        "" if facts is None else "".join((_training(facts), _figures(facts))),
        _limits(model, facts),
        TRANSFORMERS,
        GPTJAX,
        _llama_cpp(model),
        "" if model.generation_config.encodes_prompt else STABLEHLO,
        HEADS + heads if heads else "",
        LINES_END if template == LINES else "",
    ])  # fmt: skip


def _front(model: "LanguageModel", facts: RunFacts | None) -> str:
    """What Hugging Face shows and searches by. A licence is that of the texts, where the run knows theirs."""
    lines = ["library_name: transformers", "pipeline_tag: text-generation", "tags:", "- gptjax"]
    sources = () if facts is None else facts.sources
    languages = sorted({one.language for one in sources if one.language and re.fullmatch("[a-z]{2,3}", one.language)})
    if languages:
        lines += ["language:", *(f"- '{language}'" for language in languages)]  # no is Norwegian, and YAML's false
    licences = {one.licence for one in sources}
    if facts is not None and facts.from_scratch and len(licences) == 1 and licences <= set(LICENCES):
        lines.append(f"license: {min(map(str, licences)).lower()}")
    elif model.credit is not None:
        lines += ["license: other", "license_name: of-its-texts", f"license_link: {CREDIT}"]
    return "\n".join(["---", *lines, "---", ""])


def _what(model: "LanguageModel", facts: RunFacts | None) -> str:
    config = model.config
    step = "" if model.step is None else f", step {model.step:,}"
    averaged = ", the moving average of its weights" if model.weights == "ema" else ""
    base = "" if facts is None or facts.base is None else f" It is `{facts.base}`, trained further."
    return (
        f"# {'A language model' if facts is None else facts.name}\n\n"
        f"{_parameters(config):,} parameters: {config.L} layers of width {config.D}, {config.N} heads, a vocabulary of "
        f"{config.vocabulary:,} and a context of {config.T:,} tokens. Exported by gptjax{step}{averaged} for "
        f"Hugging Face's `{class_of(config)}`.{base}\n\n"
        "`export_proof.json` lists every other file with its SHA-256, and says how the export was compared with the "
        "model that it was made from.\n"
    )


def _parameters(config: "ModelConfig") -> int:
    """As many as `model.safetensors` holds."""
    return sum(math.prod(shape_of(tensor, config)) for tensor in table(config) for _ in names(tensor, config))


def _training(facts: RunFacts) -> str:
    if not facts.sources and facts.tokens is None:
        return ""
    base = "" if facts.base is None else ", those that its base read not counted"
    read = "" if facts.tokens is None else f"It read {facts.tokens:,} tokens{base}.\n"
    lines = ["\n## What it learnt from\n", *([read] if read else [])]
    if facts.tasks:
        lines.append(f"Its tasks: {', '.join(facts.tasks)}.\n")
    if facts.sources:
        lines += ["| text | licence | language | documents | tokens to learn from |", "|---|---|---|---|---|"]
        lines += [
            f"| {_cell(one.name)} | {_cell(one.licence)} | {_cell(one.language)} | {_number(one.documents)} | "
            f"{_number(one.tokens)} |"
            for one in facts.sources
        ]
    return "\n".join(lines) + "\n"


def _figures(facts: RunFacts) -> str:
    """Held-out figures, with intervals where the run took them."""
    found = ""
    if facts.held_out:
        found += "| text | tokens | nats a token | perplexity | bits a byte |\n|---|---|---|---|---|\n" + "".join(
            f"| {_cell(one.source)} | {one.targets:,} | {one.loss:.4f} | {one.perplexity:.2f} | "
            f"{'' if one.bits_per_byte is None else format(one.bits_per_byte, '.4f')} |\n"
            for one in facts.held_out
        )
    if facts.heads:
        found += "\n" * bool(found) + "| head | texts | figure | value | 95 % interval |\n|---|---|---|---|---|\n"
        found += "".join(map(_head_row, facts.heads))
    return f"\n## How good it is, on text that it did not learn from\n\n{found}" if found else ""


def _head_row(one: HeadFigure) -> str:
    figure = FIGURES.get(one.figure)
    title, form = (one.figure, ".4g") if figure is None else (figure.title, figure.form)
    interval = "" if one.interval is None else " to ".join(format(end, form) for end in one.interval)
    return f"| {_cell(one.head)} | {one.items:,} | {title} | {one.value:{form}} | {interval} |\n"


def _limits(model: "LanguageModel", facts: RunFacts | None) -> str:
    return "\n## What it cannot do\n\n" + "".join(f"- {line}\n" for line in _cannot(model, facts))


def _cannot(model: "LanguageModel", facts: RunFacts | None) -> Iterator[str]:
    config = model.config
    yield "It writes what is likely after a text, which need not be true; facts, harm and bias were not tested here."
    yield f"It reads and writes at most {config.T:,} tokens at once."
    if config.reach is not None:
        yield f"Of them a token looks directly at the {config.reach:,} nearest alone."
    sources = () if facts is None else facts.sources
    if facts is not None and facts.from_scratch and sources:
        yield "What is unlike the texts above, other languages above all, it has not learnt."
    yield from (f"{_cell(one.name)}: {' '.join(one.warning.split())}" for one in sources if one.warning)
    if facts is not None and len(facts.tasks) > 1:
        yield "What its tasks have taught it beside continuing a text is to be had in gptjax alone."
    if model.generation_config.encodes_prompt:
        yield "In gptjax it reads a conversation from both sides before it answers, in other programs forwards only."
    if model.credit is not None:
        yield f"Who wrote its texts, and under which licences, is in `{CREDIT}`, which goes wherever the model goes."


def _llama_cpp(model: "LanguageModel") -> str:
    """How, or why not."""
    why = ""
    for dtype in ("q8_0", "f16"):  # the latter takes rows of any width
        try:
            described(model, "model", dtype)
            return LLAMA_CPP.format(dtype=dtype)
        except ValueError as error:
            why = str(error).removeprefix("export: ")
    return f"\n## Not in llama.cpp\n\n{why}\n"


def _cell(text: str | None) -> str:
    """Text of others in one cell of a table."""
    return "" if text is None else re.sub(r"([|\\`*_<>\[\]])", r"\\\1", " ".join(text.split()))


def _number(count: int | None) -> str:
    return "" if count is None else f"{count:,}"
