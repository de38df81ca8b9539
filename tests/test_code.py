"""A stage reruns if, and only if, parameters or code that its results depend on have changed."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from emofuse import config
from emofuse.provenance import code

ROOT = Path(__file__).resolve().parents[1]
JOBS: dict[str, dict[str, Any]] = {
    "download": {"shard": 0},
    "index": {},
    "faces": {"shard": 0},
    "audio": {"shard": 0},
    "splits": {"protocol": "kfold_3"},
    "train": {"protocol": "kfold_3", "variant": "concat_fusion", "seed": 1, "fold": 0},
    "calibrate": {"protocol": "kfold_3", "variant": "proposed", "seed": 1, "fold": 0},
    "evaluate": {"protocol": "kfold_3", "variant": "concat_fusion", "seed": 1, "fold": 0},
    "report": {},
}


def settings(folder: Path, change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The settings of one demo job per stage, after a change of params.yaml."""
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    change(tree)
    for name in ("protocols", "corpora"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))
    params = config.load(folder / "params.yaml")
    return {stage: params.settings(stage, "demo", **key) for stage, key in JOBS.items()}


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        ("demo", "demo", {"seed": 2, "actors": 24, "takes": 4}, {"download", "index", "report"}),
        ("demo", "faces", {"detector": "centre", "snippets": 3, "frames": 4, "size": 24}, {"faces", "report"}),
        ("demo", "audio", {"bands": 40}, {"audio", "report"}),
        ("demo", "validation_actors", 3, {"splits", "report"}),
        ("demo", "spectrogram", {"segments": 3, "frames": 40}, {"train", "calibrate", "evaluate", "report"}),
        ("demo", "loss", {"margin": 0.3}, {"train", "calibrate", "report"}),
        ("demo", "calibrated", ["proposed", "concat_fusion"], {"evaluate", "report"}),
        ("demo", "title", "another title", {"report"}),
        ("cremad", "title", "another title", set()),
        ("ravdess", "source", "/a/folder", set()),
        ("demo", "source", "/a/folder", set()),
    ],
)
def test_a_parameter_changes_the_settings_of_exactly_the_jobs_that_depend_on_it(
    tmp_path: Path, section: str, key: str, value: object, expected: set[str]
) -> None:
    before = settings(tmp_path, lambda tree: None)
    after = settings(tmp_path, lambda tree: tree["corpora"][section].update({key: value}))
    assert {stage for stage in before if before[stage] != after[stage]} == expected


def test_every_parameter_but_the_source_is_in_some_settings(tmp_path: Path) -> None:
    """A change of a parameter that is in no settings would rerun nothing."""
    demo = config.load(ROOT / "params.yaml").corpora["demo"]
    covered = {
        name for stage in JOBS for section in settings(tmp_path, lambda tree: None)[stage].values() for name in section
    }
    assert set(type(demo).model_fields) - covered == {"source"}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("package") / "emofuse"
    return shutil.copytree(ROOT / "src" / "emofuse", copy, ignore=shutil.ignore_patterns("__pycache__"))


def digests(package: Path) -> dict[str, str]:
    """The code digest of each stage for the demo, given a copy of the package."""
    program = "import json; from emofuse.provenance import code as c; print(json.dumps({s: c.digest(s, 'demo') for s in c.STAGES}))"
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=package.parent, env=environment, capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout))


def stages_changed(package: Path, root: Path, file: str, change: Callable[[str], str]) -> set[str]:
    """The stages whose code digest changes with one file."""
    other = shutil.copytree(package, root / "emofuse")
    text = (other / file).read_text()
    assert change(text) != text
    (other / file).write_text(change(text))
    before, after = digests(package), digests(other)
    return {stage for stage in before if before[stage] != after[stage]}


CODE = "\nADDED = 1\n"
EVERY = set(code.STAGES)
REPORTS = {"report", "paper"}
TRAINED = {"train", "calibrate", "evaluate", "transfer", *REPORTS}


