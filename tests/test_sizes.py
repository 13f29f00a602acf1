"""Nothing grows beyond what can be read at once: functions, files and folders of the three packages."""

import ast
from pathlib import Path

from tests.test_map import tracked

FUNCTION, FILE, FOLDER = 80, 400, 16  # lines, lines, Python files


def oversized(sources: dict[str, str]) -> list[str]:
    """A line for each function, file and folder that is too large; `sources` by path."""
    found, in_folder = [], {}
    for path, source in sources.items():
        if (lines := source.count("\n")) > FILE:
            found.append(f"{path}: {lines} lines")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > FUNCTION:
                    found.append(f"{path}: {node.name}: {lines} lines")
        if not path.endswith("__init__.py"):
            in_folder.setdefault(str(Path(path).parent), []).append(path)
    return found + [f"{folder}: {len(files)} files" for folder, files in in_folder.items() if len(files) > FOLDER]


def of_checkout() -> dict[str, str]:
    root = Path(__file__).parents[1]
    paths = [path for path in tracked() if path.endswith(".py") and path.startswith(("gptjax/", "train/", "data/"))]
    return {path: (root / path).read_text(encoding="utf-8") for path in paths}


def test_functions_files_and_folders_stay_small():
    """At most 80 lines a function, 400 a file and 16 files a folder."""
    assert oversized(of_checkout()) == []


def test_what_is_too_large_is_seen():
    """One line more than allowed, of a method too; a file more. What is just within is not."""

    def function(lines):
        return "class A:\n    def f(self):\n" + "        pass\n" * (lines - 1)

    assert oversized({"a/b.py": function(FUNCTION)}) == []
    assert oversized({"a/b.py": function(FUNCTION + 1)}) == [f"a/b.py: f: {FUNCTION + 1} lines"]
    assert oversized({"a/b.py": "#\n" * FILE}) == []
    assert oversized({"a/b.py": "#\n" * (FILE + 1)}) == [f"a/b.py: {FILE + 1} lines"]
    assert oversized({f"a/{n}.py": "" for n in range(FOLDER)} | {"a/__init__.py": ""}) == []
    assert oversized({f"a/{n}.py": "" for n in range(FOLDER + 1)}) == [f"a: {FOLDER + 1} files"]
