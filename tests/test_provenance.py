"""Fingerprints: what is told to be verified, stale or not checkable, and what is done about it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from test_report import RAVDESS, make_params, read_csv, write_clips, write_csv, write_fold

from emofuse import cli, fingerprints, graph, provenance, report, stamps, trace, tracking, verify
from emofuse import params as parameters
from emofuse.errors import UserError
from emofuse.files import sha256
from emofuse.graph import Job
from emofuse.params import Params
from emofuse.provenance import NOT_RUN, STALE, UNCHECKABLE, VERIFIED, Chain, Hashes

VARIANTS = ("proposed", "cross_entropy", "triplet")
PROTOCOLS = {"kfold_3": [0, 1], "random_kfold_3": [0, 1]}
MODEL = "models/demo/kfold_3/proposed/seed-1/fold-0.safetensors"
OTHER_MODEL = "models/demo/kfold_3/proposed/seed-1/fold-1.safetensors"
PREDICTIONS = "results/demo/kfold_3/proposed/seed-1/fold-0/predictions.csv"
TABLES = "results/demo/tables"
TICK = 0.03  # s: two writes of a file within less may have the same times

Project = tuple[Params, Path]


# --- a project that has been run


def edit(root: Path, values: dict[str, Any] | None = None) -> Params:
    """Set values of params.yaml by their paths."""
    tree = yaml.safe_load((root / "params.yaml").read_text())
    for path, value in (values or {}).items():
        *parents, last = path.split(".")
        place = tree
        for key in parents:
            place = place.setdefault(key, {})
        place[last] = value
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    return parameters.load(root / "params.yaml")


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def leave_results(root: Path) -> None:
    """What the stages that are not faked leave: splits, histories, predictions and embeddings."""
    clips = [
        (f"demo-{actor:02}-{emotion}-{take}", actor, emotion)
        for actor in range(1, 7)
        for emotion in RAVDESS
        for take in (1, 2)
    ]
    generator = np.random.default_rng(1)
    for protocol in PROTOCOLS:
        write_clips(root, "demo", protocol, clips)
        rows: list[dict[str, object]] = [{"fold": 0, "part": "test", "clip": clip} for clip, _, _ in clips]
        write_csv(root / "data" / "demo" / protocol / "folds.csv", rows)
        for variant in VARIANTS if protocol == "kfold_3" else VARIANTS[:1]:
            for fold in PROTOCOLS[protocol]:
                test = [clip for clip in clips if (clip[1] - 1) // 2 == fold]
                accuracy = 0.9 - 0.2 * VARIANTS.index(variant)
                write_fold(root, ("demo", protocol, variant, 1), fold, RAVDESS, test, accuracy, epochs=6)
    for file in root.glob("results/demo/*/*/*/*/metrics.json"):
        places = generator.normal(0, 1, (json.loads(file.read_text())["clips"], 6)).astype(np.float32)
        save_file({"embeddings": places}, file.with_name("embeddings.safetensors"))


def run(job: Job, params: Params, root: Path, made: Callable[[str], bytes]) -> None:
    """Do as the command line does, with a stage that writes the content `made` gives each of its outputs."""
    with provenance.recorded(job, params, root):
        for path in job.outputs:
            write(root / path, made(path))


def all_jobs(params: Params) -> list[Job]:
    """Those that the project has been through."""
    return [*graph.of_corpus(params, "demo"), list(graph.jobs(params))[-1]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of two corpora, of which the demo and the paper have been run. Not to be changed."""
    root, results = tmp_path_factory.mktemp("finished"), tmp_path_factory.mktemp("results")
    make_params(root)
    tree = yaml.safe_load((root / "params.yaml").read_text())
    tree["corpora"] = {name: tree["corpora"][name] for name in ("demo", "ravdess_audio")}
    tree["corpora"]["demo"] |= {"shards": [0, 1], "protocols": PROTOCOLS, "variants": list(VARIANTS)}
    tree |= {"paper": ["demo"], "loss": {"margin": 0.2}, "network": {"audio": {"weights": "resnet18"}}}
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    params = parameters.load(root / "params.yaml")
    stamps.write("demo", params, root)
    for path in graph.pretrained(params, "demo"):
        write(root / path, b"weights")
    leave_results(results)

    def made(path: str) -> bytes:
        if path.startswith(f"{TABLES}/"):
            file = Path(path)
            return getattr(tables[file.stem], writers[file.suffix])().encode()
        return (results / path).read_bytes() if (results / path).is_file() else f"the content of {path}".encode()

    writers = {".md": "markdown", ".csv": "csv", ".tex": "latex"}
    for job in all_jobs(params):
        tables = report.compute("demo", params, root)[1] if job.stage == "report" else {}
        run(job, params, root, made)
    return root


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A copy of it, which is the working directory."""
    root = tmp_path / "project"
    shutil.copytree(finished, root)
    monkeypatch.chdir(root)
    return parameters.load(root / "params.yaml"), root


# --- what is asked of it


def job_of(params: Params, text: str) -> Job:
    return next(job for job in all_jobs(params) if str(job) == text)


def states(params: Params, root: Path, how: str) -> dict[str, str]:
    """Job → its own state, or that of its whole chain."""
    chain = Chain(params, root)
    return {str(job): getattr(chain, how)(job).state for job in all_jobs(params)}


def those(params: Params, root: Path, how: str = "own", state: str = STALE) -> set[str]:
    return {job for job, found in states(params, root, how).items() if found == state}


def reasons(params: Params, root: Path, job: str, how: str = "own") -> str:
    return "\n".join(getattr(Chain(params, root), how)(job_of(params, job)).reasons)


def numbers(params: Params, root: Path) -> Counter[str]:
    """How many numbers of the tables are in which state."""
    total: Counter[str] = Counter()
    for row in verify.corpus("demo", Chain(params, root)):
        total.update(row.cells)
    return total


def by_row(params: Params, root: Path) -> dict[tuple[str, frozenset[str]], dict[str, int]]:
    """The same, row by row: table and words of the row."""
    return {
        (row.table, frozenset(row.name.split(", "))): dict(row.cells)
        for row in verify.corpus("demo", Chain(params, root))
    }


def everything_is_verified(params: Params, root: Path) -> None:
    assert set(states(params, root, "own").values()) == {VERIFIED}
    assert set(states(params, root, "whole").values()) == {VERIFIED}


def command(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], list[str]]:
    """Exit status, lines of stdout and lines of stderr of an `emofuse` command."""
    capsys.readouterr()
    status = cli.main(list(arguments))
    printed = capsys.readouterr()
    return status, printed.out.splitlines(), printed.err.splitlines()


def folds(stage: str, variant: str = "", protocol: str = "") -> set[str]:
    """The jobs of a stage that has one a fold."""
    return {
        f"{stage} demo {under} {name} 1 {fold}"
        for under in PROTOCOLS
        for name in (VARIANTS if under == "kfold_3" else VARIANTS[:1])
        for fold in PROTOCOLS[under]
        if variant in ("", name) and protocol in ("", under)
    }


def shards(*stages: str) -> set[str]:
    return {f"{stage} demo {shard}" for stage in stages for shard in (0, 1)}


FOLDS = folds("train") | folds("evaluate")
SPLITS = {f"splits demo {protocol}" for protocol in PROTOCOLS}
LAST = {"track demo", "report demo", "paper"}
BEFORE = shards("download", "faces", "audio") | {"index demo"}


# --- verified, stale and not checkable


def test_what_has_just_run_is_verified(project: Project) -> None:
    everything_is_verified(*project)
    found = numbers(*project)
    assert set(found) == {VERIFIED}
    assert found.total() > 100


def test_each_fingerprint_says_what_the_job_was_made_from(project: Project) -> None:
    params, root = project
    made = json.loads((root / "provenance/demo/train/kfold_3/triplet/seed-1/fold-1.json").read_text())
    assert made["command"] == "emofuse train demo kfold_3 triplet 1 1"
    assert made["inputs"]["data/demo/kfold_3/folds.csv"] == sha256(root / "data/demo/kfold_3/folds.csv")
    assert made["outputs"] == {
        path: sha256(root / path) for path in job_of(params, "train demo kfold_3 triplet 1 1").outputs
    }
    assert made["stamps"] == {
        "stamps/demo/train-triplet.json": json.loads((root / "stamps/demo/train-triplet.json").read_text())
    }


@pytest.mark.parametrize(
    ("values", "own", "rows", "reason"),
    [
        (
            {"loss.margin": 0.3},
            FOLDS | {"report demo", "paper"},
            "demo",
            "`emofuse train demo kfold_3 proposed 1 0` ran with loss.margin 0.2, params.yaml says 0.3",
        ),
        (
            {"variants.cross_entropy.training": {"epochs": 7}},
            folds("train", "cross_entropy") | folds("evaluate", "cross_entropy") | {"report demo", "paper"},
            "cross_entropy",
            "`emofuse train demo kfold_3 cross_entropy 1 1` ran with training.epochs 30, params.yaml says 7",
        ),
        (
            {"corpora.demo.audio.bands": 24},
            shards("audio") | {"report demo", "paper"},
            "demo",
            "`emofuse audio demo 1` ran with audio.bands 16, params.yaml says 24",
        ),
        (
            {"corpora.demo.validation_actors": 3},
            SPLITS | {"report demo", "paper"},
            "demo",
            "`emofuse splits demo kfold_3` ran with validation_actors 4, params.yaml says 3",
        ),
        (
            {"corpora.demo.demo.seed": 99},
            shards("download") | {"index demo", "report demo", "paper"},
            "demo",
            ", params.yaml says 99",
        ),
        (
            {"corpora.demo.title": "Another"},
            {"report demo", "paper"},
            "",
            '`emofuse report demo` ran with title "demo, made faces and voices", params.yaml says "Another"',
        ),
        ({"corpora.demo.source": "/elsewhere"}, set(), "", ""),
        ({"corpora.ravdess_audio.audio": {"bands": 24, "segments": 3, "frames": 16}}, set(), "", ""),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_changed_parameter_makes_stale_what_depends_on_it(
    project: Project, values: dict[str, Any], own: set[str], rows: str, reason: str
) -> None:
    _, root = project
    before = (root / "params.yaml").read_text()
    params = edit(root, values)
    assert those(params, root) == own
    found = verify.corpus("demo", Chain(params, root))
    concerned = [row for row in found if rows and (rows == "demo" or rows in row.name.split(", "))]
    assert all(set(row.cells) == {STALE} for row in concerned)
    if rows == "demo":
        assert concerned == found
    elif rows:
        assert {row.table for row in concerned} == {"main", "loss", "compactness", "recall", "calibration", "folds"}
    # Another variant's p of the same table is corrected for all of them.
    others = [row for row in found if row not in concerned and not (rows and row.table == "loss")]
    assert all(set(row.cells) == {VERIFIED} for row in others)
    if reason:
        assert reason in "\n".join(reasons(params, root, job) for job in own)
    if concerned:
        assert reason in "\n".join(line for row in concerned for line in row.reasons)
    (root / "params.yaml").write_text(before)
    everything_is_verified(parameters.load(root / "params.yaml"), root)


def test_what_depends_on_a_stale_job_is_stale_as_a_whole(project: Project) -> None:
    _, root = project
    params = edit(root, {"corpora.demo.audio.bands": 24})
    assert those(params, root, "whole") == shards("audio") | SPLITS | FOLDS | LAST
    assert "audio.bands 16, params.yaml says 24" in reasons(params, root, "evaluate demo kfold_3 triplet 1 1", "whole")


@pytest.mark.parametrize(
    ("stage", "own"),
    [
        ("audio", shards("audio")),
        ("train", FOLDS),  # an evaluation is of a model by that very code
        ("evaluate", folds("evaluate")),
        ("splits", SPLITS),
        ("report", {"report demo", "paper"}),
    ],
)
def test_changed_code_makes_its_stage_stale(
    project: Project, monkeypatch: pytest.MonkeyPatch, stage: str, own: set[str]
) -> None:
    code = stamps.code
    monkeypatch.setattr(stamps, "code", lambda name, kind: "0" * 64 if name == stage else code(name, kind))
    assert those(*project) == own
    first = min(own)
    assert f"`emofuse {first}` ran with other code than it has now" in reasons(*project, first)
    assert STALE in numbers(*project) or stage == "report"
    monkeypatch.undo()
    everything_is_verified(*project)


@pytest.mark.parametrize(
    ("path", "own", "number"),
    [
        ("data/demo/raw/shard-1.zip", {"download demo 1", "index demo", "faces demo 1", "audio demo 1"}, "all"),
        ("data/demo/index.csv", {"index demo"} | shards("faces", "audio") | SPLITS, "all"),
        ("data/demo/audio/shard-0.npy", {"audio demo 0"} | SPLITS | FOLDS, "all"),
        (
            "data/demo/random_kfold_3/folds.csv",
            {
                "splits demo random_kfold_3", "track demo", "report demo", "paper",
                *folds("train", protocol="random_kfold_3"), *folds("evaluate", protocol="random_kfold_3"),
            },
            "some",
        ),
        (MODEL, {"train demo kfold_3 proposed 1 0", "evaluate demo kfold_3 proposed 1 0", *LAST}, "some"),
        (MODEL.replace(".safetensors", ".json"), {"train demo kfold_3 proposed 1 0", *LAST}, "some"),
        (PREDICTIONS, {"evaluate demo kfold_3 proposed 1 0", *LAST}, "some"),
        ("literature/published.csv", {"report demo", "paper"}, "none"),
        (f"{TABLES}/main.tex", {"report demo"}, "some"),
        ("results/demo/tracked.csv", {"track demo"}, "none"),
        ("results/paper.md", {"paper"}, "none"),
    ],
)  # fmt: skip
def test_changed_bytes_make_stale_who_wrote_and_who_read_them(
    project: Project, path: str, own: set[str], number: str
) -> None:
    params, root = project
    before = (root / path).read_bytes()
    after = before.replace(b"0.700000", b"0.700001") if path == PREDICTIONS else before.replace(b"100.5", b"100.6")
    (root / path).write_bytes(after if after != before else before + b"\n")
    assert those(params, root) == own
    told = "\n".join(reasons(params, root, job) for job in own)
    for job in own:
        wrote = path in job_of(params, job).outputs
        line = f"is not what `emofuse {job}` wrote" if wrote else f"has changed since `emofuse {job}` read it"
        assert f"{path} {line}" in told
    found = numbers(params, root)
    assert {"all": {STALE}, "some": {STALE, VERIFIED}, "none": {VERIFIED}}[number] == set(found)
    (root / path).write_bytes(before)
    everything_is_verified(params, root)


def test_other_pretrained_weights_make_the_trainings_stale(project: Project) -> None:
    params, root = project
    (path, *_) = graph.pretrained(params, "demo")
    (root / path).write_bytes(b"other weights")
    assert those(params, root) == folds("train")
    (root / path).unlink()
    assert those(params, root, state=UNCHECKABLE) == folds("train")
    assert f"{path} is not here" in reasons(params, root, "train demo kfold_3 proposed 1 0")


def test_a_fold_more_makes_stale_what_shows_all_folds(project: Project) -> None:
    _, root = project
    params = edit(root, {"corpora.demo.protocols.kfold_3": [0, 1, 2]})
    assert those(params, root) == LAST
    assert "provenance/demo/train/kfold_3/proposed/seed-1/fold-2.json" in reasons(params, root, "track demo")
    new = {f"{stage} demo kfold_3 {variant} 1 2" for stage in ("train", "evaluate") for variant in VARIANTS}
    assert those(params, root, state=NOT_RUN) == new
    assert those(params, root, "whole", NOT_RUN) == new


def test_what_is_not_here_cannot_be_checked_and_is_named(project: Project) -> None:
    params, root = project
    (root / MODEL).unlink()
    gone = {"train demo kfold_3 proposed 1 0", "evaluate demo kfold_3 proposed 1 0", *LAST}
    assert those(params, root, state=UNCHECKABLE) == gone
    assert those(params, root) == set()
    assert {f"{MODEL} is not here"} == set(reasons(params, root, "evaluate demo kfold_3 proposed 1 0").splitlines())
    assert set(numbers(params, root)) == {UNCHECKABLE, VERIFIED}


def test_without_a_fingerprint_nothing_is_known(project: Project) -> None:
    params, root = project
    job = job_of(params, "train demo kfold_3 proposed 1 0")
    (root / job.fingerprint).unlink()
    assert those(params, root, state=UNCHECKABLE) == {str(job), *LAST}
    assert reasons(params, root, str(job)) == f"no fingerprint says what {MODEL} was made from"
    scored = "evaluate demo kfold_3 proposed 1 0"
    assert (states(params, root, "own")[scored], states(params, root, "whole")[scored]) == (VERIFIED, UNCHECKABLE)
    for path in job.outputs:
        (root / path).unlink()
    assert states(params, root, "own")[str(job)] == NOT_RUN
    assert reasons(params, root, str(job)) == f"`emofuse {job}` has not run"
    assert states(params, root, "whole")[scored] == UNCHECKABLE


def clone(root: Path) -> None:
    """Leave what git has: no models, no clips and nothing made of clips but results."""
    for folder in ("models", "data"):
        shutil.rmtree(root / folder)
    for file in root.glob("results/**/embeddings.safetensors"):
        file.unlink()


def test_a_clone_is_not_checkable_and_says_what_is_not_here(project: Project) -> None:
    params, root = project
    clone(root)
    assert those(params, root, "whole") == set()
    assert set(numbers(params, root)) == {UNCHECKABLE}
    told = {line for row in verify.corpus("demo", Chain(params, root)) for line in row.reasons}
    for path in (MODEL, "data/demo/raw/shard-0.zip", "data/demo/faces/shard-1.npy", "data/demo/audio/shard-0.csv"):
        assert f"{path} is not here" in told


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"loss.margin": 0.3}, "loss.margin 0.2, params.yaml says 0.3"),
        ({"corpora.demo.faces.size": 24}, "faces.size 32, params.yaml says 24"),
    ],
)
def test_a_clone_with_other_parameters_is_stale(project: Project, values: dict[str, Any], reason: str) -> None:
    _, root = project
    clone(root)
    params = edit(root, values)
    assert set(numbers(params, root)) == {STALE}
    assert reason in reasons(params, root, "evaluate demo kfold_3 proposed 1 0", "whole")


def test_a_clone_tells_that_a_model_was_trained_again_after_its_predictions(project: Project) -> None:
    params, root = project
    run(job_of(params, "train demo kfold_3 proposed 1 0"), params, root, lambda path: b"another model")
    clone(root)
    assert those(params, root) == {"evaluate demo kfold_3 proposed 1 0", *LAST}
    assert f"{MODEL} has changed since `emofuse evaluate demo" in reasons(
        params, root, "evaluate demo kfold_3 proposed 1 0"
    )


def test_a_fingerprint_of_another_job_is_no_proof(project: Project) -> None:
    params, root = project
    job, other = (job_of(params, f"train demo kfold_3 proposed 1 {fold}") for fold in (0, 1))
    shutil.copyfile(root / other.fingerprint, root / job.fingerprint)
    assert states(params, root, "own")[str(job)] == STALE
    clone(root)
    assert states(params, root, "own")[str(job)] == STALE


# --- the numbers


def test_the_model_of_another_fold_makes_stale_every_number_that_comes_of_it(project: Project) -> None:
    params, root = project
    shutil.copyfile(root / OTHER_MODEL, root / MODEL)
    found = by_row(params, root)

    def states_of(table: str, *words: str) -> dict[str, int]:
        (cells,) = (cells for (name, row), cells in found.items() if name == table and set(words) <= row)
        return cells

    for table in ("main", "loss", "compactness", "recall", "calibration"):
        assert set(states_of(table, "proposed", "kfold_3")) == {STALE}, table
    folds_of = [
        row for row in verify.corpus("demo", Chain(params, root)) if row.table == "folds" and "proposed" in row.name
    ]
    assert [set(row.cells) for row in folds_of] == [{STALE}, {VERIFIED}, {VERIFIED}, {VERIFIED}]
    # What others are less proposed, and the p of that; their own three scores and what they are of the best hold.
    assert states_of("loss", "triplet") == {STALE: 2, VERIFIED: 4}
    # What is gained at random over folds by actor, in WAR and in UAR.
    assert states_of("audit", "at random") == {STALE: 2, VERIFIED: 4}
    assert set(states_of("audit", "by actor")) == {STALE}
    assert set(states_of("main", "triplet")) == {VERIFIED}


def test_a_p_value_is_corrected_for_all_of_its_table(project: Project) -> None:
    _, root = project
    params = edit(root, {"variants.cross_entropy.training": {"epochs": 7}})
    found = by_row(params, root)
    (cells,) = (cells for (table, row), cells in found.items() if table == "loss" and "triplet" in row)
    assert cells == {STALE: 1, VERIFIED: 5}


def line_of(path: Path, number: int, change: Callable[[str], str]) -> None:
    lines = path.read_text().splitlines()
    assert change(lines[number - 1]) != lines[number - 1]
    lines[number - 1] = change(lines[number - 1])
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("fingerprint", [True, False], ids=["as run", "without the report's fingerprint"])
def test_a_number_written_into_a_table_by_hand_is_found(project: Project, fingerprint: bool) -> None:
    params, root = project
    if not fingerprint:
        (root / "provenance/demo/report.json").unlink()
    path = root / TABLES / "folds.csv"
    war = read_csv(path)[1]["war"]
    line_of(path, 3, lambda line: line.replace(f",{war},", ",0.999,", 1))
    rows = [row for row in verify.corpus("demo", Chain(params, root)) if row.table == "folds"]
    assert {*rows[0].cells} == {STALE}
    told = "\n".join(rows[0].reasons)
    assert f"{TABLES}/folds.csv, line 3: war 0.999, where the results give {war}" in told
    assert {
        state for row in verify.corpus("demo", Chain(params, root)) if row.table == "main" for state in row.cells
    } <= ({VERIFIED} if fingerprint else {UNCHECKABLE})


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.rpartition(",")[0].rpartition(",")[0],  # cut short
        lambda line: line + ",0.5",
        lambda line: line + "\n" + line,
        lambda line: line.replace(",", "\0", 1),
    ],
    ids=["cut", "longer", "twice", "no CSV"],
)
def test_a_damaged_table_is_stale(project: Project, change: Callable[[str], str]) -> None:
    params, root = project
    line_of(root / TABLES / "folds.csv", 3, change)
    rows = [row for row in verify.corpus("demo", Chain(params, root)) if row.table == "folds"]
    assert all({*row.cells} == {STALE} for row in rows)
    assert f"{TABLES}/folds.csv" in "\n".join(rows[0].reasons)


def test_a_table_without_the_fingerprint_of_the_report_is_not_verified(project: Project) -> None:
    params, root = project
    (root / "provenance/demo/report.json").unlink()
    line_of(root / TABLES / "main.md", 8, lambda line: re.sub(r"\d\d\.\d", "99.9", line))
    assert set(numbers(params, root)) == {UNCHECKABLE}


# --- emofuse verify


def test_verify_says_so_and_exits_0_where_all_is_well(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = command(capsys, "verify", "demo")
    assert (status, err) == (0, [])
    count = sum(numbers(*project).values())
    assert re.fullmatch(rf"demo: .*\b{count}\b.* verified", out[-1])
    assert "stale" not in "\n".join(out)
    assert f"{TABLES}/main" in out[0]
    assert command(capsys, "verify") == (0, [*out, "results/paper: verified"], [])  # that is all that has been run


def test_verify_exits_2_and_names_the_parameter(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    count = sum(numbers(*project).values())
    params = edit(project[1], {"loss.margin": 0.3})
    status, out, err = command(capsys, "verify")
    assert (status, len(err)) == (2, 1)
    assert err[0].startswith("emofuse: error: ")
    for part in (f"{count} numbers", "results/paper", "stale", "run `snakemake"):
        assert part in err[0]
    text = "\n".join(out)
    assert "with loss.margin 0.2, params.yaml says 0.3" in text
    # All that is to be run again, folds as ranges, not a part of it.
    told = re.findall(r"`emofuse (train demo \S+ \S+ \d+) (\d+)(?:–(\d+))?`", text)
    named = {f"{job} {fold}" for job, first, last in told for fold in range(int(first), int(last or first) + 1)}
    assert named == folds("train") == {str(job) for job in all_jobs(params) if job.stage == "train"}


def test_verify_exits_0_and_says_what_is_not_here(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    clone(project[1])
    status, out, err = command(capsys, "verify", "demo")
    assert (status, err) == (0, [])
    assert "not checkable here" in out[-1]
    assert "models/demo/kfold_3/proposed/seed-1/fold-0–1.safetensors is not here" in "\n".join(out)


def test_verify_also_looks_at_the_papers_tables(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    path = project[1] / "results/paper.md"
    path.write_text(path.read_text() + "89.25\n")
    status, out, err = command(capsys, "verify")
    assert status == 2
    assert "results/paper.md is not what `emofuse paper` wrote" in "\n".join((*out, *err))


@pytest.mark.parametrize(("key", "value"), [("torch", None), ("python", "2.7.18"), ("lock", "0" * 64)])
def test_another_environment_is_a_warning(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, key: str, value: str | None
) -> None:
    params, root = project
    file = root / job_of(params, "audio demo 1").fingerprint
    left = json.loads(file.read_text())
    left["environment"] |= {key: value or importlib.metadata.version("torch")}
    file.write_text(json.dumps(left))
    monkeypatch.delitem(sys.modules, "torch", raising=False)  # `emofuse verify` does not import it
    status, out, err = command(capsys, "verify", "demo")
    assert (status, err) == (0, [])
    warnings = [line for line in out if "environment" in line]
    assert warnings == ([f"demo: 1 jobs ran in another environment than this: {key} {value[:16]}"] if value else [])


def test_verify_of_nothing_and_of_no_such_corpus(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(project[1] / "results")
    assert command(capsys, "verify") == (0, ["nothing has been run"], [])
    assert command(capsys, "verify", "ravdess_audio") == (0, ["ravdess_audio: not run"], [])
    status, out, err = command(capsys, "verify", "demos")
    assert (status, out, len(err)) == (2, [], 1)
    assert "there is no corpus 'demos'" in err[0]


@pytest.mark.parametrize("content", ["{", "[]", '{"inputs": {}}', "null"])
def test_a_broken_fingerprint_is_one_line(project: Project, capsys: pytest.CaptureFixture[str], content: str) -> None:
    path = "provenance/demo/index.json"
    (project[1] / path).write_text(content)
    for arguments in (("verify", "demo"), ("trace", "data/demo/index.csv"), ("report", "demo")):
        status, _, err = command(capsys, *arguments)
        assert (status, len(err)) == (2, 1), arguments
        assert path in err[0]


# --- what is refused


@pytest.mark.parametrize("arguments", [("report", "demo"), ("track", "demo"), ("paper",)])
def test_no_stale_number_is_shown(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    _, root = project
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    edit(root, {"variants.triplet.loss": {"metric": "triplet", "margin": 0.3}})
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and ".emofuse" not in path.parts}
    status, out, err = command(capsys, *arguments)
    assert (status, out, len(err)) == (2, [], 1)
    assert re.search(r"`emofuse \w+ demo kfold_3 triplet 1 0` ran with loss.margin 0.2, params.yaml says 0.3", err[0])
    assert "run `snakemake" in err[0]
    after = {path: path.read_bytes() for path in root.rglob("*") if path.is_file() and ".emofuse" not in path.parts}
    stamp = {root / "stamps/demo" / name for name in ("train-triplet.json", "evaluate-triplet.json", "report.json")}
    assert {path for path in after if before.get(path) != after[path]} <= stamp


def test_a_clone_may_show_what_it_cannot_check(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, root = project
    clone(root)
    done: list[str] = []
    monkeypatch.setattr(report, "build", lambda *arguments: done.append("report"))
    monkeypatch.setattr(report, "paper", lambda *arguments: done.append("paper"))
    monkeypatch.setattr(tracking, "track", lambda *arguments: done.append("track"))
    for arguments in (("report", "demo"), ("track", "demo"), ("paper",)):
        assert command(capsys, *arguments)[0] == 0
    assert done == ["report", "track", "paper"]


# --- emofuse trace


def stages_of(lines: list[str]) -> list[str]:
    return [line.split(":")[0] for line in lines if re.match(r"\w+: emofuse ", line)]


CHAIN = ["evaluate", "train", "splits", "audio", "faces", "index", "download"]


def test_a_cell_is_traced_to_the_clips(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    _, root = project
    status, out, err = command(capsys, "trace", f"{TABLES}/main.md:triplet:WAR")
    assert (status, err) == (0, [])
    war = np.mean([float(row["war"]) for row in read_csv(root / TABLES / "folds.csv") if row["variant"] == "triplet"])
    assert f"WAR % {100 * war:.1f}" in out[0]
    assert stages_of(out) == CHAIN
    text = "\n".join(out)
    assert "evaluate: emofuse evaluate demo kfold_3 triplet 1 0–1" in text
    assert "emofuse download demo 0–1" in text
    assert not re.search(r"proposed|cross_entropy|random_kfold_3", text)
    for path in ("data/demo/raw/shard-0.zip", "data/demo/kfold_3/folds.csv"):
        assert re.search(rf"{sha256(root / path)[:8]}\w* {path}", text)
    assert text.count("  verified") == len(CHAIN)


@pytest.mark.parametrize(
    ("place", "behind"),
    [
        ("main.md:1:WAR", ["kfold_3 proposed 1 0–1"]),
        ("main.csv:3:macro", ["kfold_3 triplet 1 0–1"]),
        ("main.md:cross_entropy:WAR %", ["kfold_3 cross_entropy 1 0–1"]),
        ("folds.md:4:UAR", ["kfold_3 cross_entropy 1 1"]),
        ("folds.tex:7:WAR", ["random_kfold_3 proposed 1 0"]),
        ("loss.md:triplet:Difference", ["kfold_3 proposed 1 0–1", "kfold_3 triplet 1 0–1"]),
        ("audit.md:at random:WAR, difference", ["kfold_3 proposed 1 0–1", "random_kfold_3 proposed 1 0–1"]),
    ],
)
def test_cells_by_the_number_and_by_words_of_their_row(
    project: Project, capsys: pytest.CaptureFixture[str], place: str, behind: list[str]
) -> None:
    status, out, err = command(capsys, "trace", f"{TABLES}/{place}")
    assert (status, err) == (0, [])
    commands = next(line for line in out if line.startswith("train: ")).removeprefix("train: ")
    assert sorted(commands.split("; ")) == sorted(f"emofuse train demo {run}" for run in behind)


@pytest.mark.parametrize(
    ("path", "stages"),
    [
        (MODEL, CHAIN[1:]),
        (PREDICTIONS, CHAIN),
        ("data/demo/raw/shard-1.zip", ["download"]),
        ("data/demo/faces/shard-1.csv", ["faces", "index", "download"]),
        (f"{TABLES}/main.md", ["report", *CHAIN]),
        ("results/paper.html", ["paper", *CHAIN]),
        ("provenance/demo/index.json", ["index", "download"]),
    ],
)
def test_a_file_is_traced_to_the_clips(
    project: Project, capsys: pytest.CaptureFixture[str], path: str, stages: list[str]
) -> None:
    for name in (path, str(project[1] / path), f"./{Path(path).parent}/../{Path(path).parent.name}/{Path(path).name}"):
        status, out, err = command(capsys, "trace", name)
        assert (status, err) == (0, [])
        assert stages_of(out) == stages
    assert path in "\n".join(out) or path.startswith("provenance/")


def test_trace_says_where_the_chain_is_broken(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    _, root = project
    edit(root, {"corpora.demo.audio.bands": 24})
    (root / "data/demo/raw/shard-1.zip").unlink()
    status, out, _ = command(capsys, "trace", MODEL)
    assert status == 0
    text = "\n".join(out)
    assert "audio: emofuse audio demo 0–1\n  stale\n" in text
    assert "audio.bands 16, params.yaml says 24" in text
    assert re.search(r"download: emofuse download demo 0–1\n(  .*\n)*    data/demo/raw/shard-1.zip is not here", text)


def test_trace_shows_the_code_the_commit_and_the_environment(project: Project) -> None:
    params, root = project
    job = job_of(params, "index demo")
    left: dict[str, Any] = json.loads((root / job.fingerprint).read_text())
    left |= {"commit": "f" * 40, "dirty": True}
    (root / job.fingerprint).write_text(json.dumps(left))
    text = "\n".join(trace.trace("data/demo/index.csv", params, root))
    assert stamps.code("index", "demo")[:12] in text
    assert "ffffffffffff with changes" in text
    assert f"python {left['environment']['python']}" in text


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (f"{TABLES}/folds.md:proposed:WAR", r"row 'proposed'.*several fit: .*proposed.*; .*proposed"),
        (f"{TABLES}/main.md:nobody:WAR", r"row 'nobody'.*none fits.*proposed.*; .*cross_entropy"),
        (f"{TABLES}/main.md:9:WAR", r"row '9'.*none fits"),
        (f"{TABLES}/main.md:triplet:Weather", r"column 'Weather'.*none fits.*WAR.*; UAR"),
        (f"{TABLES}/main.md:triplet", r"column"),
        (f"{TABLES}/main.md:triplet:Protocol", r"triplet.*Protocol: not a number of a run"),
        (f"{MODEL}:1:WAR", r"only tables have cells"),
        ("results/demo/nothing.csv", r"results/demo/nothing.csv: no job makes that"),
        ("literature/paper.csv", r"literature/paper.csv: no job makes that"),
        ("/", r"not a file of this repository"),
        ("../outside.csv", r"\.\./outside.csv: not a file of this repository"),
        ("", r"no job makes that|not a file"),
    ],
)
def test_what_cannot_be_traced_is_one_line(
    project: Project, capsys: pytest.CaptureFixture[str], what: str, message: str
) -> None:
    status, out, err = command(capsys, "trace", what)
    assert (status, out, len(err)) == (2, [], 1)
    assert re.search(message, err[0])


def test_what_verify_calls_a_row_trace_finds(project: Project) -> None:
    params, root = project
    rows = verify.corpus("demo", Chain(params, root))
    assert len({(row.table, row.name) for row in rows}) == len(rows)
    columns = {"compactness": "Inter-emotion", "recall": "happy", "calibration": "Temperature"}
    for row in {row.table: row for row in rows if "proposed" in row.name}.values():
        place = f"{TABLES}/{row.table}.md:{row.name}:{columns.get(row.table, 'WAR %')}"
        assert row.name in next(trace.trace(place, params, root))


def test_trace_says_that_the_table_says_otherwise(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    path = project[1] / TABLES / "main.md"
    path.write_text(path.read_text() + "better\n")
    status, out, _ = command(capsys, "trace", f"{TABLES}/main.md:triplet:WAR")
    assert status == 0
    assert f"{TABLES}/main.md is not what `emofuse report demo` wrote" in out[1]


def json_values() -> st.SearchStrategy[Any]:
    plain = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
    return st.recursive(
        plain, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2)
    )


@settings(max_examples=30)
@given(
    key=st.sampled_from(["inputs", "outputs", "stamps", "environment", "commit", "dirty", "command"]),
    inside=st.booleans(),
    name=st.sampled_from(["", __file__, "..", "\0", "data/demo", "lock", "data/demo/index.csv", "other"]),
    value=json_values(),
)
def test_a_fingerprint_of_anyones_making_breaks_nothing(
    finished: Path, key: str, inside: bool, name: str, value: Any
) -> None:
    params = parameters.load(finished / "params.yaml")
    path = finished / "provenance/demo/index.json"
    before = path.read_text()
    left = json.loads(before)
    if inside and isinstance(left.get(key), dict):
        left[key] = {name: value} if key == "environment" else left[key] | {name: value}
        if key == "stamps":
            left[key] = dict.fromkeys(left[key], value)
    else:
        left[key] = value
    path.write_text(json.dumps(left))
    chain = Chain(params, finished)
    chain.hashes.of = lambda name: read.append(name) or str(name)  # type: ignore[method-assign,func-returns-value]
    read: list[str] = []
    refused = ""
    try:
        found = chain.whole(job_of(params, "splits demo kfold_3"))
        assert found.state in (STALE, UNCHECKABLE)
        "\n".join(trace.trace(str(finished / "data/demo/kfold_3/folds.csv"), params, finished))
    except UserError as error:
        refused = str(error)
    finally:
        path.write_text(before)
    assert refused == "" or refused.startswith("provenance/demo/index.json is not a fingerprint")
    assert set(read) <= {path for job in all_jobs(params) for path in (*job.inputs, *job.outputs)}  # none elsewhere


# --- recorded


def test_an_input_that_changes_during_a_job_is_an_error(project: Project) -> None:
    params, root = project
    job = job_of(params, "splits demo kfold_3")
    (root / job.fingerprint).unlink()
    with (
        pytest.raises(UserError, match=r"data/demo/index.csv has changed while `emofuse splits demo kfold_3` read it"),
        provenance.recorded(job, params, root),
    ):
        (root / "data/demo/index.csv").write_text("other clips")
    assert not (root / job.fingerprint).exists()


@pytest.mark.parametrize("error", [UserError("no"), RuntimeError("no"), KeyboardInterrupt()])
def test_a_stage_that_fails_leaves_no_new_fingerprint(project: Project, error: BaseException) -> None:
    params, root = project
    job = job_of(params, "splits demo kfold_3")
    before = (root / job.fingerprint).read_bytes()

    def broken() -> None:
        with provenance.recorded(job, params, root):
            (root / job.outputs[0]).write_text("half of it")
            raise error

    with pytest.raises(type(error)):
        broken()
    assert (root / job.fingerprint).read_bytes() == before
    assert states(params, root, "own")[str(job)] == STALE
    (root / job.fingerprint).unlink()
    with pytest.raises(type(error)):
        broken()
    assert not (root / job.fingerprint).exists()


def test_the_command_line_records_its_jobs_and_nothing_else(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    params, root = project
    job = job_of(params, "report demo")
    (root / job.fingerprint).unlink()
    monkeypatch.setattr(report, "build", lambda *arguments: None)
    assert command(capsys, "report", "demo")[0] == 0
    assert states(params, root, "own")["report demo"] == VERIFIED
    left = {path: path.read_bytes() for path in (root / "provenance").rglob("*.json")}
    assert command(capsys, "params", "demo", "proposed")[0] == 0
    assert command(capsys, "splits", "demo", "kfold_9")[0] == 2
    assert {path: path.read_bytes() for path in (root / "provenance").rglob("*.json")} == left


@pytest.mark.parametrize(
    ("arguments", "job"),
    [
        (("train", ("demo", "kfold_3", "triplet", 1, 1)), "train demo kfold_3 triplet 1 1"),
        (("report", ("demo",)), "report demo"),
        (("paper", ()), "paper"),
        (("train", ("demo", "random_kfold_3", "triplet", 1, 1)), None),  # not among those that are audited
        (("train", ("demo", "kfold_3", "triplet", 1, 2)), None),
        (("evaluate", ("demo", "kfold_3", None, None, None)), None),  # of others' predictions
        (("report", ("nowhere",)), None),
        (("verify", ("demo",)), None),
        (("weights", ("resnet18",)), None),
    ],
)
def test_a_command_line_is_a_job_where_params_asks_for_it(
    project: Project, arguments: tuple[str, tuple[Any, ...]], job: str | None
) -> None:
    found = graph.find(project[0], *arguments)
    assert (str(found) if found else None) == job


def test_every_job_has_its_own_fingerprint(project: Project) -> None:
    jobs = list(graph.jobs(project[0]))
    assert len({job.fingerprint for job in jobs}) == len(jobs)
    assert {job.stage for job in jobs} == set(fingerprints.STAGES)
    outputs = [path for job in jobs for path in job.outputs]
    assert len(set(outputs)) == len(outputs)


# --- hashes


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read to be hashed."""
    names: list[str] = []

    def counted(path: Path) -> str:
        names.append(Path(path).name)
        return sha256(path)

    monkeypatch.setattr(provenance, "sha256", counted)
    return names


