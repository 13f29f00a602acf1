"""What to read: the sources, their rates, the split and the tokenizer. Imports neither TensorFlow nor JAX."""

import dataclasses
import math
from pathlib import Path
from typing import Literal

from data.rows.mixture import lay_out, parse
from gptjax.files.places import place_of_text

LEARNT, READY_MADE = ("bpe", "characters"), ("bytes", "gpt2")  # tokenizers; others are files


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Which text becomes training rows.

    A source is `NAME` or `NAME=RATE`. NAME is a corpus of `data/corpora` (`chitchat`, `wiki_leads/en`), any
    TensorFlow dataset (`tfds:lm1b`, `tfds:wikipedia/20230601.en`), or a file, folder or glob of .txt, .jsonl, .json,
    .csv, .tsv and .parquet (`files:~/novels`). RATE is the source's share of the rows; shares are normalised, and
    equal when left out.
    """

    sources: tuple[str, ...]  # NAME or NAME=RATE: chitchat, wiki_leads/en=2, tfds:lm1b, files:~/novels
    mixture: str = (
        "rates"  # shares as written; or from the sizes: `proportional`, `temperature T`, `unimax N` (N epochs at most)
    )
    text_field: str = (
        "text"  # which field of a record or a TFDS example holds the text; in files also a path: answers.text.0
    )
    label_field: str | None = (
        None  # which field of these holds a label: a class, such as the topic; None = there is none
    )
    validation: str = (
        "hash 0.05"  # `hash F`: documents by hash of the text, a share F of all bytes; `tail F`: the end of the text
    )
    tokenizer: str = "bpe"  # learnt: bpe, characters; ready made: bytes, gpt2, a tokenizer.json or SentencePiece file
    vocabulary: int = 4096  # tokens to learn (`characters`: the most allowed); a ready-made tokenizer brings its own
    prepared: Path = Path("prepared")  # folder of prepared corpora, one in it a data hash; or on gs://..., s3://...

    def __post_init__(self):
        object.__setattr__(self, "prepared", place_of_text(self.prepared))
        if not self.sources:
            raise ValueError("data.sources: empty; name at least one source, such as 'chitchat' or 'files:~/novels'")
        names = [name for name, _ in self.shares]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"data.sources: {repeated} listed twice; list each source once and give it a rate")
        if parse(self.mixture)[0] != "rates" and (written := sorted(set(self.sources) - set(names))):
            raise ValueError(
                f"data.mixture={self.mixture!r} makes the rates itself, and data.sources has {written}; "
                "leave out '=RATE', or set data.mixture to 'rates'"
            )
        self.split  # noqa: B018  (checked when built)
        self.rates  # noqa: B018
        if not self.learns and self.tokenizer not in READY_MADE and not set("./") & set(self.tokenizer):
            raise ValueError(
                f"data.tokenizer={self.tokenizer!r}: write one of {', '.join(LEARNT + READY_MADE)}, or the path of a "
                f"tokenizer.json or a SentencePiece model"
            )
        if self.vocabulary < 300:
            raise ValueError(
                f"data.vocabulary={self.vocabulary} is below 300: 256 bytes and the special tokens must fit"
            )

    @property
    def shares(self) -> tuple[tuple[str, float], ...]:
        """(name, share as written) of every source, in order."""
        return tuple(share_of(source) for source in self.sources)

    @property
    def rates(self) -> dict[str, int]:
        """Source name -> rows out of every 1024, as written. Sums to 1024; each source has at least one."""
        return lay_out(dict(self.shares))

    @property
    def learns(self) -> bool:
        """Whether the tokenizer is learnt from the text, rather than ready made."""
        return self.tokenizer in LEARNT

    @property
    def split(self) -> tuple[Literal["hash", "tail"], float]:
        """How validation text is held out, and what share of it."""
        match self.validation.split():
            case [("hash" | "tail") as how, share] if _is_number(share) and 0 < float(share) < 1:
                return how, float(share)
        raise ValueError(
            f"data.validation={self.validation!r}: write 'hash 0.05' or 'tail 0.1', with a share between 0 and 1"
        )


def share_of(source: str) -> tuple[str, float]:
    """(name, share) of a source as it is written, NAME or NAME=RATE."""
    name, separator, rate = source.rpartition("=")
    if not separator or not _is_number(rate):  # a path may hold an equals sign
        return source, 1.0
    if not 0 < float(rate) < math.inf or not name:
        raise ValueError(f"data.sources: {source!r} has rate {rate}; write NAME=RATE with a positive number")
    return name, float(rate)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
