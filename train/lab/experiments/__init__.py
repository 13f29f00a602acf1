"""Experiments by name, known without importing them."""

from pathlib import Path


def experiment_names() -> dict[str, str]:
    """Name -> module: E2 is in e2_both_objectives."""
    modules = [path.stem for path in Path(__file__).parent.glob("e[0-9]*_*.py")]
    named = {module.partition("_")[0].upper(): module for module in modules}
    return dict(sorted(named.items(), key=lambda item: int(item[0][1:])))
