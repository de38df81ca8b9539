"""Result files, and the tables that are made from them, from the MLflow store alone."""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from test_report import RAVDESS, changed, make_params, parse, read_csv, write_clips, write_csv, write_demo, write_fold

from emofuse import report, tracking
from emofuse.errors import UserError
from emofuse.files import sha256
from emofuse.params import Params
from emofuse.report import results, table, tables
from emofuse.tracking import store

GIT = ("params.yaml", "protocols", "literature")
STORE = ("mlflow.db", "mlartifacts")
GROUP = "demo/kfold_3/proposed/seed-1"
OTHER = "demo/random_kfold_3/proposed/seed-1"

Project = tuple[Params, Path]


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """No store of the surroundings, and no wait for a server that is none."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A folder with all that the report of the demo reads, mirrored: two variants, and one with shared actors."""
    root = tmp_path_factory.mktemp("project")
    make_params(root)
    protocols = {"kfold_3": [0, 1, 2], "random_kfold_3": [0, 1, 2]}
    params = changed(root / "params.yaml", {"protocols": protocols, "variants": ["proposed", "cross_entropy"]}, "demo")
    write_demo(root, variants=("proposed", "cross_entropy"))
    clips = [(row["clip"], int(row["actor"]), row["emotion"]) for row in read_csv(root / "data/demo/kfold_3/clips.csv")]
    write_clips(root, "demo", "random_kfold_3", clips, broken=2)
    for fold in range(3):
        write_fold(root, ("demo", "random_kfold_3", "proposed", 1), fold, RAVDESS, clips[2 + fold :: 3], 0.9)
    for protocol in protocols:
        parts: list[dict[str, object]] = [{"fold": 0, "part": "test", "clip": clip} for clip, _, _ in clips]
        write_csv(root / "data" / "demo" / protocol / "folds.csv", parts)
    tried = {"config": "a", "overrides": "{}", "fold": 0, "epochs": 9, "val_war": 0.5, "val_uar": 0.5, "seconds": 7}
    write_csv(root / "results/demo/search.csv", [{**tried, "best": "true"}])
    generator = np.random.default_rng(1)
    for file in root.glob("results/demo/*/*/*/*/metrics.json"):
        metrics = json.loads(file.read_text())
        folds = root / "data" / "demo" / metrics["protocol"] / "folds.csv"
        metrics["fingerprint"] |= {"folds": sha256(folds), "train_stamp": "0" * 64}
        file.write_text(json.dumps(metrics))
        places = generator.normal(0, 1, (metrics["clips"], 12)).astype(np.float32)
        save_file({"embeddings": places}, file.with_name("embeddings.safetensors"))
        (root / "models" / file.parent.relative_to(root / "results")).with_suffix(".safetensors").write_bytes(
            b"weights"
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr("emofuse.report.figures.fold_figures", lambda metrics, history: {})  # they take seconds
        tracking.track("demo", params, root)
    return params, root


def copied(source: Path, target: Path, names: tuple[str, ...] = GIT + STORE) -> Path:
    """What of a project a clone has from git, and the store."""
    target.mkdir(exist_ok=True)
    for name in names:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
        else:
            shutil.copyfile(source / name, target / name)
    return target


@pytest.fixture
def clone(project: Project, tmp_path: Path) -> Path:
    return copied(project[1], tmp_path / "clone")


def files(root: Path) -> dict[str, bytes]:
    """What the report reads, of what is under `root`: content by path."""
    found = {
        str(path.relative_to(root)): path.read_bytes()
        for folder in ("results", "models", "data")
        for path in (root / folder).rglob("*")
        if path.is_file() and not (folder == "models" and path.suffix == ".safetensors")
    }
    found.pop("results/demo/tracked.csv", None)
    return found


def run_of(root: Path, key: str) -> Any:
    client = tracking.open_store(root)
    runs = store.runs(client, client.get_experiment_by_name("emofuse/demo"))
    return next(run for run in runs if store.run_key(run) == key)


# --- what comes back


def tables_of(params: Params, root: Path) -> dict[str, table.Table]:
    read = results.read("demo", params, root)
    return {name: getattr(tables, name)(read) for name in report.TABLES}


def test_tables_from_the_store_alone_are_those_from_the_files(project: Project, clone: Path) -> None:
    params, root = project
    tracking.restore("demo", params, clone)
    made = tables_of(params, clone)
    for name, expected in tables_of(params, root).items():
        assert made[name].csv() == expected.csv(), name
        assert made[name].markdown() == expected.markdown(), name
        assert made[name].latex() == expected.latex(), name
    # They say something: scores, embeddings, training times, the random protocol and the search came along.
    assert {(row["status"], row["folds"], row["seconds"] > "0") for row in parse(made["main"])} == {("run", "3", True)}
    assert {row["status"] for row in parse(made["compactness"])} == {"run"}
    assert float(parse(made["audit"])[1]["war_difference"]) != 0
    assert '"a"' in json.dumps(parse(made["search"]))


def test_every_file_but_the_models_comes_back_as_it_was(project: Project, clone: Path) -> None:
    params, root = project
    tracking.restore("demo", params, clone)
    assert files(clone) == files(root)
    assert not list(clone.glob("models/**/*.safetensors"))


def test_what_was_restored_is_up_to_date(project: Project, clone: Path) -> None:
    params, _ = project
    before = run_of(clone, GROUP).to_dictionary(), run_of(clone, f"{GROUP}/fold-0").to_dictionary()
    tracking.restore("demo", params, clone)
    written = {path: path.stat().st_mtime_ns for path in clone.glob("results/**/*")}
    tracking.restore("demo", params, clone)
    assert {path: path.stat().st_mtime_ns for path in clone.glob("results/**/*")} == written
    tracking.track("demo", params, clone)
    assert (run_of(clone, GROUP).to_dictionary(), run_of(clone, f"{GROUP}/fold-0").to_dictionary()) == before


@settings(max_examples=10)
@given(st.data())
def test_whatever_is_missing_comes_back(project: Project, data: st.DataObject) -> None:
    params, root = project
    lost = data.draw(st.sets(st.sampled_from(sorted(files(root))), min_size=1))
    with tempfile.TemporaryDirectory() as folder:
        here = copied(root, Path(folder), (*STORE, "results", "models", "data"))
        for path in lost:
            (here / path).unlink()
        tracking.restore("demo", params, here)
        assert files(here) == files(root)


def test_folds_that_were_lost_before_the_store_was_brought_up_to_date_stay_lost(
    project: Project, clone: Path, caplog: pytest.LogCaptureFixture
) -> None:
    params, _ = project
    tracking.restore("demo", params, clone)
    gone = [f"results/{GROUP}/fold-1", f"results/{OTHER}"]
    for folder in gone:
        shutil.rmtree(clone / folder)
    expected = files(clone)
    tracking.track("demo", params, clone)
    for folder in ("results", "models", "data"):
        shutil.rmtree(clone / folder)
    tracking.restore("demo", params, clone)
    back = files(clone)
    assert not [path for path in back if path.startswith(tuple(gone))]
    assert back.items() <= expected.items()
    assert "4 folds that params.yaml names are not in the store" in caplog.text


def test_a_store_elsewhere_is_found_by_its_address(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, root = project
    backup = copied(root, tmp_path / "backup", STORE)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{backup}/mlflow.db")
    (tmp_path / "clone").mkdir()
    tracking.restore("demo", params, tmp_path / "clone")
    assert files(tmp_path / "clone") == files(root)
    assert not (tmp_path / "clone" / "mlflow.db").exists()


# --- what does not


def test_a_file_with_another_content_is_named_and_kept(project: Project, clone: Path) -> None:
    params, _ = project
    path = f"results/{GROUP}/fold-2/metrics.json"
    (clone / path).parent.mkdir(parents=True)
    (clone / path).write_text("{}")
    with pytest.raises(UserError, match=f"^{path} is here with another content"):
        tracking.restore("demo", params, clone)
    assert files(clone) == {path: b"{}"}


@settings(max_examples=10)
@given(data=st.data(), fault=st.sampled_from(["missing", "cut", "changed"]))
def test_a_copy_that_is_missing_or_damaged_is_named_and_not_written(
    project: Project, data: st.DataObject, fault: str
) -> None:
    params, root = project
    with tempfile.TemporaryDirectory() as folder:
        here = copied(root, Path(folder), STORE)
        content = files(root)[data.draw(st.sampled_from(sorted(files(root))))]
        names = {path for path, known in files(root).items() if known == content}
        broken = content
        if fault == "cut":
            broken = content[: data.draw(st.integers(0, len(content) - 1))]
        elif fault == "changed":
            place = data.draw(st.integers(0, len(content) - 1))
            broken = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        for copy in here.glob("mlartifacts/*/*/artifacts/*"):
            if copy.read_bytes() == content:  # what runs share, each parent run has
                copy.unlink() if fault == "missing" else copy.write_bytes(broken)
        how = "missing" if fault == "missing" else "damaged"
        with pytest.raises(UserError, match=rf"^({'|'.join(names)}): its copy in the store.* is {how}"):
            tracking.restore("demo", params, here)
        back = files(here)
        assert not names & back.keys()
        assert back.items() <= files(root).items()


def tagged(key: str, tag: str, value: str) -> Callable[[Path], None]:
    return lambda root: tracking.open_store(root).set_tag(run_of(root, key).info.run_id, tag, value)


def deleted(key: str) -> Callable[[Path], None]:
    return lambda root: tracking.open_store(root).delete_run(run_of(root, key).info.run_id)


def unfinished(key: str) -> Callable[[Path], None]:
    return lambda root: tracking.open_store(root).set_terminated(run_of(root, key).info.run_id, "FAILED")


def without_experiment(root: Path) -> None:
    client = tracking.open_store(root)
    client.delete_experiment(client.get_experiment_by_name("emofuse/demo").experiment_id)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (deleted(f"{GROUP}/fold-1"), f"lacks the run {GROUP}/fold-1"),
        (deleted(GROUP), f"has the run {GROUP}/fold-0, but none of {GROUP}:"),
        (unfinished(f"{OTHER}/fold-2"), rf"has the run {OTHER}/fold-2 half written \(FAILED\)"),
        (unfinished(OTHER), rf"has the run {OTHER} half written \(FAILED\)"),
        (tagged(GROUP, "emofuse.layout", "1"), f"has the run {GROUP} in layout 1, .* layout {store.LAYOUT}"),
        (tagged(f"{OTHER}/fold-0", "emofuse.layout", "9"), f"has the run {OTHER}/fold-0 in layout 9"),
        (tagged(f"{GROUP}/fold-0", "emofuse.file.metrics.json", "0" * 64), f"has other folds of {GROUP}"),
        (tagged(GROUP, "emofuse.folds", "0 1"), f"has other folds of {GROUP}"),
        (tagged(OTHER, "emofuse.file.search.csv", "0" * 64), "has results/demo/search.csv in two contents"),
        (without_experiment, "has no fold of demo that params.yaml names"),
    ],
)
def test_a_store_that_is_not_whole_is_one_line_and_nothing_is_written(
    project: Project, clone: Path, fault: Callable[[Path], None], message: str
) -> None:
    params, _ = project
    fault(clone)
    with pytest.raises(
        UserError, match=rf"^sqlite:///.*mlflow.db {message}.*run `emofuse track demo` where the result"
    ):
        tracking.restore("demo", params, clone)
    assert not files(clone)


