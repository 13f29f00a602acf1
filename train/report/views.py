"""One model read in both ways: how probable held-out text is from its beginning, and every token from both sides."""

from pathlib import Path

import numpy as np
from rich.markup import escape
from rich.table import Table

from data.description import read_prepared
from data.token_store import TokenStore
from gptjax.files.atomic_file import write_whole
from gptjax.files.plain_json import dumps
from gptjax.inference.language_model import LanguageModel

DOCUMENTS, TOKENS = 8, 64  # of each source: beginnings of documents; a token is a row of its own where both sides count


def write_views(run: Path, prepared: Path, model: LanguageModel) -> dict[str, dict[str, float]]:
    """Writes `views.json`: source -> nats a token, `causal` and from `both sides`, over the same tokens; their number.

    From both sides, every token knows all others, so that its nats are fewer; they are those of a pseudo-likelihood.
    """
    sources = read_prepared(prepared)["sources"]
    found, longest = {}, min(TOKENS, model.config.T)
    for name, source in sources.items():
        store = TokenStore(prepared / source["folder"] / "validation")
        chosen = np.unique(np.linspace(0, store.documents - 1, DOCUMENTS).astype(int))
        bounds = store.offset_D[chosen], np.minimum(store.offset_D[chosen + 1] - 1, store.offset_D[chosen] + longest)
        texts = [store.tokens[begin:end].tolist() for begin, end in zip(*bounds, strict=True) if end - begin > 1]
        if not texts:
            continue
        causal, both = (np.concatenate(model.log_probs(texts, view=view)) for view in ("causal", "bidirectional"))
        found[name] = {"causal": -float(causal.mean()), "bidirectional": -float(both.mean()), "tokens": len(causal)}
    write_whole(run / "views.json", dumps(found, indent=1) + "\n")
    return found


def views_table(found: dict[str, dict[str, float]]) -> Table:
    """For people."""
    title = "nats a token: read from the beginning, and every token from both sides"
    table = Table(title=title, min_width=len(title))
    table.add_column("held-out text of", overflow="fold")  # whole: sources may differ in the end of a name alone
    for heading in ("causal", "bidirectional", "tokens"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, figures in found.items():
        table.add_row(
            escape(name), f"{figures['causal']:.3f}", f"{figures['bidirectional']:.3f}", f"{figures['tokens']}"
        )
    return table
