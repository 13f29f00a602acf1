"""A request made ready for the engine: prompts as token ids, and every limit of the model checked. Slow."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gptjax.decoding.engine import Grammar, Request
from gptjax.decoding.sampling import Sampling
from gptjax.inference.chat import TURNS
from gptjax.inference.conversation import before_answers
from gptjax.inference.language_model import LanguageModel
from gptjax.inference.prompt import encode_prompts, encode_rendered
from gptjax.serving.api.choices import Choice
from gptjax.serving.api.messages import Message
from gptjax.serving.api.requests import Completion, Conversation, Drawing, Prompt
from gptjax.serving.bounded_render import render_bounded
from gptjax.serving.errors import ApiError

COMPLETION_TOKENS = 16  # where nobody says how many, as with OpenAI
REPLY_TOKENS = 1024  # likewise of a reply, as far as there is room
LARGEST = 2**17  # tokens of all texts of a request, each with those that are told with it


class Prepared(NamedTuple):
    """`prompts`: those of the request, each of which has the same number of choices, one behind another."""

    choices: list[Choice]
    prompts: list[tuple[int, ...]]


def completion(asked: Completion, model: LanguageModel, context: int) -> Prepared:
    """Raises ApiError, as all of these do."""
    prompts = prompt_ids(asked.prompts, model, "prompt")
    choices = []
    for prompt, ids in zip(asked.prompts, prompts, strict=True):
        tokens = _limit(asked, len(ids), context, "prompt", COMPLETION_TOKENS)
        echo = "" if not asked.echo else prompt if isinstance(prompt, str) else model.tokenizer.decode(ids)
        choices += _choices(asked, model, ids, tokens, asked.stop, echo=echo, scored=asked.echo)
    _check_size(asked, choices)
    return Prepared(choices, prompts)


def conversation(asked: Conversation, model: LanguageModel, context: int) -> Prepared:
    template = model.generation_config.chat_template
    text = conversation_text(asked.messages, model, tools=asked.tools, continues=asked.continues)
    ids = tuple(encode_rendered(model.tokenizer, text))
    prefix = _encoded(asked, model, ids)
    tokens = _limit(asked, len(ids), context, "messages", REPLY_TOKENS)
    stop = asked.stop if template is not None else ("\n", *asked.stop)  # without a template a reply is a line
    # in our lines a space comes between the speaker and what is said
    stripped = template in (None, TURNS) and not asked.continues and asked.form is None
    choices = _choices(asked, model, ids, tokens, stop, stripped=stripped, prefix=prefix)
    _check_size(asked, choices)
    return Prepared(choices, [ids])


def _encoded(asked: Conversation, model: LanguageModel, ids: tuple[int, ...]) -> int:
    """How many of a conversation's first ids see each other: what stands before the first answer, of a model that
    encodes it; else none."""
    if not model.generation_config.encodes_prompt:
        return 0
    first = before_answers(asked.messages)
    if len(first) == len(asked.messages):
        return len(ids)
    text = conversation_text(first, model, tools=asked.tools, continues=False)
    return min(len(ids), len(encode_rendered(model.tokenizer, text)))


def conversation_text(
    messages: Sequence[Message],
    model: LanguageModel,
    *,
    tools: Sequence[Mapping[str, Any]] | None,
    continues: bool,
) -> str:
    """What the model reads, for `encode_rendered`; may take as long as `render_bounded`."""
    if tools and not re.search(r"\btools\b", model.generation_config.chat_template or ""):
        raise ApiError("this model's chat template does not show it any tools: leave them out", "tools")
    try:
        return render_bounded(model, messages, tools=tools, continues=continues)
    except ValueError as error:
        raise ApiError(str(error)[:500], "messages") from None


def prompt_ids(prompts: Sequence[Prompt], model: LanguageModel, name: str) -> list[tuple[int, ...]]:
    """Texts behind a BOS, if the model's begin with one; ids as they are, special ones too."""
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    encoded = iter(encode_prompts(model.tokenizer, model.generation_config, texts))
    found = []
    for place, prompt in enumerate(prompts):
        if not isinstance(prompt, str) and (top := max(prompt)) >= model.config.vocabulary:
            raise ApiError(
                f"{name}[{place}] has token id {top}; the model has {model.config.vocabulary} tokens, from 0 on", name
            )
        found.append(tuple(next(encoded)) if isinstance(prompt, str) else prompt)
    return found


def check_length(length: int, context: int, name: str) -> None:
    """Raises ApiError where so many tokens do not fit: nothing is ever cut."""
    if length > context:
        raise ApiError(
            f"this model's maximum context length is {context} tokens, and {length} are in {name}: shorten it",
            name, code="context_length_exceeded",
        )  # fmt: skip


def _limit(asked: Drawing, length: int, context: int, name: str, usual: int) -> int:
    """How many tokens are drawn at most."""
    check_length(length, context, name)
    room = context - length + 1  # the last token is drawn, but need not be read
    if asked.tokens is None:
        return min(usual, room)
    if asked.tokens > room:
        raise ApiError(
            f"this model's maximum context length is {context} tokens: {length} are in {name}, which leaves room for "
            f"{room}, and {asked.tokens_field} asks for {asked.tokens}",
            asked.tokens_field, code="context_length_exceeded",
        )  # fmt: skip
    return asked.tokens


def _choices(
    asked: Drawing, model: LanguageModel, ids: tuple[int, ...], tokens: int, stop: tuple[str, ...], *,
    echo: str = "", scored: bool = False, stripped: bool = False, prefix: int = 0,
) -> list[Choice]:  # fmt: skip
    """All samples of one prompt."""
    if beyond := [id for id in asked.logit_bias if int(id) >= model.config.vocabulary]:
        many = f"the model has {model.config.vocabulary} tokens, from 0 on"
        raise ApiError(f"logit_bias has token id {beyond[0]}; {many}", "logit_bias")
    sampling = Sampling(
        tokens=tokens,
        temperature=asked.temperature,
        top_k=asked.top_k,
        top_p=asked.top_p,
        min_p=asked.min_p,
        repetition_penalty=asked.repetition_penalty,
        presence_penalty=asked.presence_penalty,
        frequency_penalty=asked.frequency_penalty,
        logit_bias=asked.logit_bias,
        stop=stop,
        seed=asked.seed,
    )
    return [
        Choice(
            Request(
                prompt=ids,
                sampling=sampling,
                sample=sample,
                likeliest=asked.likeliest or 0,
                echo=scored and asked.likeliest is not None,
                prefix=prefix,
                grammar=_grammar(asked.form, model),
            ),
            echo,
            stripped,
        )
        for sample in range(asked.n)
    ]


def _grammar(form: Mapping[str, Any] | None, model: LanguageModel) -> Grammar | None:
    if form is None:
        return None
    from gptjax.serving.grammar import grammar_of

    try:
        return grammar_of(form, model)
    except ValueError as error:
        raise ApiError(str(error)[:500], "regex" if form["type"] == "regex" else "response_format") from None


def _check_size(asked: Drawing, choices: Sequence[Choice]) -> None:
    """Raises ApiError where a reply would be too large to be made."""
    told = 1 if asked.likeliest is None else 1 + asked.likeliest
    texts = [choice.request for choice in choices]
    size = sum(one.sampling.tokens + (len(one.prompt) if one.echo else 0) for one in texts) * told
    if size > LARGEST:
        raise ApiError(
            f"the reply could have {size} tokens, those beside them counted; at most {LARGEST} are given at once: "
            f"ask for fewer texts, tokens or logprobs",
            asked.tokens_field,
        )
