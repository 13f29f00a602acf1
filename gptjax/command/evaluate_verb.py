"""The verb `gptjax evaluate`: files in, a table out. Does not import JAX before it runs."""

import dataclasses
import importlib.metadata
import itertools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

import gptjax
from gptjax.command.console import make_console
from gptjax.command.verb import Verb
from gptjax.evaluation.items import (
    CONTEXT,
    DELIMITER,
    QUESTION,
    SECOND,
    STOP,
    TEXT,
    TOKENS,
    left_out,
    prompts,
    read_items,
    unescaped,
    word_of_label,
)  # fmt: skip
from gptjax.inference.head_input import head_named
from gptjax.results import place_for

if TYPE_CHECKING:
    from gptjax.inference.language_model import LanguageModel

Task = Literal["perplexity", "choices", "classes", "labels", "values", "answers"]
BY_HEAD = ("classes", "labels", "values")  # what an output head may tell
USERS = {  # of the options that not every task has
    "view": ("perplexity",),
    "delimiter": ("choices", "classes"),
    "labels": ("classes",),
    "head": BY_HEAD,
    "second": BY_HEAD,
    "truth": BY_HEAD,
    "tokens": ("answers",),
    "stop": ("answers",),
    "batch_tokens": ("perplexity", "choices", *BY_HEAD),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluate(Verb):
    """Measure a model: perplexity of text, multiple choice, classes, labels, numbers, answers in free words.

    Files are .txt, one text each, or hold records: .jsonl, .json, .csv, .tsv, .parquet. What these hold, for each task:

      perplexity   {"text": "..."}
      choices      {"context": "...", "choices": ["...", "..."], "answer": 0}   the right one, by number or as text
      classes      {"text": "...", "label": "..."}                              with --labels or --head
      labels       {"text": "...", "labels": ["...", "..."]}                    any number; with --head
      values       {"text": "...", "value": 3.5}                                with --head
      answers      {"question": "...", "answers": ["...", "..."]}               any of them is right

      gptjax evaluate runs/first perplexity novel.txt news.jsonl
      gptjax evaluate runs/first perplexity novel.txt --view bidirectional
      gptjax evaluate runs/first choices quiz.jsonl --template "Question: {context}\\nAnswer:" --out results/quiz
      gptjax evaluate runs/first classes reviews.jsonl --labels good bad --template "{text} It is"
      gptjax evaluate runs/first classes news.jsonl --head topic
      gptjax evaluate runs/reviews classes reviews.csv --head verdict --truth verdict
      gptjax evaluate runs/essays values graded.csv --head grade --template "{essay}" --truth grade
      gptjax evaluate runs/pairs classes pairs.csv --head same --template "{one}" --second "{other}"
      gptjax evaluate runs/first answers questions.jsonl --tokens 16

    Figures come with 95 % bootstrap intervals over the items. docs/evaluation.md says how each is computed.
    """

    directory: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder of a run, folder in Hugging Face's layout, or .gguf file."""
    task: Annotated[Task, tyro.conf.Positional]
    """What to measure."""
    files: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE...")]
    """Files, folders or patterns: .txt, .jsonl, .json, .csv, .tsv, .parquet, packed (.gz, .zst) or not."""
    view: Literal["causal", "bidirectional"] = "causal"
    """Perplexity: predict a token from those before it, or from all others (models trained on masked_lm; slow)."""
    template: str | None = None
    """An item's prompt, with its fields in braces; \\n is a line break. None = {text}, {context} or {question}."""
    delimiter: str = DELIMITER
    """Choices, classes: what stands between prompt and choice; "" for scripts without spaces, \\n is a line break."""
    labels: tuple[str, ...] = ()
    """Classes: the words to choose from. A label and its word, if they differ: sports=football; \\n as above."""
    head: str | None = None
    """Classes, labels, values: the output head that tells them; of classes instead of words."""
    second: str = SECOND
    """The second text of an item, for a head that reads two, with its fields in braces."""
    truth: str | None = None
    """With --head: the column of what is so; a.b leads into objects. None = label, labels or value."""
    tokens: int = TOKENS
    """Answers: the longest."""
    stop: tuple[str, ...] = tuple(text.replace("\n", "\\n") for text in STOP)
    """Answers: end before the first of these strings; \\n is a line break."""
    most: int | None = None
    """Only so many items, from the first on; None = all."""
    out: str | None = None
    """Folder for result.json, the figures, and items.jsonl, what the model made of each item; None = neither."""
    batch_tokens: int | None = None
    """Tokens read at once on each device; fewer need less memory. None = 512 on a CPU, 16384 elsewhere."""
    step: int | None = None
    """Checkpoint of a run; None = the best so far of a run that is judged by a figure, else the newest good one."""
    weights: Literal["trained", "ema"] = "trained"
    """Those of the step itself, or their moving average, where the run kept one."""
    adapter: str | None = None
    """Folder of a LoRA adapter in PEFT's layout, merged into the weights."""
    dtype: Literal["float32", "bfloat16", "int8"] = "float32"
    """Of the products, or int8 of the weights alone; scores are float32."""

    def __post_init__(self):
        if not self.files:
            raise ValueError("files: give at least one, such as novel.txt or quiz.jsonl")
        if self.task == "classes" and bool(self.labels) == (self.head is not None):
            raise ValueError(
                "classes need either --labels, the words to choose from, or --head, one of the model's own"
            )
        if self.task in ("labels", "values") and self.head is None:
            raise ValueError(f"{self.task} need --head, the output head that tells them")
        for field in dataclasses.fields(self):
            users = USERS.get(field.name)
            if users and self.task not in users and getattr(self, field.name) != field.default:
                option = f"--{field.name.replace('_', '-')}"
                *most, last = users
                known = f"{', '.join(most)} and {last}" if most else last
                raise ValueError(f"{option} is for {known}, not for {self.task}")
        if self.truth is not None and self.head is None:
            raise ValueError("--truth names a column for --head; with --labels what is so stands in the column label")
        if self.head is not None and self.delimiter != DELIMITER:
            raise ValueError("--delimiter stands before a word, not for classes with --head")
        for name in ("most", "batch_tokens", "tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")

    def run(self) -> None:
        items = list(itertools.islice(read_items(self.files), self.most))
        if not items:
            raise ValueError(f"{self.files[0]}: there are no items to evaluate")
        for remark in left_out(self.files):
            print(remark, file=sys.stderr)
        words = words_of(self.labels)
        if self.out is not None:
            place_for(self.out)
        model = gptjax.load(self.directory, self.step, weights=self.weights, dtype=self.dtype, adapter=self.adapter)

        from gptjax.command.progress import bar
        from gptjax.evaluation import evaluate

        default = {"choices": CONTEXT, "answers": QUESTION}.get(self.task, TEXT)
        template = default if self.template is None else unescaped(self.template)
        choosing: Any = {
            "template": template,
            "delimiter": unescaped(self.delimiter),
            "batch_tokens": self.batch_tokens,
        }
        with bar(self.task) as progress:
            match self.task:
                case "perplexity":
                    found = evaluate.perplexity(
                        model, prompts(items, template), view=self.view,
                        batch_tokens=self.batch_tokens, progress=progress,
                    )  # fmt: skip
                case "choices":
                    found = evaluate.multiple_choice(model, items, progress=progress, **choosing)
                case "classes" if self.head is None:
                    found = evaluate.classify(model, items, words, progress=progress, **choosing)
                case "classes" | "labels" | "values":
                    head = self._head(model)
                    found = evaluate.by_head(
                        model, items, head, template=template, second=unescaped(self.second), truth=self.truth,
                        batch_tokens=self.batch_tokens, progress=progress,
                    )  # fmt: skip
                case "answers":
                    stop = tuple(map(unescaped, self.stop))
                    found = evaluate.answer(
                        model, items, template=template, tokens=self.tokens, stop=stop, progress=progress
                    )
        make_console().print(found.table())
        if self.out is not None:
            used = [name for name in dataclasses.asdict(self) if self.task in USERS.get(name, (self.task,))]
            asked = {name: getattr(self, name) for name in used} | {"template": template, "step": model.step}
            asked |= {"model": asked.pop("directory"), "gptjax": importlib.metadata.version("gptjax")}
            found.write(self.out, asked)
            print(f"wrote {self.out}: result.json, items.jsonl")

    def _head(self, model: "LanguageModel") -> str:
        """The head's name. Raises ValueError where the model has no such head, or it tells something else."""
        heads = model.config.class_heads
        head = heads[head_named(heads, self.head)]
        tells = "values" if head.tells_number else head.kind
        if tells != self.task:
            raise ValueError(f"head {head.name!r} tells {tells}, not {self.task}: gptjax evaluate MODEL {tells} ...")
        if self.second != SECOND and not head.two:
            raise ValueError(f"--second {self.second}: head {head.name!r} reads one text; leave it out")
        return head.name


def words_of(labels: Sequence[str]) -> dict[str, str]:
    """Label -> word, of "label=word" or of words that are labels."""
    split = [text.partition("=") for text in labels]
    return word_of_label((label, unescaped(word or label)) for label, _, word in split)
