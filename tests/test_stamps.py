"""A stamp changes exactly when the parameters or the code of its stage do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from emofuse import params, stamps
from emofuse.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def write(root: Path, corpus: str, change: Callable[[str], str] = str) -> dict[str, str]:
    """Stamp → text, after params.yaml was changed."""
    shutil.copytree(ROOT / "protocols", root / "protocols", dirs_exist_ok=True)
    before = (ROOT / "params.yaml").read_text()
    text = change(before)
    assert change is str or text != before
    (root / "params.yaml").write_text(text)
    stamps.write(corpus, params.load(root / "params.yaml"), root)
    return {path.stem: path.read_text() for path in (root / "stamps" / corpus).iterdir()}


def changed(root: Path, corpus: str, before: str, after: str) -> set[str]:
    first = write(root, corpus)
    second = write(root, corpus, lambda text: text.replace(before, after))
    return {name for name in first if first[name] != second[name]}


def test_a_stamp_holds_the_resolved_parameters_of_its_stage_and_a_hash(tmp_path: Path) -> None:
    written = write(tmp_path, "demo")
    stages = {
        *stamps.KEYS,
        *(f"{s}-{v}" for s in ("train", "evaluate") for v in params.load(ROOT / "params.yaml").variants),
    }
    assert stages >= set(written) >= set(stamps.KEYS)
    stamp = json.loads(written["train-audio_only"])
    assert stamp["params"]["network"]["modalities"] == ["audio"]
    assert len(stamp["code"]) == 64
    assert "faces" not in write(tmp_path, "ravdess_audio")


def test_a_local_file_of_weights_counts_by_its_bytes(tmp_path: Path) -> None:
    def local(text: str) -> str:
        return text.replace(
            "{backbone: r3d_10, width: 8, weights: none}", "{backbone: r3d_10, width: 8, weights: mine.pth}"
        )

    with pytest.raises(UserError, match=r"weights: .*mine\.pth is missing"):
        write(tmp_path, "demo", local)
    (tmp_path / "mine.pth").write_bytes(b"some weights")
    first = write(tmp_path, "demo", local)
    (tmp_path / "mine.pth").write_bytes(b"other weights")
    second = write(tmp_path, "demo", local)
    touched = {name for name in first if first[name] != second[name]}
    assert touched >= {"train-proposed", "evaluate-proposed", "train-video_only"}
    assert not touched & {"train-audio_only", "faces", "audio", "splits"}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("demo: {seed: 1,", "demo: {seed: 2,", {"download", "index", "report"}),
        ("size: 32}", "size: 24}", {"faces", "report"}),
        ("bands: 48,", "bands: 40,", {"audio", "report"}),
        ("validation_actors: 2", "validation_actors: 3", {"splits", "report"}),
        (
            "{network: {fusion: concat}}",
            "{network: {fusion: concat, dropout: 0.1}}",
            {"train-concat_fusion", "evaluate-concat_fusion", "report"},
        ),
        ("title: demo, made", "title: Demo, made", {"report"}),
        ("title: CREMA-D", "title: Crema", set()),
        ("# Made on the spot", "# Made here", set()),
    ],
)
def test_a_parameter_touches_the_stages_that_it_concerns(
    tmp_path: Path, before: str, after: str, expected: set[str]
) -> None:
    assert changed(tmp_path, "demo", before, after) == expected


def test_the_log_of_tried_configurations_concerns_what_shows_it(tmp_path: Path) -> None:
    first = write(tmp_path, "demo")
    log = tmp_path / "results" / "demo" / "search.csv"
    log.parent.mkdir(parents=True)
    log.write_text("config\n")
    second = write(tmp_path, "demo")
    log.write_text("config\nwide\n")
    third = write(tmp_path, "demo")
    assert {name for name in first if first[name] != second[name]} == {"track", "report"}
    assert {name for name in first if second[name] != third[name]} == {"track", "report"}


def test_where_clips_come_from_touches_nothing(tmp_path: Path) -> None:
    assert changed(tmp_path, "ravdess", "kind: ravdess", "kind: ravdess\n    source: /a/folder") == set()


def test_an_unchanged_stamp_keeps_its_time_and_one_of_a_gone_variant_goes(tmp_path: Path) -> None:
    write(tmp_path, "demo")
    folder = tmp_path / "stamps" / "demo"
    (folder / "train-gone.json").write_text("{}")
    times = {path: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    write(tmp_path, "demo")
    assert not (folder / "train-gone.json").exists()
    assert all(path.stat().st_mtime_ns == time for path, time in times.items() if path.stem != "train-gone")


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("package") / "emofuse"
    return shutil.copytree(ROOT / "src" / "emofuse", copy, ignore=shutil.ignore_patterns("__pycache__", "registry"))


def codes(package: Path) -> dict[str, str]:
    """Stage → code hash for the demo, of a copy of the package."""
    program = (
        "import json; from emofuse import stamps as s; print(json.dumps({m: s.code(m, 'demo') for m in s.MODULES}))"
    )
    root = package.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout))


def touched(package: Path, root: Path, file: str, change: Callable[[str], str]) -> set[str]:
    """The stages whose code hash a change of one file changes."""
    other = shutil.copytree(package, root / "emofuse")
    text = (other / file).read_text()
    assert change(text) != text
    (other / file).write_text(change(text))
    before, after = codes(package), codes(other)
    return {stage for stage in before if before[stage] != after[stage]}


CODE = "\nADDED = 1\n"
EVERY = set(stamps.MODULES)


@pytest.mark.parametrize(
    ("file", "added", "concerned", "others"),
    [
        ("losses.py", CODE, {"train", "evaluate", "report"}, {"download", "index", "faces", "audio", "splits"}),
        ("media.py", CODE, {"index", "faces", "audio"}, {"splits", "train", "evaluate"}),
        ("faces.py", CODE, {"faces"}, {"download", "index", "audio", "splits", "train", "evaluate", "report"}),
        ("report/page.html.j2", "<!-- -->", {"report"}, {"download", "index", "faces", "audio", "splits", "train"}),
        ("corpora/ravdess.py", CODE, set(), EVERY),
        ("errors.py", CODE, EVERY, set()),
        ("errors.py", "\n\n# a comment\n", set(), EVERY),
        ("errors.py", "\n\ndef added():\n    pass\n", EVERY, set()),
        ("cli.py", CODE, set(), EVERY),
        ("params.py", CODE, set(), EVERY),
    ],
)
def test_code_touches_the_stages_that_import_it(
    package: Path, tmp_path: Path, file: str, added: str, concerned: set[str], others: set[str]
) -> None:
    found = touched(package, tmp_path, file, lambda text: text + added)
    assert found >= concerned
    assert not found & others


def test_a_docstring_touches_nothing(package: Path, tmp_path: Path) -> None:
    assert touched(package, tmp_path, "errors.py", lambda text: text.replace('"""', '"""Other words: ', 1)) == set()


def test_the_closure_follows_late_and_relative_imports_but_not_those_of_type_checkers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {
        "__init__.py": "",
        "start.py": "def f():\n    from emofuse import late\n",
        "late.py": "from . import near\nfrom .inner.deep import x as y\n",
        "near.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from emofuse import unseen\n",
        "inner/__init__.py": "from .beside import z\n",
        "inner/deep.py": "import emofuse.params, json\n",
        "inner/beside.py": "z = 1\n",
        "unseen.py": "",
        "params.py": "import emofuse.unseen\n",
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    caches = (stamps._tree, stamps._closure, stamps._imports, stamps._digest)
    monkeypatch.setattr(stamps, "PACKAGE", tmp_path)
    try:
        for cached in caches:
            cached.cache_clear()
        found = {name.removeprefix("emofuse").lstrip(".") for name in stamps._closure("emofuse.start")}
    finally:
        for cached in caches:
            cached.cache_clear()
    assert found == {"", "start", "late", "near", "inner", "inner.deep", "inner.beside"}


def test_hashes_that_are_kept_are_those_of_the_files_now(package: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(package, tmp_path / "emofuse")
    first = codes(copy)
    (kept,) = copy.glob("__pycache__/stamps.*.json")
    assert codes(copy) == first
    for damaged in ("", "[]", "{}", '{"sources": "0", "codes": {}}', kept.read_text()[:-9]):
        kept.write_text(damaged)
        assert codes(copy) == first
    with (copy / "splits.py").open("a") as stream:
        stream.write("UNUSED = 1\n")
    assert {stage for stage, code in codes(copy).items() if code != first[stage]} == {"splits"}


def test_writing_stamps_imports_nothing_slow(tmp_path: Path) -> None:
    program = (
        "import sys; from emofuse import params, stamps, versions, report, weights; p = params.load();"
        f" [stamps.write(c, p, {str(tmp_path)!r}) for c in p.corpora];"
        " print([m for m in ('torch', 'mlflow', 'matplotlib', 'pandas', 'dvc', 'snakemake') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
