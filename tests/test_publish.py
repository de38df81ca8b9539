"""Published results: what may be published, how they are compared, and what can be adopted from them."""

from __future__ import annotations

import csv
import json
import logging
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from emofuse import config, paths
from emofuse.config import Params
from emofuse.paths import RunKey
from emofuse.provenance import code, publish
from emofuse.provenance.compare import compare
from emofuse.provenance.freshness import Chain, State
from emofuse.provenance.install import install
from emofuse.provenance.records import Record, content, everything
from emofuse.report import run_files
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_csv, sha256

PROTOCOL = "kfold_3"
PUBLISHED = "results/published/demo"
FOLDS = [RunKey("demo", PROTOCOL, "proposed", seed, fold) for seed in (1, 2) for fold in (0, 1, 2)]
PARAMS: dict[str, Any] = {
    "corpora": {
        "demo": {
            "kind": "demo",
            "title": "demo",
            "demo": {"seed": 1, "actors": 6, "takes": 1},
            "faces": {"detector": "centre", "snippets": 2, "frames": 3, "size": 32},
            "audio": {"bands": 32, "fft": 1024},
            "spectrogram": {"segments": 2, "frames": 32},
            "shards": [0, 1],
            "protocols": {PROTOCOL: [0, 1, 2]},
            "seeds": [1, 2],
            "variants": ["proposed"],
        }
    },
    "paper": ["demo"],
    "variants": {"proposed": {}},
}


def git(root: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True)


def commit(root: Path) -> None:
    git(root, "add", "-A")
    git(root, "commit", "-q", "--allow-empty", "-m", "commit")


def change(root: Path, edit: Callable[[dict[str, Any]], object]) -> Params:
    """Edit params.yaml, commit it, and load it."""
    tree = yaml.safe_load((root / "params.yaml").read_text())
    edit(tree)
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    commit(root)
    return config.load(root / "params.yaml")


def fake(
    root: Path, stage: str, key: dict[str, Any], record: str, inputs: Iterable[str], outputs: dict[str, str]
) -> None:
    """Write what a job would write: outputs with these contents, and the record."""
    params = config.load(root / "params.yaml")
    for path, text in outputs.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    kind = "demo" if "corpus" in key else None
    Record(
        record,
        stage,
        key,
        params.settings(stage, **key),
        code.digest(stage, kind),
        {path: content(root, path) for path in inputs},
        {path: sha256(root / path) for path in outputs},
        details={"kept_epoch": 3},
    ).write(root)


def clips(root: Path) -> None:
    """Download, index, features and splits."""
    download(root)
    raws = [paths.raw("demo", shard) for shard in (0, 1)]
    index = paths.index("demo")
    fake(root, "index", {"corpus": "demo"}, paths.record(index), raws, {index: "clip,sha256\na,1\n"})
    features(root)
    tables = [paths.features("demo", stage, shard)[1] for stage in ("faces", "audio") for shard in (0, 1)]
    clips_csv, folds_csv = paths.splits("demo", PROTOCOL)
    fake(
        root, "splits", {"corpus": "demo", "protocol": PROTOCOL}, paths.splits_record("demo", PROTOCOL), [*tables, index],
        {clips_csv: "clip,group\na,1\n", folds_csv: "fold,part,clip\n0,test,a\n"},
    )  # fmt: skip


def download(root: Path) -> None:
    """The clips of both shards."""
    for shard in (0, 1):
        raw, key = paths.raw("demo", shard), {"corpus": "demo", "shard": shard}
        fake(root, "download", key, paths.raw_record("demo", shard), [], {raw: f"raw {shard}"})


def features(root: Path, mark: str = "") -> None:
    """The features; `mark` changes their bytes."""
    for stage in ("faces", "audio"):
        for shard in (0, 1):
            array, table = paths.features("demo", stage, shard)
            read = [paths.raw("demo", shard), paths.index("demo")]
            fake(
                root, stage, {"corpus": "demo", "shard": shard}, paths.record(array), read,
                {array: f"{stage} {shard}{mark}", table: f"clip,row,box\na,0,{mark}\n"},
            )  # fmt: skip


