"""The command line and dvc.yaml name the same stages."""

from __future__ import annotations

import yaml

from support.command_line import invoke
from support.project import ROOT
from unigrec import cli
from unigrec.base.errors import EXIT_BAD_INPUT
from unigrec.pipeline import stages


def test_a_stage_has_one_name_in_dvc_yaml_on_the_command_line_and_as_a_function():
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert [stage["cmd"] for stage in graph.values()] == [f"unigrec stage {name}" for name in cli.STAGES]
    assert set(cli.STAGES) == {*stages.WITHOUT_RUN, *stages.WITH_RUN}


def test_an_unknown_stage_is_bad_input_and_the_message_lists_the_stages():
    code, output = invoke("stage", "load_sequences")
    assert code == EXIT_BAD_INPUT
    assert output == f"no stage 'load_sequences'; there are {', '.join(cli.STAGES)}"


def test_the_help_has_one_line_for_all_stages():
    code, output = invoke("--help")
    assert code == 0
    assert "stage " in output
    assert "tokenizer" not in output
