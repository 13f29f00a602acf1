"""The process that runs a stranger's chat template: see gptjax.serving.bounded_render. Does not import JAX."""

from types import SimpleNamespace
from typing import Any

from gptjax.inference.conversation import written
from gptjax.serving.children import serve


def answer(asked: dict[str, Any]) -> dict[str, str]:
    model: Any = SimpleNamespace(
        generation_config=SimpleNamespace(chat_template=asked["template"], names=asked["names"]),
        tokenizer=SimpleNamespace(added_names=asked["added_names"], special_names=asked["special_names"]),
    )
    try:
        return {"text": written(model, asked["messages"], tools=asked["tools"], continues=asked["continues"])}
    except ValueError as error:
        return {"refused": str(error)}


if __name__ == "__main__":
    serve(answer)
