"""Speaker overlap: the same network with folds by actor and with random folds of the same sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_report import (
    RAVDESS,
    changed,
    make_params,
    parse,
    quick,
    ravdess_clips,
    write_clips,
    write_fold,
    write_ravdess,
)

from emofuse.config import Params
from emofuse.evaluation import statistics
from emofuse.report import load, table, tables

APART = "luna_jimenez_2022_5cv"
SHARED = f"random_{APART}"


@pytest.fixture
def project(tmp_path: Path) -> tuple[Params, Path]:
    make_params(tmp_path)
    folds = [0, 1, 2, 3, 4]
    return changed(tmp_path / "params.yaml", {"protocols": {APART: folds, SHARED: folds}}, "ravdess"), tmp_path


def write_shared(root: Path, accuracy: float, folds: range = range(5)) -> None:
    clips = ravdess_clips()
    write_clips(root, "ravdess", SHARED, clips)
    for fold in folds:
        write_fold(root, ("ravdess", SHARED, "proposed", 1), fold, RAVDESS, clips[fold::5], accuracy)


def audit(params: Params, root: Path) -> table.Table:
    return tables.audit(load.read("ravdess", params, root))


def test_difference_of_means_and_its_interval(project: tuple[Params, Path]) -> None:
    params, root = project
    write_ravdess(root, variants=("proposed",), accuracy=0.6)
    write_shared(root, 0.8)
    apart, shared = parse(audit(params, root))
    assert [apart["split"], shared["split"]] == ["by actor", "at random"]
    difference = float(shared["war_difference"])
    assert difference == pytest.approx(float(shared["war_mean"]) - float(apart["war_mean"]))
    assert float(shared["war_difference_low"]) < difference < float(shared["war_difference_high"])
    assert float(shared["war_difference_low"]) > 0.1
    assert apart["war_difference"] == ""
    read = load.read("ravdess", params, root)
    assert f"+{100 * difference:.1f}" in audit(params, root).markdown()
    assert statistics.leak(read.methods[0].tested, read.random_methods[0].tested)["war"].mean == pytest.approx(
        difference
    )


def test_random_protocols_only_appear_in_audit_and_folds(project: tuple[Params, Path]) -> None:
    params, root = project
    write_ravdess(root, accuracy=0.6)
    write_shared(root, 0.99)
    by_name, page = quick("ravdess", params, root)
    for name, one in by_name.items():
        listed = {row.get("protocol") for row in parse(one)} - {None, ""}
        assert (SHARED in listed) == (name in ("audit", "folds")), name
    assert SHARED in page


@pytest.mark.parametrize("folds", [range(0), range(4)], ids=["none", "one missing"])
def test_no_difference_until_all_folds_are_run(project: tuple[Params, Path], folds: range) -> None:
    params, root = project
    write_ravdess(root, variants=("proposed",), accuracy=0.6)
    write_shared(root, 0.8, folds)
    _, shared = parse(audit(params, root))
    assert (shared["status"], shared["war_difference"]) == ("incomplete" if folds else "not run", "")


def test_the_audit_compares_the_seeds_that_both_have(project: tuple[Params, Path]) -> None:
    _, root = project
    params = changed(root / "params.yaml", {"seeds": [1, 2]}, "ravdess")
    write_ravdess(root, variants=("proposed",), accuracy=0.6)
    write_shared(root, 0.8)
    alone = [row["war_mean"] for row in parse(audit(params, root))]
    clips = ravdess_clips()
    for fold in range(5):
        write_fold(root, ("ravdess", APART, "proposed", 2), fold, RAVDESS, clips[fold * 288 :][:288], 0.3)
    apart, shared = parse(audit(params, root))
    assert [apart["war_mean"], shared["war_mean"]] == alone
    assert {(row["status"], row["seeds"], row["seeds_planned"]) for row in (apart, shared)} == {("run", "1", "1")}
    assert float(shared["war_difference"]) == pytest.approx(float(alone[1]) - float(alone[0]))


def test_corpus_without_random_protocol(tmp_path: Path) -> None:
    params = make_params(tmp_path)
    shown = audit(params, tmp_path)
    assert shown.rows == []
    assert "lists no random_ protocol" in shown.notes[0]
