"""Messages with roles as text or token ids, also where a chat template knows no system message. Does not import JAX."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gptjax.inference.chat import LINES, Chat
from gptjax.inference.prompt import encode_rendered

if TYPE_CHECKING:
    from gptjax.inference.language_model import LanguageModel


def written(
    model: "LanguageModel",
    messages: Sequence[Mapping[str, Any]],
    *,
    tools: Sequence[Mapping[str, Any]] | None = None,
    continues: bool = False,
) -> str:
    """The conversation as text, up to where the assistant speaks, by the model's template or our lines.

    `tools`: what the assistant may call, as the template has it. `continues`: the last message is the beginning of what
    the assistant says. A system message goes before the first turn where the template refuses it. Raises ValueError
    where it refuses more.
    """
    from gptjax.inference.template import render  # here, for a run of ours that only continues texts needs no Jinja

    generation_config, tokenizer = model.generation_config, model.tokenizer
    template = generation_config.chat_template or LINES
    try:
        return render(template, messages, generation_config.names, tokenizer, tools=tools, continues=continues)
    except ValueError:
        if (joined := joined_system(messages)) is None:
            raise
    return render(template, joined, generation_config.names, tokenizer, tools=tools, continues=continues)


def before_answers(messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The messages that stand before the assistant's first."""
    roles = [message["role"] for message in messages]
    return messages[: roles.index("assistant")] if "assistant" in roles else messages


def joined_system(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]] | None:
    """The same with the system message before the first turn, in one; None where it has no such message."""
    if [one["role"] for one in messages[:2]] != ["system", "user"]:
        return None
    system, first, *others = messages
    return [{**first, "content": f"{system['content']}\n\n{first['content']}"}, *others]


def turn_ids(model: "LanguageModel", chat: Chat, turn: str, system: str | None) -> list[int]:
    """What the model reads before it answers a conversation's first turn.

    Raises ValueError where the chat template refuses it, and without a system message where `Chat.say` does.
    """
    if system is None:
        return chat.tokens(turn)
    if model.generation_config.chat_template is None:
        return chat.tokens(f"{system}\n\n{turn}")
    messages = [{"role": "system", "content": system}, {"role": "user", "content": turn}]
    return encode_rendered(model.tokenizer, written(model, messages))
