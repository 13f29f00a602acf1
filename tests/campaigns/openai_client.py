"""OpenAI's own client for Python, which `openai_clients` tells what to call, a line of JSON each; needs no gptjax."""

import asyncio
import json
import sys
from typing import Annotated, Any, Literal

import openai
from pydantic import BaseModel, Field


class Weather(BaseModel):
    """The same as in openai_client.mjs."""

    city: Literal["Paris", "London", "Rome"]
    degrees: Annotated[int, Field(ge=0, le=40)]
    rain: bool


def call(asked: dict[str, Any]) -> Any:
    """What the client gives, as JSON."""
    options = {"base_url": asked["address"], "api_key": asked["key"], "max_retries": 0}
    arguments, timeout = asked["arguments"], asked.get("timeout", 60)
    if extra := asked.get("extra"):  # fields that OpenAI does not have
        arguments["extra_body"] = extra
    if asked["do"] == "cancel":
        return asyncio.run(cancelled(options, arguments, timeout))
    with openai.OpenAI(**options, timeout=timeout) as client:
        chats = client.chat.completions
        resource = {"chat": chats, "completions": client.completions, "embeddings": client.embeddings}.get(asked["of"])
        match asked["do"]:
            case "list":
                return [model.model_dump() for model in client.models.list()]
            case "retrieve":
                return client.models.retrieve(asked["of"]).model_dump()
            case "get":
                return client.get(asked["of"], cast_to=object)
            case "create":
                return resource.create(**arguments).model_dump(
                    warnings=False
                )  # base64 stays text, which it did not expect
            case "stream":
                return [chunk.model_dump() for chunk in resource.create(**arguments, stream=True)]
            case "abort":
                stream = resource.create(**arguments, stream=True)
                heard = [next(stream).model_dump() for _ in range(3)]
                stream.close()
                return heard
            case "helper":
                with chats.stream(**arguments) as stream:
                    deltas = [event.delta for event in stream if event.type == "content.delta"]
                    return {"deltas": deltas, "final": stream.get_final_completion().model_dump()}
            case "parse":
                parsed = chats.parse(**arguments, response_format=Weather).choices[0].message
                return {"content": parsed.content, "parsed": parsed.parsed.model_dump()}
            case other:
                raise ValueError(f"do={other!r} is nothing that this client does")


async def cancelled(options: dict[str, Any], arguments: dict[str, Any], seconds: float) -> str:
    """A call that its caller gives up after so many seconds."""
    async with openai.AsyncOpenAI(**options) as client:
        task = asyncio.create_task(client.chat.completions.create(**arguments))
        await asyncio.sleep(seconds)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return "cancelled"
    return "answered"


def main() -> None:
    print(json.dumps(f"openai {openai.__version__}, Python {sys.version.split()[0]}"), flush=True)
    for line in sys.stdin:
        try:
            answer = {"found": call(json.loads(line))}
        except Exception as error:  # its own, and what else comes of an answer that it cannot read
            fields = {name: getattr(error, name, None) for name in ("code", "param", "type", "request_id")}
            status = getattr(error, "status_code", None)
            answer = {"error": {"class": type(error).__name__, "status": status, "message": str(error), **fields}}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