def test_a_store_without_the_corpus_says_so(project: Project, clone: Path) -> None:
    with pytest.raises(UserError, match=r"has no fold of ravdess .*emofuse track ravdess"):
        tracking.restore("ravdess", project[0], clone)


def test_without_a_store_none_is_made(project: Project, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no store; bring mlflow.db and mlartifacts/ here"):
        tracking.restore("demo", project[0], tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("foreign", ["no database", "another database", "a dead server"])
def test_what_is_no_store_of_ours_is_one_line(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, foreign: str
) -> None:
    database, message = tmp_path / "mlflow.db", r"^sqlite:///.*mlflow.db is not a store of this MLflow"
    if foreign == "no database":
        database.write_text("something else" * 1000)
    elif foreign == "another database":
        with sqlite3.connect(database) as connection:
            connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
            connection.execute("INSERT INTO alembic_version VALUES ('0123456789ab')")
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        message = "^MLflow at http://127.0.0.1:9: .*once it works, run again"
    with pytest.raises(UserError, match=message):
        tracking.restore("demo", project[0], tmp_path)
    assert not files(tmp_path)


def test_a_restore_that_was_stopped_goes_on(
    project: Project, clone: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    params, root = project
    copyfile, copies = shutil.copyfile, []

    def stops(source: Path, target: Path) -> None:
        copies.append(source)
        copyfile(source, target)
        if len(copies) == 20:
            raise KeyboardInterrupt

    monkeypatch.setattr("emofuse.tracking.restoring.shutil.copyfile", stops)
    with pytest.raises(KeyboardInterrupt):
        tracking.restore("demo", params, clone)
    half = files(clone)
    assert len(half) == 19
    # A fold that the report sees is whole.
    for path in half:
        if path.endswith("metrics.json"):
            assert {
                path.replace("metrics.json", "predictions.csv"),
                path.replace("metrics.json", "embeddings.safetensors"),
            } <= half.keys()
    with caplog.at_level(logging.INFO):
        tracking.restore("demo", params, clone)
    assert files(clone) == files(root)
    assert f"{len(files(root)) - 19} files written" in caplog.text