def test_a_file_is_read_once_while_it_does_not_change(tmp_path: Path, read: list[str]) -> None:
    (tmp_path / "a").write_text("one")
    hashes = Hashes(tmp_path)
    assert hashes.of("a") == hashes.of("a") == sha256(tmp_path / "a")
    hashes.save()
    again = Hashes(tmp_path)
    assert again.of("a") == sha256(tmp_path / "a")
    again.set_time("a", 10**18)
    assert again.of("a") == sha256(tmp_path / "a")
    again.save()
    assert Hashes(tmp_path).of("a") == sha256(tmp_path / "a")
    assert read == ["a"]
    assert hashes.of("b") is None
    assert hashes.of("a/b") is None


@pytest.mark.parametrize("change", ["size", "time", "neither", "replaced"])
def test_a_file_that_changed_is_read_again(tmp_path: Path, read: list[str], change: str) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    hashes = Hashes(tmp_path)
    hashes.of("a")
    hashes.save()
    status = path.stat()
    time.sleep(TICK)
    if change == "replaced":
        (tmp_path / "b").write_text("two")
        (tmp_path / "b").replace(path)
    else:
        path.write_text("three" if change == "size" else "two")
    if change != "time":
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert hashes.of("a") == Hashes(tmp_path).of("a") == sha256(path)
    assert read == ["a", "a", "a"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b'"text"', b"\xff", b'{"a": 5}', b'{"a": [1, 2]}'])
