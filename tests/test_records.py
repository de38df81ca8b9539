"""Records and jobs: inputs and outputs are hashed and verified, and every change is detected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from emofuse import config, paths
from emofuse.provenance.freshness import Chain, State
from emofuse.provenance.job import job
from emofuse.provenance.records import Record, find
from emofuse.utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
RAW, INDEX = paths.raw("demo", 0), paths.index("demo")
SHARD, CORPUS = {"corpus": "demo", "shard": 0}, {"corpus": "demo"}


def params(root: Path, **demo: Any) -> config.Params:
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    tree["corpora"] = {"demo": {**tree["corpora"]["demo"], "shards": [0], **demo}}
    (root / "params.yaml").write_text(yaml.safe_dump({**tree, "paper": []}))
    return config.load(root / "params.yaml")


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def download(root: Path, text: str = "clips") -> None:
    with job("download", params(root), SHARD, paths.raw_record("demo", 0), [], [RAW], root):
        write(root, RAW, text)


def index(root: Path, text: str = "index", **demo: Any) -> Record:
    with job("index", params(root, **demo), CORPUS, paths.record(INDEX), [RAW], [INDEX], root):
        write(root, INDEX, text)
    record = find(root, INDEX)
    assert record is not None
    return record


@pytest.fixture
def root(tmp_path: Path) -> Path:
    download(tmp_path)
    index(tmp_path)
    return tmp_path


def test_a_job_records_its_inputs_outputs_settings_and_environment(root: Path) -> None:
    record = find(root, INDEX)
    assert record is not None
    assert (record.stage, dict(record.key)) == ("index", CORPUS)
    assert record.inputs.keys() == {RAW}
    assert record.outputs.keys() == {INDEX}
    assert record.settings["clips"]["demo"]["seed"] == 1
    assert record.command == "emofuse index demo"
    assert record.environment["torch"]
    assert record.finished


def test_only_a_bit_identical_rerun_has_the_same_hash(root: Path) -> None:
    first = find(root, INDEX)
    assert first is not None
    again = index(root)
    assert again.hash == first.hash
    assert index(root, "another index").hash != first.hash


@pytest.mark.parametrize(
    "damage",
    [
        lambda tree: tree["outputs"].update({INDEX: "0" * 64}),
        lambda tree: tree["settings"]["clips"].update(shards=[0, 1]),
        lambda tree: tree.pop("hash"),
        lambda tree: tree.update(inputs=[]),
        lambda tree: tree.update(surprise=1),
    ],
)
def test_an_edited_record_is_refused(root: Path, damage: Any) -> None:
    path = root / paths.record(INDEX)
    tree = json.loads(path.read_text())
    damage(tree)
    path.write_text(json.dumps(tree))
    with pytest.raises(UserError, match=r"index\.record\.json is not a valid record"):
        find(root, INDEX)


@pytest.mark.parametrize("text", ["", "{", "[]", '"text"', "null"])
def test_a_file_that_is_not_a_record_is_refused(root: Path, text: str) -> None:
    (root / paths.record(INDEX)).write_text(text)
    with pytest.raises(UserError, match="index"):
        find(root, INDEX)


def test_a_missing_input_names_its_command(root: Path) -> None:
    (root / RAW).unlink()
    with pytest.raises(UserError, match=rf"{RAW} is missing: run `snakemake {RAW} --cores 2`"):
        index(root)


def test_a_corrupted_input_names_the_command_that_rebuilds_it(root: Path) -> None:
    write(root, RAW, "clipz")
    with pytest.raises(UserError, match=rf"{RAW} is corrupted: .*`snakemake --force {RAW} --cores 2`"):
        index(root)


def test_an_input_without_a_record_is_refused(root: Path) -> None:
    (root / paths.raw_record("demo", 0)).unlink()
    with pytest.raises(UserError, match="has no record of the job that wrote it"):
        index(root)


def test_a_stale_input_is_refused_with_the_parameter_that_changed(root: Path) -> None:
    changed = {"demo": {"seed": 2, "actors": 24, "takes": 4}}
    with pytest.raises(
        UserError, match=r"ran with clips\.demo\.seed 1; params\.yaml has 2.*run `snakemake demo --cores 8`"
    ):
        index(root, **changed)


def test_an_input_that_changes_during_a_job_is_detected_and_leaves_no_record(root: Path) -> None:
    def read() -> None:
        with job("index", params(root), CORPUS, paths.record(INDEX), [RAW], [INDEX], root):
            write(root, INDEX, "index")
            write(root, RAW, "other clips")

    with pytest.raises(UserError, match="changed while emofuse index was running"):
        read()
    assert find(root, INDEX) is None


def test_a_job_that_fails_leaves_no_record(root: Path) -> None:
    def fail() -> None:
        with job("index", params(root), CORPUS, paths.record(INDEX), [RAW], [INDEX], root):
            write(root, INDEX, "half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert find(root, INDEX) is None


def state(root: Path, **demo: Any) -> State:
    chain = Chain(params(root, **demo), root)
    record = chain.producer(INDEX)
    assert record is not None
    return chain.whole(record).state


def test_the_state_of_a_result(root: Path) -> None:
    assert state(root) == State.VERIFIED
    assert state(root, title="another title") == State.VERIFIED
    assert state(root, demo={"seed": 2, "actors": 24, "takes": 4}) == State.STALE
    write(root, INDEX, "another index")
    assert state(root) == State.CORRUPTED
    write(root, INDEX, "index")
    (root / RAW).unlink()
    assert state(root) == State.UNCHECKABLE
    download(root, "other clips")
    assert state(root) == State.STALE


def test_jobs_that_params_yaml_no_longer_includes_are_not_an_error(root: Path) -> None:
    with job("splits", params(root), {**CORPUS, "protocol": "kfold_3"}, paths.splits_record("demo", "kfold_3"), [INDEX],
             ["data/demo/splits/kfold_3/folds.csv"], root):  # fmt: skip
        write(root, "data/demo/splits/kfold_3/folds.csv", "folds")
    chain = Chain(params(root, protocols={"kfold_4": [0]}), root)
    record = chain.producer("data/demo/splits/kfold_3/folds.csv")
    assert record is not None
    assert chain.whole(record).state == State.LEFT_OVER


def test_a_record_as_input_is_compared_by_its_hash_not_its_time(root: Path) -> None:
    summary = paths.summary("demo")

    def report() -> str:
        inputs = [INDEX, paths.record(INDEX)]
        with job("report", params(root), CORPUS, paths.record_in("results/demo"), inputs, [summary], root):
            write(root, summary, "{}")
        record = find(root, summary)
        assert record is not None
        return record.hash

    first = report()
    (root / paths.record(INDEX)).write_text((root / paths.record(INDEX)).read_text().replace("+00:00", "+00:01"))
    assert report() == first


def test_a_record_whose_key_is_not_that_of_a_run_is_one_clear_error(root: Path) -> None:
    record = find(root, INDEX)
    assert record is not None
    with pytest.raises(UserError, match=r"index\.record\.json is not a valid record"):
        _ = record.run
