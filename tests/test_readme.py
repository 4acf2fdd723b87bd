"""README lists the rooms and existing documents; docs/architecture.md draws the graph of dvc.yaml."""

import re

import yaml

from support.project import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def graph_edges() -> set[tuple[str, str]]:
    """(from, to) for each stage whose output another stage reads, from dvc.yaml."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    return {
        (source, target)
        for source, writer in stages.items()
        for target, reader in stages.items()
        for output in writer["outs"]
        for dependency in reader["deps"]
        if f"{dependency}/".startswith(f"{output}/")
    }


def test_the_picture_in_the_architecture_shows_the_graphs_edges():
    picture = ARCHITECTURE.split("```mermaid")[1].split("```")[0]
    assert set(re.findall(r"(\w+) --> (\w+)", picture)) == graph_edges()


def test_readme_has_a_line_for_every_room_and_for_no_other():
    tree = README.split("## The rooms")[1].split("```")[1]
    listed = set(re.findall(r"^  (\w+)(?:/|\.py) ", tree, re.MULTILINE))
    rooms = {path.parent.name for path in (ROOT / "src/unigrec").glob("*/__init__.py")}
    assert listed == rooms | {"cli"}
    for folder in re.findall(r"^(\w+)/ ", tree, re.MULTILINE):
        assert (ROOT / folder).is_dir(), folder


def test_every_named_document_exists():
    for name in re.findall(r"\]\(([\w/.-]+\.md)\)", README):
        assert (ROOT / name).is_file(), name