def test_a_broken_cache_costs_only_time(tmp_path: Path, content: bytes) -> None:
    write(tmp_path / provenance.CACHE, content)
    (tmp_path / "a").write_text("one")
    hashes = Hashes(tmp_path)
    assert hashes.of("a") == sha256(tmp_path / "a")
    hashes.save()
    assert Hashes(tmp_path).of("a") == sha256(tmp_path / "a")


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one")
    (tmp_path / Path(provenance.CACHE).parent).write_text("a file where the folder would be")
    hashes = Hashes(tmp_path)
    assert hashes.of("a") == sha256(tmp_path / "a")
    hashes.save()
    assert Hashes(tmp_path).of("a") == sha256(tmp_path / "a")


def test_checking_a_second_time_reads_nothing(project: Project, read: list[str]) -> None:
    provenance.settle(*project)
    assert "shard-0.zip" in read
    read.clear()
    provenance.settle(*project)
    verify.corpus("demo", Chain(*project))
    assert "shard-0.zip" not in read
    assert not any(name.endswith((".npy", ".safetensors")) for name in read)


# --- settle


def contents(root: Path) -> dict[str, bytes]:
    """All files but the cache."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path != root / provenance.CACHE
    }


def times(root: Path) -> dict[str, int]:
    return {path: (root / path).stat().st_mtime_ns for path in contents(root)}


def runs_again(job: Job, modified: dict[str, int]) -> bool:
    """Whether Snakemake, which goes by times alone, would run a job for what is here of its outputs."""
    there = [modified[path] for path in (*job.outputs, job.fingerprint) if path in modified]
    return min(there) < max(modified[path] for path in (*job.inputs, *job.stamps) if path in modified)


DAY = 86_400 * 10**9


@settings(max_examples=8, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # to shrink takes minutes
@given(data=st.data())
def test_times_say_what_fingerprints_say(finished: Path, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "project"
        shutil.copytree(finished, root)
        margin = data.draw(st.sampled_from([0.2, 0.3]))
        params = edit(root, {"loss.margin": margin})
        stamps.write("demo", params, root)
        made = sorted(path for job in all_jobs(params) for path in (*job.outputs, job.fingerprint))
        some = st.sets(st.sampled_from(made), max_size=2)
        for path in data.draw(some):
            if not path.startswith("provenance/"):
                (root / path).write_bytes(b"something else")
        for path in data.draw(some):
            (root / path).unlink()
        now = time.time_ns()
        seed = data.draw(st.integers(0, 2**32))
        generator = np.random.default_rng(seed)
        for path in contents(root):
            when = now + int(generator.integers(-30 * DAY, DAY))  # a clock may be ahead
            os.utime(root / path, ns=(when, when))
        before = contents(root)
        provenance.settle(params, root)
        assert contents(root) == before
        modified = times(root)
        chain = Chain(params, root)
        for job in all_jobs(params):
            if not any(path in modified for path in job.outputs):
                continue  # left to whoever needs it
            partly = any(path not in modified for path in (*job.outputs, job.fingerprint))
            assert runs_again(job, modified) == (chain.own(job).state == STALE or partly), str(job)
        provenance.settle(params, root)
        assert times(root) == modified


def test_what_is_fresh_is_not_touched(project: Project) -> None:
    params, root = project
    provenance.settle(params, root)
    before = times(root)
    provenance.settle(params, root)
    assert times(root) == before


def test_a_change_that_is_taken_back_runs_nothing(project: Project) -> None:
    params, root = project
    provenance.settle(params, root)
    text = (root / "params.yaml").read_text()
    other = edit(root, {"loss.margin": 0.3})
    stamps.write("demo", other, root)
    provenance.settle(other, root)
    modified = times(root)
    assert {str(job) for job in all_jobs(other) if runs_again(job, modified)} == FOLDS | {"report demo", "paper"}
    (root / "params.yaml").write_text(text)
    time.sleep(TICK)
    stamps.write("demo", params, root)
    provenance.settle(params, root)
    modified = times(root)
    assert not [str(job) for job in all_jobs(params) if runs_again(job, modified)]


def test_clips_that_are_not_here_are_left_alone(project: Project) -> None:
    params, root = project
    shutil.rmtree(root / "data/demo/raw")
    for path in (root / "data/demo/index.csv", root / "data/demo/faces/shard-0.npy"):
        os.utime(path, ns=(DAY, DAY))
    provenance.settle(params, root)
    assert not (root / "data/demo/raw").exists()
    modified = times(root)
    assert not [str(job) for job in all_jobs(params) if runs_again(job, modified)]
    assert min(modified[path] for path in modified if path.startswith("provenance/")) > provenance.LONG_AGO


def test_a_project_in_which_nothing_ran_is_settled(tmp_path: Path) -> None:
    params = make_params(tmp_path)
    before: Iterator[Path] = tmp_path.rglob("*")
    there = set(before)
    provenance.settle(params, tmp_path)
    assert set(tmp_path.rglob("*")) == there