def train(root: Path, run: RunKey, mark: str = "") -> None:
    """Training and evaluation of a fold."""
    arrays = [file for stage in ("faces", "audio") for shard in (0, 1) for file in paths.features("demo", stage, shard)]
    read = [*arrays, *paths.splits("demo", PROTOCOL)]
    key = run.asdict()
    fake(root, "train", key, run.training_record, read, {run.model: f"model {run}{mark}", run.history: "epoch\n1\n"})
    scored = {
        run.metrics: json.dumps({"fold": run.fold, "mark": mark}),
        run.predictions: f"clip,predicted\na,{mark or 'sad'}\n",
        run.embeddings: f"embeddings {run}{mark}",
    }
    fitted = [run.calibration] if config.load(root / "params.yaml").calibrated_on(run) else []
    for file in fitted:
        fake(
            root, "calibrate", key, run.calibration_record, read, {file: json.dumps({"temperature": 1.5, "mark": mark})}
        )
    fake(root, "evaluate", key, run.evaluation_record, [*read, *run.trained, *fitted], scored)


def report(root: Path, score: float = 0.5) -> None:
    """A report whose main table has one row per seed."""
    params = config.load(root / "params.yaml")
    outputs = dict.fromkeys(paths.report("demo"), "report\n")
    outputs["results/demo/metrics.json"] = "{}"
    outputs |= {path: "variant\nnot run\n" for path in outputs if path.endswith(".csv")}
    rows = [f"{PROTOCOL},proposed,{seed},run,{score + seed / 10}\n" for seed in (1, 2)]
    outputs["results/demo/tables/main.csv"] = "protocol,variant,seed,status,war_mean\n" + "".join(rows)
    inputs = [*run_files(params, "demo", root), *paths.LITERATURE]
    fake(root, "report", {"corpus": "demo"}, paths.record_in("results/demo"), inputs, outputs)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository in which the demo has been run. Copy it; do not change it."""
    root = tmp_path_factory.mktemp("finished")
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    (root / ".gitignore").write_text("/data/\n/models/\n/results/*\n!/results/published/\n")
    for path in (*paths.LITERATURE, "src/code.py"):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text("x\n")
    git(root, "init", "-q")
    commit(root)
    clips(root)
    for run in FOLDS:
        train(root, run)
    (root / "results/demo/search.csv").write_text("config\nbest\n")
    report(root)
    return root


@pytest.fixture
def root(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "repository")


@pytest.fixture
def params(root: Path) -> Params:
    return config.load(root / "params.yaml")


@pytest.fixture(scope="module")
def publication(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same repository, published and committed. Copy it; do not change it."""
    root = shutil.copytree(finished, tmp_path_factory.mktemp("publication") / "repository")
    publish.publish("demo", "first", config.load(root / "params.yaml"), root)
    commit(root)
    return root


@pytest.fixture
def published(publication: Path, tmp_path: Path) -> Path:
    return shutil.copytree(publication, tmp_path / "published")


@pytest.fixture
def clone(published: Path, tmp_path: Path) -> Path:
    """A clone of a published repository, in which nothing has been run."""
    git(published, "clone", "-q", str(published), str(tmp_path / "clone"))
    return tmp_path / "clone"


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(root: Path) -> list[dict[str, str]]:
    return read_csv(root / publish.LOG).to_dict("records") if (root / publish.LOG).is_file() else []


# ── publish ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_publication_has_all_records_and_only_small_files(root: Path, params: Params) -> None:
    folder = publish.publish("demo", "the first run", params, root)
    assert folder == root / PUBLISHED
    assert {record.path for record in everything(folder)} == {record.path for record in everything(root)}
    there = files(folder)
    assert {Path(path).suffix for path in there} == {".json", ".csv", ".md", ".tex"}
    assert not any("/features/" in path for path in there if not path.endswith("record.json"))
    for path in (
        "data/demo/index.csv", *paths.splits("demo", PROTOCOL), FOLDS[0].predictions, FOLDS[0].metrics, FOLDS[0].history,
        "results/demo/tables/main.tex", "results/demo/metrics.json", "results/demo/search.csv",
    ):  # fmt: skip
        assert there[path] == (root / path).read_bytes()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["demo", "test_evaluations.csv"]