@pytest.mark.parametrize(
    ("file", "added", "affected", "unaffected"),
    [
        ("models/losses.py", CODE, TRAINED, EVERY - TRAINED),
        ("features/faces.py", CODE, {"faces", "transfer"}, EVERY - {"faces", "transfer"}),
        ("data/protocols.py", CODE, {"splits", *REPORTS}, {"download", "index", "faces", "audio", "train", "evaluate"}),
        ("data/download/http.py", CODE, {"download", "weights"}, EVERY - {"download", "weights"}),
        ("datasets/shards.py", CODE, {"download", "faces", "audio", "splits", "train"}, set()),
        ("evaluation/calibration.py", CODE, TRAINED - {"train"}, EVERY - TRAINED | {"train"}),
        ("evaluation/transfer.py", CODE, {"transfer"}, EVERY - {"transfer"}),
        ("report/page.html.j2", "<!-- -->", REPORTS, EVERY - REPORTS),
        ("datasets/ravdess.py", CODE, set(), EVERY),
        ("utils/files.py", CODE, EVERY, set()),
        ("utils/files.py", "\n\n# a comment\n", set(), EVERY),
    ],
)
def test_code_changes_the_digests_of_the_stages_that_import_it(
    package: Path, tmp_path: Path, file: str, added: str, affected: set[str], unaffected: set[str]
) -> None:
    found = stages_changed(package, tmp_path, file, lambda text: text + added)
    assert found >= affected
    assert not found & unaffected


@pytest.mark.parametrize("module", code.NO_EFFECT)
def test_excluded_modules_change_no_digest(package: Path, tmp_path: Path, module: str) -> None:
    name = module.removeprefix("emofuse.").replace(".", "/")
    file = f"{name}.py" if (package / f"{name}.py").is_file() else f"{name}/__init__.py"
    assert stages_changed(package, tmp_path, file, lambda text: text + CODE) == set()


def test_stages_import_no_computation_from_excluded_modules() -> None:
    """Covered modules import only entry points, error types, progress bars and the like from excluded modules."""
    allowed = {
        "emofuse.provenance.job": {"job"},
        "emofuse.provenance.records": {"Record"},
        "emofuse.tracking": {"TrainingRun"},
        "emofuse.utils.console": {"printable"},
        "emofuse.utils.errors": {"UserError"},
        "emofuse.utils.locks": {"locked", "one_of"},
        "emofuse.utils.progress": {"Meter", "Progress"},
        "emofuse": {"config", "tracking"},
    }
    used: dict[str, set[str]] = {}
    for stage in ("download", "weights", "index", "faces", "audio", "splits", "train", "calibrate", "evaluate"):
        for module in code.closure(code.STAGES[stage]):
            tree = code._tree(module)
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and node.module:
                    for alias in node.names:
                        full = f"{node.module}.{alias.name}"
                        if any(f"{each}.".startswith(f"{n}.") for n in code.NO_EFFECT for each in (node.module, full)):
                            used.setdefault(node.module, set()).add(alias.name)
    unexpected = {module: names - allowed.get(module, set()) for module, names in used.items()}
    assert {module: names for module, names in unexpected.items() if names} == {}


def test_a_docstring_changes_no_digest(package: Path, tmp_path: Path) -> None:
    assert (
        stages_changed(package, tmp_path, "utils/files.py", lambda text: text.replace('"""', '"""Changed: ', 1))
        == set()
    )


def test_the_closure_includes_late_and_relative_imports_but_not_those_under_type_checking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = {
        "__init__.py": "",
        "start.py": "def f():\n    from emofuse import late\n",
        "late.py": "from . import near\nfrom .inner.deep import x as y\n",
        "near.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from emofuse import unseen\n",
        "inner/__init__.py": "from .beside import z\n",
        "inner/deep.py": "import emofuse.config, json\n",
        "inner/beside.py": "z = 1\n",
        "unseen.py": "",
        "config.py": "import emofuse.unseen\n",
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    caches = (code.closure, code._module)
    monkeypatch.setattr(code, "PACKAGE", tmp_path)
    try:
        for cached in caches:
            cached.cache_clear()
        found = {name.removeprefix("emofuse").lstrip(".") for name in code.closure("emofuse.start")}
    finally:
        for cached in caches:
            cached.cache_clear()
    assert found == {"", "start", "late", "near", "inner", "inner.deep", "inner.beside"}


def test_the_modules_of_the_snakefile_import_nothing_slow() -> None:
    program = (
        "import sys; from emofuse import config, paths; from emofuse.data import protocols; from emofuse.data.download import clips;"
        " from emofuse.provenance import adopt, code, records; from emofuse.utils import locks; config.load();"
        " print([m for m in ('torch', 'mlflow', 'matplotlib', 'pandas', 'dvc', 'snakemake', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_emofuse_does_not_import_dvc() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] in ("dvc", "scmrepo", "snakemake") for name in names), path
