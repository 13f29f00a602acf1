"""Experiments by name, known without importing them."""

from pathlib import Path


def experiment_names() -> dict[str, str]:
    """Name -> module: E2 is in e2_both_objectives."""
    modules = sorted(path.stem for path in Path(__file__).parent.glob("e[0-9]*_*.py"))
    return {module.partition("_")[0].upper(): module for module in modules}