def test_each_publication_is_a_row_of_the_log(root: Path, params: Params) -> None:
    publish.publish("demo", "the\nfirst,  run", params, root)
    (row,) = rows(root)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True).stdout
    record = Record.read(root, "results/demo/record.json")
    assert record
    assert (row["corpus"], row["commit"], row["reason"]) == ("demo", head.strip(), "the first, run")
    assert (row["folds"], row["record"]) == ("6", record.hash)
    assert row["covered"] == "kfold_3: proposed, seeds 1–2, folds 0–2"
    report(root, 0.6)
    publish.publish("demo", "another", params, root)
    assert [each["reason"] for each in rows(root)] == ["the first, run", "another"]
    report(root, 0.5)
    publish.publish("demo", "back again", params, root)
    assert [each["reason"] for each in rows(root)] == ["the first, run", "another", "back again"]


def test_publishing_the_same_report_again_changes_nothing(
    published: Path, params: Params, caplog: pytest.LogCaptureFixture
) -> None:
    before = files(published / "results/published")
    with caplog.at_level(logging.INFO):
        publish.publish("demo", "again", params, published)
    assert "already published" in caplog.text
    assert files(published / "results/published") == before


def test_a_damaged_publication_is_repaired_without_a_second_row(published: Path, params: Params) -> None:
    before = files(published / "results/published")
    (published / PUBLISHED / FOLDS[0].metrics).write_text("{}")
    publish.publish("demo", "repaired", params, published)
    assert files(published / "results/published") == before


def test_some_of_the_runs_may_be_published(root: Path, params: Params) -> None:
    for run in FOLDS[2:]:
        shutil.rmtree(root / run.results)
        for path in (*run.trained, run.training_record):
            (root / path).unlink()
    report(root)
    folder = publish.publish("demo", "two folds", params, root)
    (row,) = rows(root)
    assert (row["folds"], row["covered"]) == ("2", "kfold_3: proposed, seeds 1, folds 0–1")
    assert not (folder / FOLDS[2].metrics).exists()
    assert not publish.flaws(folder)


@pytest.mark.parametrize(
    "absent", [paths.raw("demo", 0), paths.features("demo", "faces", 0)[0], FOLDS[0].model, FOLDS[0].embeddings]
)
def test_files_that_are_not_published_may_be_absent(root: Path, params: Params, absent: str) -> None:
    (root / absent).unlink()
    publish.publish("demo", "from a clone", params, root)


def is_refused(root: Path, *words: str, why: str = "a reason") -> None:
    """Assert that publishing fails with one line that has these words, and writes nothing."""
    with pytest.raises(UserError) as caught:
        publish.publish("demo", why, config.load(root / "params.yaml"), root)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message
    assert not (root / "results/published").exists()


def test_a_reason_is_required(root: Path) -> None:
    is_refused(root, "--why", why=" \n")


def test_a_missing_report_is_not_published(root: Path) -> None:
    (root / "results/demo/record.json").unlink()
    is_refused(root, "no report", "snakemake demo")


def test_a_report_without_folds_is_not_published(root: Path) -> None:
    for run in FOLDS:
        shutil.rmtree(root / run.results)
    report(root)
    is_refused(root, "no evaluated fold")


def test_a_report_older_than_its_folds_is_not_published(root: Path) -> None:
    shutil.move(root / FOLDS[0].results, root / "aside")
    report(root)
    shutil.move(root / "aside", root / FOLDS[0].results)
    is_refused(root, str(FOLDS[0]), "does not include it", "snakemake demo")


@pytest.mark.parametrize(
    "path",
    [
        FOLDS[0].predictions, FOLDS[0].model, FOLDS[0].history, "results/demo/tables/main.csv", "data/demo/index.csv",
        paths.raw("demo", 1), paths.features("demo", "audio", 0)[0],
    ],
)  # fmt: skip
def test_corrupted_files_are_not_published(root: Path, path: str) -> None:
    (root / path).write_text("other")
    is_refused(root, "corrupted", path, "snakemake demo")


def test_stale_results_are_not_published(root: Path) -> None:
    change(root, lambda tree: tree["corpora"]["demo"].update(training={"epochs": 7}))
    is_refused(root, "stale", "training.epochs", "snakemake demo")


