"""docs/map.md against the tracked files. `python tests/test_map.py` prints what differs.

The map is its first fenced block that has a line starting with `gptjax/`: two spaces per level, a name, two
spaces or more, what it does. A folder that is listed without anything below it stands for all it holds, as long as that
is no Python; names may hold `*`. An `__init__.py` may go without a line.
"""

import re
import subprocess
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def tracked() -> list[str]:
    """Every file that git tracks, staged ones included."""
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return sorted(name for name in listed if name and (ROOT / name).exists())


def described(page: str) -> dict[str, str]:
    """{path or pattern: what the map says of it}; folders end in a slash."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    tree = next((block for block in blocks if re.search(r"^gptjax/", block, flags=re.MULTILINE)), "")
    found: dict[str, str] = {}
    parents: list[str] = []
    for line in tree.splitlines():
        name, _, purpose = line.strip().partition(" ")
        if name:
            parents[(len(line) - len(line.lstrip())) // 2 :] = [name]
            found["".join(parents)] = purpose.strip()
    return found


def differences(page: str, files: list[str]) -> list[str]:
    """One line per file without a line, line without a file, line that says nothing, and line like another."""
    listed = described(page)
    leaves = [path for path in listed if not any(other != path and other.startswith(path) for other in listed)]

    def covers(path: str, file: str) -> bool:
        if path.endswith("/"):
            return path in leaves and not file.endswith(".py") and fnmatchcase(file, f"{path}*")
        return file.count("/") == path.count("/") and fnmatchcase(file, path)

    missing = [
        f"no line for {file}"
        for file in files
        if not file.endswith("__init__.py") and not any(covers(path, file) for path in listed)
    ]
    stale = [f"no file for {path}" for path in leaves if not any(covers(path, file) for file in files)]
    silent = [f"nothing said of {path}" for path, purpose in listed.items() if not purpose]
    programs = [path for path in listed if path.endswith(".py") and "*" not in path]
    said = Counter(listed[path] for path in programs)
    alike = [f"said of two files: {path}" for path in programs if listed[path] and said[listed[path]] > 1]
    return missing + stale + silent + alike


def map_differences() -> list[str]:
    """`differences` of this checkout."""
    return differences((ROOT / "docs" / "map.md").read_text(encoding="utf-8"), tracked())


def test_the_map_is_of_the_files_that_there_are():
    """Every tracked file has its line in docs/map.md, and every line its file. To see: python tests/test_map.py."""
    assert map_differences() == []


def test_the_tree_check_sees_a_new_file_a_lost_file_and_a_silent_line():
    """A true tree passes; a file more, a file less and a line without words are each named, and only they."""
    page = "```\ngptjax/  the library\n  model.py  layers\n  dummy_data/  samples\nREADME.md  this\n```\n"
    files = ["README.md", "gptjax/__init__.py", "gptjax/dummy_data/a/b.txt", "gptjax/model.py"]
    assert differences(page, files) == []
    assert differences(page, [*files, "gptjax/lora.py"]) == ["no line for gptjax/lora.py"]
    assert differences(page, [*files, "gptjax/dummy_data/make.py"]) == ["no line for gptjax/dummy_data/make.py"]
    assert differences(page, files[:-1]) == ["no file for gptjax/model.py"]
    assert differences(page.replace("layers", ""), files) == ["nothing said of gptjax/model.py"]
    twice = page.replace("  model.py  layers\n", "  model.py  layers\n  block.py  layers\n")
    alike = [f"said of two files: gptjax/{name}.py" for name in ("model", "block")]
    assert differences(twice, [*files, "gptjax/block.py"]) == alike


def test_the_chinese_page_names_every_verb():
    """That launch.sh has."""
    [verbs] = re.findall(r"^verbs='(.*)'$", (ROOT / "launch.sh").read_text(encoding="utf-8"), re.MULTILINE)
    page = " ".join((ROOT / "README.zh.md").read_text(encoding="utf-8").split())
    assert [verb for verb in verbs.split() if f"./launch.sh {verb}" not in page] == []


def test_tests_lie_in_the_rooms_of_what_they_test():
    """tests/gptjax/nn/test_model.py for gptjax/nn/model.py; a test of no one file lies where it likes."""
    rooms: dict[str, set[str]] = {}
    for file in tracked():
        if file.startswith(("gptjax/", "train/", "data/")):
            rooms.setdefault(Path(file).stem, set()).add(str(Path(file).parent))
    strays = []
    for file in map(Path, tracked()):
        if file.name.startswith("test_") and file.parts[:2] in {("tests", top) for top in ("gptjax", "train", "data")}:
            wanted = rooms.get(file.stem.removeprefix("test_"), {str(file.parent.relative_to("tests"))})
            if str(file.parent.relative_to("tests")) not in wanted:
                strays.append(f"{file}: tests {wanted}")
    assert strays == []


if __name__ == "__main__":
    print("\n".join(map_differences()) or "the map is true")
