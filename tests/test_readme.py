"""README's picture is the graph, and its file tree is the tree."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def graph_edges() -> set[tuple[str, str]]:
    """(from, to) of every stage whose output another one reads, as dvc.yaml has them."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return {
        (source, target)
        for source, writer in stages.items()
        for target, reader in stages.items()
        for output in writer["outs"]
        for dependency in reader["deps"]
        if f"{dependency}/".startswith(f"{output}/")
    }


def test_the_picture_shows_the_graphs_edges():
    picture = README.split("```mermaid")[1].split("```")[0]
    assert set(re.findall(r"(\w+) --> (\w+)", picture)) == graph_edges()


def test_every_module_has_its_line_in_the_file_tree():
    tree = README.split("## File tree")[1]
    modules = [
        *(ROOT / "src/unigrec").rglob("*.py"),
        *(ROOT / "flows").glob("*.py"),
        *(ROOT / "benchmarks").glob("*.py"),
    ]
    missing = [str(file) for file in modules if file.name != "__init__.py" and file.name not in tree]
    assert not missing


def test_every_named_document_exists():
    for name in re.findall(r"\]\(([\w/.-]+\.md)\)", README):
        assert (ROOT / name).is_file(), name
