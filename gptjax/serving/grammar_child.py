"""The process that says which tokens may come next: see gptjax.serving.grammar. Does not import JAX."""

import base64
import json
import time
from typing import Any

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper

from gptjax.serving.children import serve

# As json.dumps writes: where a model may write any white space, a weak one writes nothing else up to its limit.
STYLE: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
LIMITS = LLParserLimits(max_items_in_row=20_000)  # objects of thousands of optional properties need so many


class Tokens:
    """What llguidance asks of a tokenizer: the bytes of each token, none for those that no text is made of."""

    bos_token_id = None

    def __init__(self, spellings: list[str], ends: list[int]):
        self.tokens = [base64.b64decode(spelling) for spelling in spellings]
        self.special_token_ids = [id for id, spelling in enumerate(self.tokens) if not spelling]
        self.eos_token_id = ends[0]
        self._ids = {spelling: id for id, spelling in enumerate(self.tokens) if spelling}

    def __call__(self, text: bytes | str) -> list[int]:
        """For the library's own purposes; nothing that is drawn comes of it."""
        raw = text.encode() if isinstance(text, str) else text
        return [self._ids[raw[place : place + 1]] for place in range(len(raw)) if raw[place : place + 1] in self._ids]


class Matchers:
    """One text at a time."""

    def begin(self, said_first: dict[str, Any]) -> None:
        ends = said_first["ends"]
        tokens = TokenizerWrapper(Tokens(said_first["spellings"], ends))
        self._tokenizer = LLTokenizer(tokens, n_vocab=len(said_first["spellings"]), eos_token=ends)
        self._bytes = -(-len(said_first["spellings"]) // 32) * 4  # the library's masks have some to spare
        self._built: tuple[str, LLMatcher] | None = (
            None  # the last form as JSON, for its order counts; at its beginning
        )
        self._matcher: LLMatcher | None = None

    def answer(self, asked: Any) -> dict[str, Any]:
        """`asked`: the form of a new text, the id of a token that was drawn, or null, for the text is over.

        The answer has the seconds of computing that it took.
        """
        begun = time.process_time()
        if asked is None:
            self._matcher = None
            return {}
        if isinstance(asked, dict):
            form = json.dumps(asked, allow_nan=False)
            if self._built is None or self._built[0] != form:
                self._built = None
                try:
                    matcher = LLMatcher(self._tokenizer, grammar_of(asked), log_level=0, limits=LIMITS)
                except ValueError as error:
                    return {"refused": str(error)}
                self._built = form, matcher
            self._matcher = self._built[1].deep_copy()
        else:
            assert self._matcher is not None
            self._matcher.consume_token(asked)
        return self._state(self._matcher) | {"seconds": time.process_time() - begun}

    def _state(self, matcher: LLMatcher) -> dict[str, Any]:
        stopped = matcher.is_stopped()
        allowed = b"" if stopped else matcher.compute_bitmask()[: self._bytes]
        if matcher.is_error():
            return {"refused": matcher.get_error()}
        return {"ended": stopped, "allowed": base64.b64encode(allowed).decode()}


def grammar_of(form: dict[str, Any]) -> str:
    if form["type"] == "regex":
        return LLMatcher.grammar_from_regex(form["regex"])
    schema = form["schema"] if form["type"] == "json_schema" else {"type": "object"}
    return LLMatcher.grammar_from_json_schema(json.dumps(schema, allow_nan=False), overrides=STYLE)


if __name__ == "__main__":
    matchers = Matchers()
    serve(matchers.answer, matchers.begin)
