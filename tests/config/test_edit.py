"""Configure: params.yaml is rewritten with its comments, checked first, and profiles leave nothing behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from support.project import PARAMS_FILE, ROOT
from unigrec.base.errors import UnigrecError
from unigrec.cli import app
from unigrec.config.edit import configure
from unigrec.config.profiles import SAMPLE, leaves, profile_names
from unigrec.config.read import load_params, read_mapping

PROFILES = ROOT / "infra/profiles"


def plain_leaves(file: Path) -> dict:
    return dict(leaves(read_mapping(file)))


@pytest.fixture
def params_file(tmp_path, monkeypatch) -> Path:
    """A copy of the project's params, as the sample profile has them, and of the profiles."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(PROFILES, tmp_path / "infra/profiles")
    shutil.copy(PARAMS_FILE, tmp_path / "params.yaml")
    configure(Path("params.yaml"), profile=SAMPLE, data=SAMPLE)
    return Path("params.yaml")


def test_the_committed_params_are_the_sample_profile():
    committed = plain_leaves(PARAMS_FILE)
    sample = plain_leaves(PROFILES / "sample.yaml")
    if committed["profile"] != SAMPLE:
        pytest.skip("params.yaml has been configured to another profile")
    assert {key: committed[key] for key in sample} == sample


def test_the_sample_profile_holds_every_key_that_another_touches():
    others = [plain_leaves(PROFILES / f"{name}.yaml") for name in profile_names(PROFILES) if name != SAMPLE]
    assert len(others) >= 2
    assert set(plain_leaves(PROFILES / "sample.yaml")) == set().union(*others)


@pytest.mark.parametrize("name", profile_names(PROFILES))
def test_a_profile_holds_only_what_differs_and_gives_valid_params(name, params_file):
    own, sample = plain_leaves(PROFILES / f"{name}.yaml"), plain_leaves(PROFILES / "sample.yaml")
    assert name == SAMPLE or not [key for key in own if own[key] == sample[key]]
    configure(params_file, profile=name)
    assert load_params(params_file).profile == name


def test_comments_and_layout_stay(params_file):
    before = params_file.read_text(encoding="utf-8").splitlines()
    configure(params_file, profile="paper", settings=["joint.tokenizer_lr=2e-8", "embed.modalities=[a b.parquet, c]"])
    after = params_file.read_text(encoding="utf-8").splitlines()
    assert len(after) == len(before)
    for old, new in zip(before, after, strict=True):
        assert old.partition(":")[0] == new.partition(":")[0]
        assert old.partition("#")[2] == new.partition("#")[2]
        assert "#" not in old or old.index("#") == new.index("#")
    assert load_params(params_file).joint.tokenizer_lr == 2e-8
    assert load_params(params_file).embed.modalities == ("a b.parquet", "c")


def test_there_and_back_gives_the_same_bytes(params_file):
    before = params_file.read_bytes()
    folder = Path("a rather long name: shop #1, büro")
    folder.mkdir()
    configure(params_file, profile="paper", data=str(folder), settings=["joint.tokenizer_lr=0.1", "embed.model=a/b"])
    assert params_file.read_bytes() != before
    settings = ["joint.tokenizer_lr=0.0000002", "embed.model="]
    configure(params_file, profile=SAMPLE, data=SAMPLE, settings=settings)
    assert params_file.read_bytes() == before


def test_a_profile_leaves_nothing_of_the_one_before(params_file):
    configure(params_file, profile="small")
    small = params_file.read_bytes()
    configure(params_file, profile="paper")
    configure(params_file, profile="small")
    assert params_file.read_bytes() == small


def test_what_no_profile_touches_stays_and_set_wins(params_file):
    configure(params_file, settings=["seed=7"])
    changes = configure(params_file, profile="paper", settings=["joint.epochs=3"])
    params = load_params(params_file)
    assert (params.seed, params.joint.epochs, params.joint.recommender.encoder_layers) == (7, 3, 6)
    assert ("joint.epochs", 3) in [(change.key, change.new) for change in changes]
    assert not configure(params_file, profile="paper", settings=["joint.epochs=3"])  # nothing left to change


@pytest.mark.parametrize("name", ["shop", "a shop, with spaces", "данные: #1", "back\\slash 'quoted'"])
def test_a_folder_of_any_name_is_read_back(params_file, name):
    Path(name).mkdir()
    configure(params_file, data=f"{name}/")
    ingest = load_params(params_file).ingest
    assert (ingest.source, ingest.path) == ("folder", name)