def test_results_of_other_code_are_not_published(root: Path) -> None:
    record = Record.read(root, paths.record(paths.index("demo")))
    assert record
    replace(record, code="other").write(root)
    is_refused(root, "stale", "emofuse index demo", "other code")


@pytest.mark.parametrize("path", [FOLDS[0].history, "results/demo/figures/../tables/main.md", paths.index("demo")])
def test_missing_files_are_not_published(root: Path, path: str) -> None:
    (root / path).unlink()
    is_refused(root, Path(path).name, "missing", "dvc pull")


@pytest.mark.parametrize("path", [paths.record(paths.features("demo", "faces", 0)[0]), paths.raw_record("demo", 0)])
def test_the_chain_must_be_complete(root: Path, path: str) -> None:
    record = Record.read(root, path)
    assert record
    for file in (path, *record.outputs):
        (root / file).unlink()
    is_refused(root, "and its record are absent")


@pytest.mark.parametrize("path", ["src/code.py", "src/new.py", "params.yaml", "literature/paper.csv"])
def test_results_of_uncommitted_code_are_not_published(root: Path, path: str) -> None:
    with (root / path).open("a") as stream:
        stream.write("# changed\n")
    if path.startswith("literature"):
        report(root)
    is_refused(root, "uncommitted", "commit")


def test_publishing_requires_git(root: Path) -> None:
    shutil.rmtree(root / ".git")
    is_refused(root, "git repository")


