"""How a model's texts begin and end, and how it talks. Does not import JAX."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptjax.files.atomic_file import write_whole
from gptjax.files.bounded_files import naming, read_json
from gptjax.spelling import did_you_mean
from gptjax.text.tokenizer import Tokenizer

FORMAT = 1  # of generation.json
ROLES = ("bos", "eos", "pad")
ENCODES = "gptjax_encodes_prompt"  # `encodes_prompt` in an export's generation_config.json, which others leave alone


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Of a model of ours: see `of_runs`, or the generation.json of its run; of somebody else's: what its files say.

    Unlike that of transformers it holds no sampling settings to be obeyed: these are arguments of `generate`.
    """

    ends: frozenset[int]  # ids that end a text
    begins_with_bos: bool = True
    # Jinja, as Hugging Face has it; None = lines of A and B, see gptjax.inference.chat
    chat_template: str | None = None
    # special tokens that a chat template may name: bos_token, eos_token and so on
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # what stands before the first answer of a conversation is read from both sides, as it was trained: a prefix-LM
    encodes_prompt: bool = False
    # what else its generation_config.json says; kept for exports, not obeyed
    generation: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_runs(cls, tokenizer: Tokenizer) -> "GenerationConfig":
        """BOS in front, one EOS at the end, lines of A and B."""
        roles = {"bos": tokenizer.bos, "eos": tokenizer.eos, "pad": tokenizer.pad, "mask": tokenizer.mask}
        names = {f"{role}_token": tokenizer.token(id) for role, id in roles.items() if id is not None}
        return cls(ends=frozenset({tokenizer.eos}), names=names)

    @classmethod
    def of_turns(cls, tokenizer: Tokenizer) -> "GenerationConfig":
        """The same lines, but that EOS ends each of B's: how a model of ours talks that was taught to."""
        from gptjax.inference.chat import TURNS  # here, for that module needs this one

        return dataclasses.replace(cls.of_runs(tokenizer), chat_template=TURNS)

    def save(self, path: Path, tokenizer: Tokenizer) -> None:
        """Writes `generation.json`. It also says which token is BOS, EOS and PAD, for a tokenizer.json does not."""
        fields = dataclasses.asdict(self) | {"ends": sorted(self.ends)}
        roles = {role: tokenizer.token(getattr(tokenizer, role)) for role in ROLES}
        content = {"format": FORMAT, **fields, "roles": roles}
        write_whole(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path: Path, vocabulary: int) -> tuple["GenerationConfig", dict[str, str]]:
        """What a `generation.json` says, and the `roles` of the tokenizer that belongs to it.

        `vocabulary`: ids of the model. Raises ValueError naming the file and the field that is unknown, missing,
        malformed, or of another model.
        """
        fields = read_json(path)
        with naming(path):
            if (found := fields.pop("format", None)) != FORMAT:
                raise ValueError(f"written in format {found}, this gptjax reads {FORMAT}; use the gptjax that wrote it")
            fields.setdefault("encodes_prompt", False)  # of runs that are older than the field
            known = [*(field.name for field in dataclasses.fields(cls)), "roles"]
            for name in fields.keys() - set(known):
                raise ValueError(f"unknown field {name!r}{did_you_mean(name, known)}")
            if missing := [name for name in known if name not in fields]:
                raise ValueError(f"field {missing[0]!r} is missing")
            _check_types(fields)
            ends, roles = frozenset(fields["ends"]), fields.pop("roles")
            if beyond := [id for id in ends if not 0 <= id < vocabulary]:
                raise ValueError(f"ends has token id {beyond[0]}; the model has {vocabulary} tokens, from 0 on")
            if sorted(roles) != sorted(ROLES):
                raise ValueError(f"roles has {sorted(roles)}; must have {sorted(ROLES)}")
        return cls(**{**fields, "ends": ends}), roles


def _check_types(fields: Mapping[str, Any]) -> None:
    """Raises ValueError naming a field whose value is of another kind than GenerationConfig has."""

    def texts(value: Any) -> bool:
        return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())

    wanted = {
        "ends": (
            "a list of token ids",
            lambda value: isinstance(value, list) and value and {*map(type, value)} == {int},
        ),
        "begins_with_bos": ("true or false", lambda value: isinstance(value, bool)),
        "encodes_prompt": ("true or false", lambda value: isinstance(value, bool)),
        "chat_template": ("a text, or null", lambda value: isinstance(value, str | None)),
        "names": ("an object of texts", texts),
        "generation": ("an object", lambda value: isinstance(value, dict)),
        "roles": ("an object of texts", texts),
    }
    for name, (what, fits) in wanted.items():
        if not fits(fields[name]):
            raise ValueError(f"{name} is {fields[name]!r:.60}; must be {what}")