def test_a_folder_is_kept_relative_to_the_params_file(params_file, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    configure(Path("../params.yaml"), data="../data", source="amazon-2014")
    ingest = load_params(tmp_path / "params.yaml").ingest
    assert (ingest.source, ingest.path) == ("amazon-2014", "data")
    configure(Path("../params.yaml"), data=str(tmp_path / "data"))
    assert load_params(tmp_path / "params.yaml").ingest.path == str(tmp_path / "data")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"profile": "papr"}, "no profile 'papr'.*sample, paper, small; did you mean paper"),
        ({"data": "nowhere"}, "nowhere: no such folder"),
        ({"data": "params.yaml"}, "is a file"),
        ({"data": "infra", "source": "movilens"}, "ingest.source = 'movilens'.*'movielens'"),
        ({"data": "sample", "source": "movielens"}, "reads no folder"),
        ({"data": "infra", "source": "sample"}, "reads no folder"),
        ({"settings": ["joint.epoch=3"]}, "unknown key 'joint.epoch'; did you mean joint.epochs"),
        ({"settings": ["codebook_size=3"]}, "did you mean tokenizer.codebook_size"),
        ({"settings": ["joint.recommender=3"]}, "is a section; set one of its keys: joint.recommender.d_model"),
        ({"settings": ["joint.epochs"]}, "expected section.key=value"),
        ({"settings": ["joint.epochs=many"]}, "joint.epochs = 'many': input should be a valid integer"),
        ({"settings": ["joint.epochs=0"]}, "joint.epochs = 0: input should be greater than or equal to 1"),
        ({"settings": ["joint.epochs=[3"]}, "not valid YAML"),
        ({"settings": ["register.experiment=true"]}, "register.experiment = True: input should be a valid string"),
        ({"profile": "paper", "settings": ["evaluate.beam=5"]}, "raise the beam"),
        ({"settings": ["ingest.events={buy: 1}"]}, "the source sample has no types of events; set ingest.events={}"),
        (
            {
                "source": "folder",
                "settings": ["ingest.path=data/current", "snapshot.source=movielens", "ingest.events={buy: 1}"],
            },
            "the source movielens has no types of events",
        ),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(params_file, arguments, message):
    before = params_file.read_bytes()
    with pytest.raises(UnigrecError, match=message):
        configure(params_file, **arguments)
    assert params_file.read_bytes() == before


def test_a_value_can_be_quoted(params_file):
    configure(params_file, settings=['register.experiment="true"'])
    assert load_params(params_file).register_.experiment == "true"


@pytest.mark.parametrize("number", ["0.00000005", "5e-8", "5E-08"])
def test_a_number_is_written_as_it_was_typed(params_file, number):
    configure(params_file, settings=[f"joint.tokenizer_lr={number}"])
    assert f"  tokenizer_lr: {number}\n" in params_file.read_text(encoding="utf-8")
    assert load_params(params_file).joint.tokenizer_lr == 5e-8


def test_the_command_prints_what_changed(params_file):
    configure(params_file, settings=["seed=3", "register.experiment=a"])
    result = CliRunner().invoke(app, ["configure", "--set", "register.experiment=b", "--set", "seed=4"])
    assert result.output.splitlines() == [
        "params.yaml: 2 values changed",
        "  seed: 3 -> 4",
        "  register.experiment: a -> b",
    ]
    assert "no values changed" in CliRunner().invoke(app, ["configure", "--set", "seed=4"]).output
    assert "profile sample, data infra/sample.yaml" in CliRunner().invoke(app, ["configure"]).output


def test_a_params_file_that_is_not_there_or_no_yaml(params_file):
    with pytest.raises(UnigrecError, match="no such file"):
        configure(Path("absent.yaml"), settings=["seed=1"])
    params_file.write_text("seed: [1\n", encoding="utf-8")
    with pytest.raises(UnigrecError, match="not valid YAML"):
        configure(params_file, settings=["seed=1"])


def test_a_comment_stays_next_to_a_list_that_a_profile_comments_on_too(params_file):
    configure(params_file, profile="small")
    (line,) = [line for line in params_file.read_text().splitlines() if line.startswith("  hidden:")]
    assert line == "  hidden: [256, 128]".ljust(34) + "# widths of the encoder; the decoder has the same in reverse"


def test_a_key_that_a_file_of_an_earlier_version_lacks_is_added(params_file):
    text = params_file.read_text()
    earlier = [line for line in text.splitlines(keepends=True) if "epoch_samples" not in line]
    params_file.write_text("".join(earlier))
    assert load_params(params_file).teacher.epoch_samples == 0
    changes = configure(params_file, profile="small")
    assert "teacher.epoch_samples: unset -> 150000" in map(str, changes)
    assert load_params(params_file).teacher.epoch_samples == 150000
    now = params_file.read_text().splitlines()
    assert [line for line in now if line.startswith("#") or not line] == [
        line.rstrip("\n") for line in earlier if line.startswith("#") or line == "\n"
    ]
    for wrong in ("teacher.no_such=1", "teacher=1", "teacher.epochs.more=1"):
        with pytest.raises(UnigrecError):
            configure(params_file, settings=[wrong])


@pytest.mark.parametrize("setting", ["ingest.files.items=shop", "spark.master=yarn"])
def test_a_section_that_a_file_of_an_earlier_version_lacks_is_added(params_file, setting):
    document = yaml.safe_load(params_file.read_text())
    del document["ingest"]["files"], document["spark"]
    params_file.write_text(yaml.safe_dump(document))
    configure(params_file, settings=[setting])
    key, _, value = setting.partition("=")
    assert dict(leaves(yaml.safe_load(params_file.read_text())))[key] == value