@pytest.mark.parametrize("failing", ["copyfile", "rename"])
def test_a_failure_keeps_the_old_publication(
    published: Path, params: Params, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files(published / "results/published")
    report(published, 0.7)
    calls = 0

    def fail(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    owner, name = (shutil, "copyfile") if failing == "copyfile" else (Path, "rename")
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, fail)
    with pytest.raises(KeyboardInterrupt):
        publish.publish("demo", "interrupted", params, published)
    monkeypatch.undo()
    assert files(published / "results/published") == before


def test_a_kill_between_the_renames_loses_nothing(published: Path, params: Params) -> None:
    report(published, 0.7)
    folder = published / PUBLISHED
    before = files(folder)
    folder.rename(folder.with_name(".demo.old"))
    shutil.copytree(folder.with_name(".demo.old"), folder.with_name(".demo.new"))
    (published / FOLDS[0].history).unlink()
    with pytest.raises(UserError):
        publish.publish("demo", "refused", params, published)
    assert files(folder.with_name(".demo.old")) == before
    train(published, FOLDS[0])
    publish.publish("demo", "afterwards", params, published)
    assert sorted(path.name for path in folder.parent.iterdir()) == ["demo", "test_evaluations.csv"]
    assert [row["reason"] for row in rows(published)] == ["first", "afterwards"]


def test_a_publication_without_its_row_gets_one(published: Path, params: Params) -> None:
    (published / publish.LOG).unlink()
    with pytest.raises(UserError, match="no row"):
        list(publish.check("demo", params, published))
    publish.publish("demo", "killed before the log", params, published)
    assert [row["reason"] for row in rows(published)] == ["killed before the log"]


# ── check ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_intact_publication_is_up_to_date(clone: Path, params: Params) -> None:
    assert list(publish.check("demo", params, clone)) == [f"{PUBLISHED}: intact, up to date"]


def test_without_a_publication_there_is_nothing_to_check(root: Path, params: Params) -> None:
    assert not list(publish.check("demo", params, root))


def test_results_of_an_older_commit_are_not_an_error(clone: Path) -> None:
    commit_of_results = rows(clone)[0]["commit"]
    params = change(clone, lambda tree: tree["corpora"]["demo"].update(training={"epochs": 7}))
    (line,) = publish.check("demo", params, clone)
    assert f"produced by commit {commit_of_results[:12]}" in line
    assert line.endswith("changed since then: calibrate, train, report")


def test_changed_literature_changes_the_report(clone: Path, params: Params) -> None:
    (clone / "literature/paper.csv").write_text("y\n")
    (line,) = publish.check("demo", params, clone)
    assert line.endswith("changed since then: report")


def test_a_removed_corpus_is_not_an_error(clone: Path) -> None:
    other = {**PARAMS["corpora"]["demo"]}
    params = change(clone, lambda tree: tree.update(corpora={"other": other}, paper=["other"]))
    (line,) = publish.check("demo", params, clone)
    assert "produced by commit" in line


def overwrite(folder: Path, path: str) -> None:
    (folder / path).write_text("clip,predicted\na,happy\n")


def edit_settings(folder: Path, path: str) -> None:
    text = (folder / path).read_text()
    (folder / path).write_text(text.replace('"epochs": 30', '"epochs": 60'))


def remove(folder: Path, path: str) -> None:
    (folder / path).unlink()


@pytest.mark.parametrize(
    ("damage", "path"),
    [
        (overwrite, FOLDS[0].predictions),
        (overwrite, "results/demo/tables/main.csv"),
        (overwrite, "data/demo/index.csv"),
        (overwrite, "results/demo/extra.csv"),
        (edit_settings, FOLDS[0].training_record),
        (remove, FOLDS[0].history),
        (remove, FOLDS[0].training_record),
        (remove, FOLDS[0].evaluation_record),
        (remove, paths.record(paths.features("demo", "audio", 1)[0])),
        (remove, paths.record(paths.index("demo"))),
        (remove, paths.splits_record("demo", PROTOCOL)),
        (remove, paths.raw_record("demo", 0)),
        (remove, "results/demo/record.json"),
    ],
)
def test_a_tampered_publication_is_detected(
    clone: Path, params: Params, damage: Callable[[Path, str], None], path: str
) -> None:
    damage(clone / PUBLISHED, path)
    with pytest.raises(UserError, match="git checkout"):
        list(publish.check("demo", params, clone))
    with pytest.raises(UserError, match="git checkout"):
        install(Path(PUBLISHED), params, clone)
    assert not (clone / "models").exists()


# ── compare ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def table(root: Path, *rows: dict[str, Any], name: str = "main") -> None:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with (root / f"results/demo/tables/{name}.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def compared(root: Path, name: str = "main") -> tuple[list[str], bool]:
    lines, agree = compare("demo", config.load(root / "params.yaml"), root)
    return [line.removeprefix(f"{name}: ") for line in lines if line.startswith(f"{name}: ")], agree


ROW = {"protocol": PROTOCOL, "variant": "proposed", "seed": 1, "status": "run", "war_mean": 0.6}
SECOND = {**ROW, "seed": 2, "war_mean": 0.7}


def test_the_same_tables_agree(published: Path) -> None:
    lines, agree = compare("demo", config.load(published / "params.yaml"), published)
    assert agree
    assert lines[0] == "main: identical, 10 cells"
    assert len(lines) == len(paths.TABLES)


def test_numbers_are_compared_as_numbers(published: Path) -> None:
    table(published, ROW | {"war_mean": "0.60"}, SECOND)
    assert compared(published) == (["identical, 10 cells"], True)


def test_the_largest_difference_is_reported(published: Path) -> None:
    table(published, ROW | {"war_mean": 0.61}, SECOND | {"war_mean": 0.65})
    lines, agree = compared(published)
    assert not agree
    assert lines == [
        "2 of 10 cells differ, by up to 0.05 (kfold_3, proposed, seed 2: war_mean: 0.65 local, 0.7 published)"
    ]


def test_rows_are_matched_by_their_keys(published: Path) -> None:
    table(published, SECOND, ROW)
    assert compared(published)[1]


def test_rows_and_cells_of_one_side_are_reported(published: Path) -> None:
    table(published, ROW | {"war_mean": "", "extra": 3}, ROW | {"seed": 7, "extra": ""})
    lines, agree = compared(published)
    assert not agree
    assert lines == [
        "1 rows only local: kfold_3, proposed, seed 7",
        "1 cells only local: kfold_3, proposed, seed 1: extra",
        "1 rows only published: kfold_3, proposed, seed 2",
        "1 cells only published: kfold_3, proposed, seed 1: war_mean",
    ]


def test_runs_that_were_not_run_are_left_out(published: Path) -> None:
    table(published, ROW, SECOND | {"status": "not run", "war_mean": ""})
    assert compared(published) == (["1 rows only published: kfold_3, proposed, seed 2"], False)


def test_texts_that_differ_are_reported(published: Path) -> None:
    table(published, ROW | {"status": "incomplete"}, SECOND)
    lines, agree = compared(published)
    assert not agree
    assert lines == [
        "1 of 10 cells differ in text (kfold_3, proposed, seed 1: status: incomplete local, run published)"
    ]


def test_tables_of_older_code_with_a_row_for_each_seed_are_one_line(published: Path) -> None:
    table(published, {"protocol": "kfold_3", "variant": "proposed", "seeds": 2, "war_mean": 0.65})
    assert compared(published) == (
        ["not compared: the published table is from older code, with a row for each seed"],
        False,
    )


def test_rows_with_equal_names_are_compared_in_order(published: Path) -> None:
    for root in (published, published / PUBLISHED):
        table(root, {"method": "x", "war": 1}, {"method": "x", "war": 2}, name="literature")
    assert compared(published, "literature")[0] == ["identical, 4 cells"]
    table(published, {"method": "x", "war": 1}, {"method": "x", "war": 3}, name="literature")
    assert compared(published, "literature")[0] == [
        "1 of 4 cells differ, by up to 1 (x (2): war: 3 local, 2 published)"
    ]


def test_rows_whose_embeddings_one_side_lacks_are_not_compared(published: Path) -> None:
    measured = {"protocol": PROTOCOL, "variant": "proposed", "status": "run", "intra_mean": 0.5}
    without = measured | {"status": "embeddings missing", "intra_mean": ""}
    other = measured | {"variant": "cross_entropy"}
    table(published, without, name="compactness")
    table(published / PUBLISHED, measured, name="compactness")
    note = "1 rows not compared, because one side has no embeddings"
    assert compared(published, "compactness") == ([note], True)
    table(published, without, other, name="compactness")
    table(published / PUBLISHED, measured, other, name="compactness")
    assert compared(published, "compactness") == ([note, "identical, 4 cells"], True)
    table(published, without, other | {"intra_mean": 0.6}, name="compactness")
    assert not compared(published, "compactness")[1]


def test_a_table_of_one_side_is_reported(published: Path) -> None:
    (published / "results/demo/tables/audit.csv").unlink()
    assert compared(published, "audit") == (["only published"], False)


def test_comparing_requires_both_sides(root: Path, clone: Path, params: Params) -> None:
    with pytest.raises(UserError, match=r"nothing is published; `emofuse publish demo --why"):
        compare("demo", params, root)
    with pytest.raises(UserError, match=r"there are no local results; run `snakemake demo --cores 8`"):
        compare("demo", params, clone)


# ── install ──────────────────────────────────────────────────────────────────────────────────────────────────────────

SOURCE = Path(PUBLISHED)


def records_of(*runs: RunKey) -> set[str]:
    """The records of some folds; those with the first seed are calibrated."""
    calibrated = {run.calibration_record for run in runs if run.seed == 1}
    return calibrated | {record for run in runs for record in (run.training_record, run.evaluation_record)}


RECORDS = sorted(records_of(*FOLDS))


def states(root: Path, stage: str = "evaluate") -> set[State]:
    chain = Chain(config.load(root / "params.yaml"), root)
    return {chain.whole(record).state for record in chain.records if record.stage == stage}


def test_a_fresh_clone_adopts_all_folds_with_everything_upstream(clone: Path, params: Params) -> None:
    assert install(SOURCE, params, clone) == RECORDS
    for run in FOLDS:
        for path in (run.metrics, run.predictions, run.history):
            assert (clone / path).read_bytes() == (clone / PUBLISHED / path).read_bytes()
        assert not (clone / run.model).exists()
    assert (clone / "data/demo/index.csv").is_file()
    assert states(clone) == {State.UNCHECKABLE}  # clips and features are absent
    chain = Chain(params, clone)
    assert {chain.lineage(record).state for record in chain.records} == {State.VERIFIED}
    assert {record.stage for record in chain.records} == {
        "download",
        "index",
        "faces",
        "audio",
        "splits",
        "train",
        "calibrate",
        "evaluate",
    }
    for record in chain.records:
        original = Record.read(clone / PUBLISHED, record.path)
        assert original
        assert record.hash == original.hash
        assert record.details == {**original.details, "adopted": {"from": PUBLISHED}}


def test_folds_are_adopted_onto_the_clips_and_features_of_another_machine(clone: Path, params: Params) -> None:
    clips(clone)
    before = files(clone / "data")
    assert install(SOURCE, params, clone) == RECORDS
    assert files(clone / "data") == before
    assert states(clone) == {State.VERIFIED}


def test_features_may_differ_by_rounding(clone: Path, params: Params, caplog: pytest.LogCaptureFixture) -> None:
    clips(clone)
    features(clone, " rounded")
    fake_splits = Record.read(clone, paths.splits_record("demo", PROTOCOL))
    assert fake_splits
    tables = {path: sha256(clone / path) for path in fake_splits.inputs}
    replace(fake_splits, inputs=tables).write(clone)
    with caplog.at_level(logging.INFO):
        assert install(SOURCE, params, clone) == RECORDS
    assert "accepted" in caplog.text
    assert states(clone) == {State.VERIFIED}
    record = Record.read(clone, FOLDS[0].training_record)
    original = Record.read(clone / PUBLISHED, FOLDS[0].training_record)
    assert record
    assert original
    assert record.hash == original.hash
    assert record.details["accepted"] == {
        path: sha256(clone / path)
        for stage in ("faces", "audio")
        for shard in (0, 1)
        for path in paths.features("demo", stage, shard)
    }


def test_features_computed_after_adopting_are_accepted_when_adopting_again(clone: Path, params: Params) -> None:
    install(SOURCE, params, clone)
    download(clone)
    features(clone, " rounded")
    assert State.STALE in states(clone)
    assert install(SOURCE, params, clone) == RECORDS
    assert states(clone) == {State.VERIFIED}


def test_adopting_twice_changes_nothing(clone: Path, params: Params) -> None:
    install(SOURCE, params, clone)
    before = files(clone / "models") | files(clone / "results")
    assert install(SOURCE, params, clone) == []
    assert files(clone / "models") | files(clone / "results") == before
    shutil.rmtree(clone / FOLDS[0].results)
    assert install(SOURCE, params, clone) == sorted(records_of(FOLDS[0]))


def test_folds_trained_here_are_left_alone(clone: Path, params: Params) -> None:
    clips(clone)
    train(clone, FOLDS[0], "own")
    train(clone, FOLDS[1], "own")
    (clone / FOLDS[1].evaluation_record).unlink()  # evaluating again takes seconds
    own = files(clone / "models")
    left = records_of(*FOLDS[:2])
    assert install(SOURCE, params, clone) == sorted(set(RECORDS) - left)
    assert own.items() <= files(clone / "models").items()


def test_an_invalid_local_fold_is_replaced(clone: Path, params: Params) -> None:
    clips(clone)
    train(clone, FOLDS[0], "own")
    (clone / FOLDS[0].history).write_text("corrupted")
    assert install(SOURCE, params, clone) == RECORDS
    assert not (clone / FOLDS[0].model).exists()
    assert states(clone) == {State.VERIFIED}


def test_folds_with_other_settings_are_not_adopted(clone: Path, caplog: pytest.LogCaptureFixture) -> None:
    params = change(clone, lambda tree: tree["corpora"]["demo"].update(training={"epochs": 7}))
    assert install(SOURCE, params, clone) == []
    (message,) = caplog.messages
    assert "6 folds not adopted: `emofuse train` ran with training.epochs 30; params.yaml has 7" in message
    assert not (clone / "data").exists()


def test_folds_outside_params_yaml_are_not_adopted(clone: Path, caplog: pytest.LogCaptureFixture) -> None:
    params = change(clone, lambda tree: tree["corpora"]["demo"].update(seeds=[1, 3]))
    wanted = [record for record in RECORDS if "seed-1" in record]
    assert install(SOURCE, params, clone) == wanted
    (message,) = caplog.messages
    assert "3 folds not adopted: params.yaml no longer includes" in message
    assert "no seed 2" in message


def test_a_new_variant_leaves_the_published_ones_valid(clone: Path) -> None:
    def add(tree: dict[str, Any]) -> None:
        tree["variants"]["plain"] = {"loss": {"metric": "none"}}
        tree["corpora"]["demo"]["variants"] = ["proposed", "plain"]

    assert install(SOURCE, change(clone, add), clone) == RECORDS


@pytest.mark.parametrize("stage", ["train", "evaluate", "faces", "splits", "download"])
def test_folds_of_other_code_are_not_adopted(
    clone: Path, params: Params, stage: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    current = code.digest
    monkeypatch.setattr(code, "digest", lambda name, *of: "other" if name == stage else current(name, *of))
    assert install(SOURCE, params, clone) == []
    (message,) = caplog.messages
    assert f"6 folds not adopted: `emofuse {stage}` ran with other code" in message


def test_folds_of_other_features_are_not_adopted(clone: Path, caplog: pytest.LogCaptureFixture) -> None:
    params = change(clone, lambda tree: tree["corpora"]["demo"]["audio"].update(hop_ms=8.0))
    clips(clone)
    features(clone, " of other windows")
    assert install(SOURCE, params, clone) == []
    (message,) = caplog.messages
    assert "6 folds not adopted: `emofuse audio` ran with audio.hop_ms 10.0; params.yaml has 8.0" in message


def test_folds_of_other_clips_are_not_adopted(clone: Path, params: Params, caplog: pytest.LogCaptureFixture) -> None:
    clips(clone)
    for path in (paths.record(paths.index("demo")), paths.splits_record("demo", PROTOCOL)):
        record = Record.read(clone, path)
        assert record
        for output in record.outputs:
            (clone / output).write_text("clip,group\na,2\n")
        inputs = {file: content(clone, file) for file in record.inputs}
        replace(record, inputs=inputs, outputs={file: sha256(clone / file) for file in record.outputs}).write(clone)
    features(clone)
    tables = Record.read(clone, paths.splits_record("demo", PROTOCOL))
    assert tables
    replace(tables, inputs={file: content(clone, file) for file in tables.inputs}).write(clone)
    assert install(SOURCE, params, clone) == []
    (message,) = caplog.messages
    assert f"6 folds not adopted: {paths.splits('demo', PROTOCOL)[0]} differs from the published one" in message


def test_folds_are_not_adopted_onto_stale_splits(clone: Path, caplog: pytest.LogCaptureFixture) -> None:
    clips(clone)
    params = change(clone, lambda tree: tree["corpora"]["demo"].update(split_seed=5))
    assert install(SOURCE, params, clone) == []
    (message,) = caplog.messages
    assert "split_seed" in message


def test_a_file_without_a_record_is_not_adopted(clone: Path, params: Params, caplog: pytest.LogCaptureFixture) -> None:
    array = paths.features("demo", "faces", 0)[0]
    (clone / array).parent.mkdir(parents=True)
    (clone / array).write_text("something")
    assert install(SOURCE, params, clone) == []
    assert f"{array} differs from the published file and has no record: delete it" in caplog.text
    assert (clone / array).read_text() == "something"


def test_adopted_results_can_be_published_and_adopted_again(clone: Path, tmp_path: Path) -> None:
    """A second machine, with its own features, adds a variant; a third adopts both."""

    def add(tree: dict[str, Any]) -> None:
        tree["variants"]["plain"] = {"loss": {"metric": "none"}}
        tree["corpora"]["demo"]["variants"] = ["proposed", "plain"]

    params = change(clone, add)
    install(SOURCE, params, clone)
    third = tmp_path / "third"
    download(clone)
    features(clone, " rounded")
    install(SOURCE, params, clone)
    train(clone, RunKey("demo", PROTOCOL, "plain", 1, 0))
    report(clone)
    publish.publish("demo", "another variant", params, clone)
    commit(clone)
    assert [row["folds"] for row in rows(clone)] == ["6", "7"]
    git(clone, "clone", "-q", str(clone), str(third))
    assert len(install(SOURCE, params, third)) == 17
    chain = Chain(params, third)
    assert {chain.lineage(record).state for record in chain.records} == {State.VERIFIED}


@pytest.mark.parametrize("source", ["results/published/other", "literature"])
def test_a_folder_that_is_not_a_publication_is_refused(clone: Path, params: Params, source: str) -> None:
    with pytest.raises(UserError, match="not a folder of published results"):
        install(Path(source), params, clone)
