"""Networks of the user: built, checked, trained, tracked and used like ours, and imported only where that was asked for."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import micro
import pytest
import torch
import yaml
from conftest import ROOT, once
from safetensors.torch import save_file
from test_training import EMOTIONS, RUN, make_corpus, run_key

from emofuse import config
from emofuse.evaluation import evaluate
from emofuse.inference import bundle, export, predictor
from emofuse.models.build import build
from emofuse.provenance import code
from emofuse.report import assumptions
from emofuse.report.figures import attention
from emofuse.report.tables import comparison
from emofuse.training import checkpoint, search, train
from emofuse.training.model_file import describe, read_model, write_model
from emofuse.utils import packages
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_csv, read_json

DOCUMENT = (ROOT / "docs" / "own-model.md").read_text()
EXAMPLE = re.findall(r"```python\n(.*?)```", DOCUMENT, re.S)[0]
VARIANT: dict[str, Any] = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.S)[0])
FACTORY = "my_net:build"
RUN_FOLDER = f"models/{micro.CORPUS}/kfold_3/my_net/seed-1"
SHAPES = {"video": (3, 3, 2, 32, 32), "audio": (3, 24, 32)}

# A factory whose network has `{made}` for its layer, and returns `{returned}`.
TEMPLATE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        {made}

    def forward(self, batch):
        x = batch["audio"].flatten(1)
        count, scores = len(x), self.layer(x) if hasattr(self, "layer") else x[:, :4]
        return {returned}

def build(shapes, classes, width=8):
    {first}
    return Net(classes)
"""
LAYER = "self.layer = nn.Linear(3 * 24 * 32, classes)"


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Packages that a test imports or reads are not those of the next test."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith("/tmp/"):
            del sys.modules[name]
    for cached in (code.digest, code.of_package):
        cached.cache_clear()


def write(folder: Path, name: str = "my_net", made: str = LAYER, returned: str = "scores, x", first: str = "") -> str:
    """Write a factory's module, and return the factory."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / f"{name}.py").write_text(TEMPLATE.format(made=made, returned=returned, first=first or "pass"))
    return f"{name}:build"


def section(factory: str = FACTORY, modalities: tuple[str, ...] = ("audio",), **options: Any) -> config.CustomNetwork:
    return config.CustomNetwork.model_validate({"modalities": list(modalities), "factory": factory, "options": options})


def built(folder: Path, factory: str = FACTORY, seed: int = 1, **options: Any) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build(section(factory, **options), 4, {"audio": SHAPES["audio"]}, folder)


# ── configuration ────────────────────────────────────────────────────────────────────────────────────────────────────


def loaded(folder: Path, network: Any, /, **corpus: Any) -> config.Params:
    """params.yaml with the variant my_net in the demo, and other parameters of the demo."""
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    tree["variants"]["my_net"] = {"network": network}
    tree["corpora"]["demo"]["variants"].append("my_net")
    tree["corpora"]["demo"].update(corpus)
    for name in ("protocols", "corpora"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))
    return config.load(folder / "params.yaml")


def test_a_factory_takes_only_the_modalities_of_the_network_it_replaces(tmp_path: Path) -> None:
    write(tmp_path)
    params = loaded(tmp_path, {"factory": FACTORY, "options": {"width": 4}})  # the demo overrides width, heads …
    run = params.run("demo", "my_net")
    expected = {"modalities": ["video", "audio"], "factory": FACTORY, "options": {"width": 4}}
    assert run.network.model_dump() == expected
    assert run.training == params.run("demo", "proposed").training
    assert params.packages("demo") == ["my_net"]
    assert params.packages("ravdess") == []
    sound = loaded(tmp_path, {"factory": FACTORY, "modalities": ["audio"]}).run("demo", "my_net")
    assert sound.network.modalities == ["audio"]


def test_a_change_of_our_network_changes_nothing_for_a_factory(tmp_path: Path) -> None:
    write(tmp_path)
    jobs = [
        {"corpus": "demo", "variant": name, "protocol": "kfold_3", "seed": 1, "fold": 0}
        for name in ("my_net", "proposed")
    ]
    plain = loaded(tmp_path, {"factory": FACTORY})
    other = loaded(tmp_path, {"factory": FACTORY}, network={"dimension": 64, "pooling": "flatten"})
    theirs, ours = ([params.settings("train", **job)["network"] for params in (plain, other)] for job in jobs)
    assert theirs[0] == theirs[1]
    assert ours[0] != ours[1]


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"factory": FACTORY, "dimension": 8}, "variants.my_net.network.dimension: no such parameter; there are modalities, factory, options"),
        ({"factory": "my_net"}, "variants.my_net.network.factory: expected package.module:function; found 'my_net'"),
        ({"factory": f"{FACTORY}\n"}, "expected package.module:function"),
        ({"factory": "../my_net:build"}, "expected package.module:function"),
        ({"factory": None}, "variants.my_net.network.factory: Input should be a valid string"),
        ({"factory": FACTORY, "options": {1: 2}}, "variants.my_net.network.options.1: Input should be a valid string"),
        ({"factory": FACTORY, "options": {"a b": 2}}, "variants.my_net.network.options: 'a b' is not a valid name"),
        ({"factory": FACTORY, "options": {"a": [float("nan")]}}, "variants.my_net.network.options.a.0: Input should be a finite number"),
        ({"factory": FACTORY, "modalities": ["audio", "audio"]}, "variants.my_net.network.modalities: a modality is listed twice"),
        ({"options": {"width": 1}}, "variants.my_net.network.options: no such parameter"),
        ({"factory": "nobody:build"}, "corpora.demo.variants: my_net: network.factory nobody:build: no package nobody and no module nobody.py"),
        ({"factory": "os:system"}, "os is the name of a module of Python"),
        ({"factory": "models.net:build"}, "models is the name of a folder of outputs"),
        ({"factory": "bare.net:build"}, "the folder bare is not a package; add the file bare/__init__.py"),
    ],
)  # fmt: skip
def test_a_mistake_in_params_is_one_line(tmp_path: Path, network: Any, message: str) -> None:
    write(tmp_path)
    (tmp_path / "bare").mkdir()
    with pytest.raises(UserError) as raised:
        loaded(tmp_path, network)
    assert message in str(raised.value)
    assert "my_net" not in sys.modules


def test_options_are_changed_one_by_one(tmp_path: Path) -> None:
    write(tmp_path)
    base = loaded(tmp_path, {"factory": FACTORY, "options": {"width": 4, "depth": [1, 2]}}).run("demo", "my_net")
    changed = config.overridden(base, {"network": {"options": {"depth": [3], "new": True}}}, "x")
    assert changed.network.model_dump()["options"] == {"width": 4, "depth": [3], "new": True}


# ── building ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ({"first": "return 1"}, "returned an object of type int; expected a torch.nn.Module"),
        ({"first": "return"}, "returned None; expected a torch.nn.Module"),
        ({"first": "raise ValueError('two\\nlines')"}, "network.factory my_net:build failed: ValueError: two (my_net.py, line 16)"),
        ({"first": "raise SystemExit(3)"}, "failed: SystemExit: 3 (my_net.py, line 16)"),
        ({"first": "import helpers"}, "failed: ModuleNotFoundError: No module named 'helpers' (my_net.py, line 16)"),
        ({"returned": "scores"}, "its network returned float32 (2, 4) for 2 clips; expected scores (2, 4) and embeddings (2, E), both float32"),
        ({"returned": "{'scores': scores}"}, "its network returned an object of type dict for 2 clips"),
        ({"returned": "(x, scores)"}, "its network returned (float32 (2, 2304), float32 (2, 4)) for 2 clips"),
        ({"returned": "(scores, x.flatten())"}, "its network returned (float32 (2, 4), float32 (4608,)) for 2 clips"),
        ({"returned": "(scores, x[:, :0])"}, "its network returned (float32 (2, 4), float32 (2, 0)) for 2 clips"),
        ({"returned": "(scores.argmax(1), x)"}, "its network returned (int64 (2,), float32 (2, 2304)) for 2 clips"),
        ({"returned": "(scores.double(), x)"}, "its network returned (float64 (2, 4), float32 (2, 2304)) for 2 clips"),
        ({"returned": "(scores, x, x)"}, "its network returned (float32 (2, 4), float32 (2, 2304), float32 (2, 2304)) for 2 clips"),
        ({"returned": "(scores, None)"}, "its network returned (float32 (2, 4), None) for 2 clips"),
        ({"returned": "(scores / 0, x)"}, "its network returned numbers that are not finite for random clips"),
        ({"returned": "(scores[:, [0]].squeeze().unsqueeze(1).repeat(1, 4), x)"}, "failed on random clips: IndexError"),
        ({"returned": "(scores - scores.mean(0), x)"}, "the scores of a clip depend on the other clips of its batch"),
        ({"returned": "(scores, x[:, :count])"}, "the scores of a clip depend on the other clips of its batch"),
        ({"returned": "batch['video']"}, "its network failed on random clips: KeyError: 'video' (my_net.py, line 13)"),
        ({"made": "pass"}, "its network has no trainable parameters"),
        ({"returned": "(scores.detach(), x)"}, "the scores of its network do not depend on trainable parameters"),
        ({"made": f"{LAYER}; self.emotion_distance = nn.Parameter(torch.ones(1))"}, "emotion_distance in the state_dict of its network is a reserved name"),
        ({"returned": "(scores if not self.training else x, x)"}, "in train mode: its network returned (float32 (2, 2304), float32 (2, 2304))"),
        ({"returned": "(scores.relu_() if 0 else scores.exp().mul_(scores.exp().add_(scores.exp_())), x)"}, "its network failed on random clips: RuntimeError"),
    ],
)  # fmt: skip
def test_a_factory_that_fails_is_one_line(tmp_path: Path, module: dict[str, str], message: str) -> None:
    write(tmp_path, **module)
    (tmp_path / "helpers.py").write_text("")  # in no package, so that no digest covers it
    with pytest.raises(UserError) as raised:
        built(tmp_path)
    assert str(raised.value).startswith("network.factory my_net:build")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        ("my_net:biuld", {}, "AttributeError: module 'my_net' has no attribute 'biuld'"),
        ("my_net.sub:build", {}, "ModuleNotFoundError: No module named 'my_net.sub'"),
        ("my_net:torch", {}, "TypeError: 'module' object is not callable"),
        (FACTORY, {"widht": 4}, "TypeError: build() got an unexpected keyword argument 'widht'"),
        ("broken:build", {}, "SyntaxError"),
        ("absent:build", {}, "no package absent and no module absent.py"),
    ],
)
def test_a_wrong_name_or_option_is_one_line(
    tmp_path: Path, factory: str, options: dict[str, Any], message: str
) -> None:
    write(tmp_path)
    (tmp_path / "broken.py").write_text("def (")
    with pytest.raises(UserError) as raised:
        built(tmp_path, factory, **options)
    assert str(raised.value).startswith(f"network.factory {factory} failed: ")
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "made",
    [
        LAYER,
        "self.layer = nn.LazyLinear(classes)",
        "self.layer = nn.Sequential(nn.BatchNorm1d(2304), nn.Dropout(0.5), nn.Linear(2304, classes))",
        "first = nn.Linear(2304, 2304); again = nn.Linear(2304, 2304); again.weight = first.weight;"
        " self.layer = nn.Sequential(first, again, nn.Linear(2304, classes))",
    ],
    ids=["linear", "lazy", "norm", "tied"],
)
def test_trying_a_network_out_leaves_no_trace(tmp_path: Path, made: str) -> None:
    write(tmp_path, made=made)
    networks = [built(tmp_path, seed=seed) for seed in (1, 1, 2)]
    after = torch.rand(1)
    states = [network.state_dict() for network in networks]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert any(not torch.equal(value, states[2][name]) for name, value in states[0].items())
    for name, buffer in networks[0].named_buffers():
        assert "mean" not in name or not buffer.any()
    assert networks[0].training
    assert all(parameter.grad is None for parameter in networks[0].parameters())
    torch.manual_seed(2)
    sys.modules["my_net"].build({}, 4).eval()({"audio": torch.zeros(2, *SHAPES["audio"])})
    assert torch.equal(after, torch.rand(1))  # random numbers as without trying out


def test_a_factory_gets_shapes_classes_and_its_own_copy_of_the_options(tmp_path: Path) -> None:
    write(tmp_path, first="global got; got = shapes, classes, list(width); width.clear()")
    options: Any = {"width": [1, 2]}
    own = section(modalities=("video", "audio"), **options)
    build(own, 4, SHAPES, tmp_path)
    assert sys.modules["my_net"].got == (SHAPES, 4, [1, 2])
    assert own.options == {"width": [1, 2]}


def test_a_package_whose_name_is_in_use_is_one_line(tmp_path: Path) -> None:
    write(tmp_path, "yaml")
    with pytest.raises(UserError, match=r"yaml\.py: the package .* has the same name; rename yours"):
        built(tmp_path, "yaml:build")


# ── code digests ─────────────────────────────────────────────────────────────────────────────────────────────────────


def digests(root: Path, package: str = "pack") -> list[str]:
    for cached in (code.digest, code.of_package):
        cached.cache_clear()
    return [code.digest(stage, "demo", package, root) for stage in ("train", "evaluate")]


@pytest.mark.parametrize(
    ("file", "content", "changes"),
    [
        ("pack/net.py", "# a comment\nx = 1\n", False),
        ("pack/net.py", "'''A docstring.'''\nx  =  1", False),
        ("pack/net.py", "x = 2", True),
        ("pack/deep/more.py", "y = 1", True),
        ("pack/new.py", "", True),
        ("pack/table.csv", "1,2\n", True),
        ("pack/__pycache__/net.pyc", "x", False),
        ("pack/.hidden/x", "x", False),
        ("other.py", "x = 1", False),
        ("pack.py", "x = 1", False),  # the folder comes first, as for Python
    ],
)
def test_every_file_of_the_package_counts_and_python_by_its_syntax(
    tmp_path: Path, file: str, content: str, changes: bool
) -> None:
    for name, text in (("__init__.py", ""), ("net.py", "x = 1"), ("deep/more.py", ""), ("table.csv", "1,1\n")):
        (tmp_path / "pack" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "pack" / name).write_text(text)
    before = digests(tmp_path)
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(content)
    after = digests(tmp_path)
    assert [one != other for one, other in zip(before, after, strict=True)] == [changes] * 2
    assert before[0] != code.digest("train", "demo")
    assert "pack" not in sys.modules


@pytest.mark.parametrize(
    ("broken", "message"),
    [("syntax", "pack/net.py, line 1: invalid syntax"), ("link", "pack/linked is a link to a folder"), ("gone", "no package pack")],
)  # fmt: skip
def test_a_package_that_cannot_be_read_is_one_line(tmp_path: Path, broken: str, message: str) -> None:
    folder = tmp_path / "pack"
    if broken != "gone":
        folder.mkdir()
        (folder / "__init__.py").write_text("")
        (folder / "net.py").write_text("def (" if broken == "syntax" else "")
    if broken == "link":
        (folder / "linked").symlink_to(tmp_path)
    with pytest.raises(UserError, match=re.escape(message)):
        digests(tmp_path)


def test_an_installed_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "site", "installed_net")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert [path.name for _, path in packages.files("installed_net", tmp_path)] == ["installed_net.py"]
    built(tmp_path, "installed_net:build")


# ── training, evaluation, search ─────────────────────────────────────────────────────────────────────────────────────


def own_run(factory: str = FACTORY, modalities: tuple[str, ...] = ("video", "audio"), **training: Any) -> config.Run:
    settings = RUN.training.model_copy(update=training)
    return RUN.model_copy(update={"network": section(factory, modalities), "training": settings})


def trained(root: Path, name: str, run: config.Run) -> Path:
    key = run_key(name)
    progress, _ = train.train(key, run, EMOTIONS, root, checkpoint.Checkpoint(root / key.checkpoint, "the same"))
    write_model(root / key.model, progress.kept, EMOTIONS, run)
    train.write_history(root / key.history, progress)
    return root / key.model


def test_the_documented_example_is_trained_and_scored(tmp_path: Path) -> None:
    assert len(EXAMPLE.splitlines()) + len(yaml.safe_dump(VARIANT).splitlines()) <= 30
    make_corpus(tmp_path)
    (tmp_path / "my_net.py").write_text(EXAMPLE)
    run = own_run(selection="nested", epochs=6, learning_rate=3e-3, average_decay=0.5)
    assert run.loss.metric == "learnable"
    model, again = (trained(tmp_path, name, run) for name in ("a", "b"))
    assert model.read_bytes() == again.read_bytes()
    _, description = read_model(model)
    assert description["network"] == {"modalities": ["video", "audio"], "factory": FACTORY, "options": {}}
    evaluate.evaluate(run_key("a"), run, EMOTIONS, tmp_path)
    scores = read_json(tmp_path / run_key("a").metrics)
    assert scores["clips"] == 8
    assert scores["validation"]["uar"] > 0.4  # chance is 0.25
    with pytest.raises(UserError, match="was trained with another network"):
        evaluate.evaluate(run_key("a"), RUN.model_copy(update={"network": section()}), EMOTIONS, tmp_path)


def test_weights_that_modules_share_are_averaged_once(tmp_path: Path) -> None:
    from emofuse.training.averaging import AveragedNetwork

    write(tmp_path, made="self.layer = nn.Linear(2304, classes); self.again = self.layer")
    network = built(tmp_path)
    averaged = AveragedNetwork(network, 0.5)
    before = averaged.network.state_dict()["layer.weight"].clone()
    with torch.no_grad():
        network.get_parameter("layer.weight").add_(1)
    averaged.update(1000)
    assert torch.allclose(averaged.network.state_dict()["layer.weight"] - before, torch.tensor(0.5), atol=1e-5)


def test_a_search_tries_options_and_notices_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, returned="(scores, x[:, :8])")
    view = {"segments": 3, "frames": 32}  # for which the network is
    params = loaded(tmp_path, {"factory": FACTORY, "modalities": ["audio"]}, spectrogram=view)
    development = params.corpus("demo").model_copy(update={"development": True})
    params = params.model_copy(update={"corpora": {**params.corpora, "demo": development}})
    make_corpus(tmp_path).rename(tmp_path / "data" / "demo")
    training = {"epochs": 1, "warmup_epochs": 0, "emotions_per_batch": 4, "clips_per_emotion": 2, "threads": 1}
    file = tmp_path / "candidates.yaml"
    wide = {"base": "my_net", "network": {"options": {"width": 16}}, "training": training}
    file.write_text(yaml.safe_dump({"wide": wide}))

    def overrides() -> dict[str, Any]:
        for cached in (code.digest, code.of_package):
            cached.cache_clear()
        search.run(params, "demo", "kfold_3", file, "0", None, tmp_path)
        (row,) = read_csv(tmp_path / "results/demo/search.csv").to_dict("records")
        return dict(json.loads(row["overrides"]))

    first = overrides()
    assert first["network"] == {"options": {"width": 16}}
    monkeypatch.setattr(search, "train", lambda *given, **options: pytest.fail("trained again"))
    assert overrides() == first
    write(tmp_path, returned="(scores, x[:, :9])")
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        overrides()


# ── reports ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_report_describes_a_variant_of_a_factory(tmp_path: Path) -> None:
    write(tmp_path)
    params = loaded(tmp_path, {"factory": FACTORY, "modalities": ["audio"], "options": {"width": 4}})
    run = params.run("demo", "my_net")
    described = {name: group.describe(run) for name, group in comparison.GROUPS.items()}
    assert described == {"modality": "audio", "attention": FACTORY, "fusion": FACTORY, "loss": "learnable"}
    values = assumptions.read("demo", "my_net", params, ROOT).set_index("parameter")["value"]
    assert values["network.factory"] == FACTORY
    assert values["network.options.width"] == "4"
    assert not [name for name in values.index if name.startswith(("network.heads", "network.video"))]
    results: Any = SimpleNamespace(leading=[SimpleNamespace(folds=(1,), setup=run, variant="my_net")])
    (text,) = attention(results).texts
    assert "does not tell its attention" in " ".join(text.get_text().split())


# ── models in use: nothing is imported that was not asked for ────────────────────────────────────────────────────────

EVIL = "open('imported', 'w')\ndef build(shapes, classes, **options): raise SystemExit"


def hostile(folder: Path, factory: str) -> Path:
    """An export of a model that names a factory, which is next to it, too."""
    folder.mkdir()
    own = own_run(factory, ("audio",))
    save_file({"x": torch.ones(1)}, folder / "m.safetensors", {"emofuse": json.dumps(describe(EMOTIONS, own))})
    model = {
        "fold": 0, "file": "m.safetensors", "sha256": bundle.sha256(folder / "m.safetensors"), "temperature": None,
        "commit": None, "made_from": {},
    }  # fmt: skip
    ensemble = own.model_dump(include={"network", "spectrogram"})
    described = {
        "emofuse": "0", "corpus": "demo", "title": "demo", "kind": "demo", "protocol": "kfold_3", "seed": 1,
        "emotions": list(EMOTIONS), "window": 1.0, "longest": 1.0, "faces": None,
        "audio": config.Audio(bands=24).model_dump(), "detector": None,
        "ensembles": [{"variant": "evil", **ensemble, "package": "0" * 64, "models": [model]}],
    }  # fmt: skip
    (folder / "bundle.json").write_text(json.dumps(described))
    return folder


@pytest.mark.parametrize("factory", ["evil:build", "evil.sub:build", "os:system", "subprocess:run"])
def test_a_model_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factory: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text(EVIL)
    folder = hostile(tmp_path / "export", factory)
    (folder / "evil.py").write_text(EVIL)
    found = bundle.read(folder)
    with pytest.raises(UserError, match=f"evil is a network of {factory}, which is not part of the models"):
        predictor.Models(*found)
    with pytest.raises(UserError, match=f"evil is a network of {factory}"):
        found[0].networks(found[0].ensembles[0], folder, None)
    with pytest.raises(UserError, match=f"--factory my_net:build: evil is a network of {factory}"):
        predictor.Models(*found, factory=FACTORY)
    with pytest.raises(UserError, match=r"not the version|is the name of a module of Python"):
        predictor.Models(*found, factory=factory)
    monkeypatch.setenv("EMOFUSE_FACTORY", "")
    from emofuse.inference import mlflow_model

    with pytest.raises(UserError, match="evil is a network of"):
        mlflow_model._load_pyfunc(str(folder))
    assert "evil" not in sys.modules
    assert not (tmp_path / "imported").exists()


def test_a_package_beside_the_models_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = hostile(tmp_path / "export", "evil:build")
    (folder / "evil.py").write_text(EVIL)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="no package evil"):
        predictor.Models(*bundle.read(folder), factory="evil:build")


# ── with the engines ─────────────────────────────────────────────────────────────────────────────────────────────────


def make_own(folder: Path, other: Path) -> None:
    """The micro corpus, run with the documented variant besides its own ones."""
    clone = micro.copied(other, folder)
    (clone / "my_net.py").write_text(EXAMPLE)

    def add(tree: dict[str, Any]) -> None:
        tree["variants"].update(VARIANT)
        tree["corpora"][micro.CORPUS]["variants"].append("my_net")

    micro.change(clone, add)
    micro.commit(clone, "my_net")
    assert micro.ran(micro.run(clone, *micro.SNAKEMAKE)) == {
        "train micro kfold_3 my_net 1 0", "evaluate micro kfold_3 my_net 1 0", "report micro",
    }  # fmt: skip


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, micro_run: Path) -> Path:
    """A clone with the documented variant, in which everything has run. Copy it; do not change it."""
    return once(tmp_path_factory, "own-network", lambda folder: make_own(folder, micro_run)) / "emofuse"


@pytest.fixture
def clone(own: Path, tmp_path: Path) -> Path:
    return micro.copied(own, tmp_path)


@pytest.mark.integration
def test_results_of_the_documented_example_are_reported_tracked_and_verified(own: Path) -> None:
    rows = read_csv(own / "results/micro/tables/main.csv").set_index("variant")
    assert rows.at["my_net", "status"] == "run"
    assert float(rows.at["my_net", "war_mean"]) >= 0
    assert (f"{micro.CORPUS}/kfold_3/my_net/seed-1/fold-0", "FINISHED") in micro.runs(own)
    record = read_json(own / f"{RUN_FOLDER}/fold-0.record.json")
    assert record["settings"]["network"] == {
        "modalities": ["video", "audio"], "factory": FACTORY, "options": {"width": 24},
    }  # fmt: skip
    assert record["settings"]["training"]["learning_rate"] == 0.003
    assert record["dirty"] is False
    assert "train: 3 verified" in micro.run(own, "emofuse", "verify", micro.CORPUS)
    assert micro.agrees(own, "snakemake")


@pytest.mark.integration
def test_the_documented_example_predicts_and_is_exported(clone: Path) -> None:
    video = next(micro.source(clone).rglob("*.mp4"))
    predict = ("emofuse", "predict", str(video), "--model")
    assert "add --factory my_net:build" in micro.run(clone, *predict, RUN_FOLDER, status=2)
    wrong = micro.run(clone, *predict, RUN_FOLDER, "--factory", "my_net:other", status=2)
    assert "--factory my_net:other: my_net is a network of my_net:build" in wrong
    ours = micro.run(clone, *predict, RUN_FOLDER.replace("my_net", "proposed"), status=2, EMOFUSE_FACTORY=FACTORY)
    assert "these models need none" in ours
    first = micro.run(clone, *predict, RUN_FOLDER, "--factory", FACTORY)
    assert "by my_net, 1 model" in first
    assert "does not tell its attention" in (clone / "predictions" / "predictions.html").read_text()
    micro.run(clone, "emofuse", "export", RUN_FOLDER, "exported", EMOFUSE_FACTORY=FACTORY)
    card = (clone / "exported" / "README.md").read_text()
    assert "Built by `my_net:build`" in card
    assert "--factory my_net:build video.mp4" in card
    assert "my_net:build, package " in (clone / "exported" / "MLmodel").read_text()
    assert not list((clone / "exported").rglob("*.py"))
    assert "add --factory" in micro.run(clone, *predict, "exported", status=2)
    assert micro.run(clone, *predict, "exported", EMOFUSE_FACTORY=FACTORY) == first
    (clone / "my_net.py").write_text(EXAMPLE.replace("relu", "tanh"))
    other = micro.run(clone, *predict, "exported", EMOFUSE_FACTORY=FACTORY, status=2)
    assert "the package my_net here is not the version with which my_net was trained" in other
    assert "stale" in micro.run(clone, *predict, RUN_FOLDER, EMOFUSE_FACTORY=FACTORY, status=2)


@pytest.mark.integration
def test_an_export_is_served_if_the_factory_is_named(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own)
    export.write(bundle.find(RUN_FOLDER, own), config.load(), tmp_path / "exported", FACTORY)
    import mlflow.pyfunc

    from emofuse.inference.mlflow_model import example

    with pytest.raises(UserError, match="add --factory my_net:build, or set EMOFUSE_FACTORY"):
        mlflow.pyfunc.load_model(str(tmp_path / "exported"))
    monkeypatch.setenv("EMOFUSE_FACTORY", FACTORY)
    (row,) = mlflow.pyfunc.load_model(str(tmp_path / "exported")).predict(example()).to_dict("records")
    assert row["variant"] == "my_net"
    program = torch.export.load(next((tmp_path / "exported").rglob("*.pt2"))).module()
    found, folder = bundle.read(tmp_path / "exported")
    (network,) = found.networks(found.ensembles[0], folder, FACTORY)
    clips = {name: torch.rand(3, *shape) for name, shape in found.shapes(found.ensembles[0]).items()}
    assert torch.allclose(program(clips), network(clips)[0], atol=1e-4)


def test_a_network_that_torch_cannot_export_is_one_line(tmp_path: Path) -> None:
    write(tmp_path, returned="(scores, x) if float(x.sum()) > -1 else (scores + 1, x)")
    network = built(tmp_path)
    with pytest.raises(UserError, match=r"m\.pt2: torch\.export cannot export this network \(.+\)") as raised:
        export._program(network.eval(), {"audio": torch.rand(2, *SHAPES["audio"])}, tmp_path / "m.pt2")
    assert "\n" not in str(raised.value)


@pytest.mark.integration
def test_another_package_reruns_its_variant_under_snakemake_and_is_never_imported_by_a_dry_run(clone: Path) -> None:
    module = clone / "my_net.py"
    module.write_text(f"# a comment\n{EXAMPLE}")
    assert micro.planned(clone) == set()
    module.write_text(f"open('imported', 'w')\n{EXAMPLE}")
    mine = {f"{stage} micro kfold_3 my_net 1 0" for stage in ("train", "evaluate")}
    assert micro.planned(clone) == {*mine, "report micro"}
    assert "`emofuse train micro kfold_3 my_net 1 0` ran with other code" in micro.run(
        clone, "emofuse", "verify", micro.CORPUS, status=2
    )
    refused = micro.run(clone, "emofuse", "evaluate", *["micro", "kfold_3", "my_net", "1", "0"], status=2)
    assert "stale: `emofuse train micro kfold_3 my_net 1 0` ran with other code" in refused
    assert not (clone / "imported").exists()
    module.write_text("def (")
    for command in (("snakemake", micro.CORPUS, "-n"), ("emofuse", "source", micro.CORPUS)):
        printed = micro.run(clone, *command, status=None)
        assert "my_net.py, line 1: invalid syntax" in printed
        assert "Traceback" not in printed
    module.unlink()
    printed = micro.run(clone, "snakemake", micro.CORPUS, "-n", status=None)
    assert "network.factory my_net:build: no package my_net and no module my_net.py" in printed
    assert "Traceback" not in printed


@pytest.mark.integration
def test_a_factory_that_fails_ends_the_training_with_one_line(clone: Path) -> None:
    (clone / "my_net.py").write_text(
        EXAMPLE.replace("return self.classifier(embedding), embedding", "return embedding")
    )
    printed = micro.run(clone, "emofuse", "train", *["micro", "kfold_3", "my_net", "1", "0"], status=2)
    (line,) = printed.strip().splitlines()
    assert (
        "network.factory my_net:build: its network returned float32 (2, 48) for 2 clips; expected scores (2, 8)" in line
    )


@pytest.mark.integration
def test_results_are_published_with_a_committed_package(clone: Path) -> None:
    publish = ("emofuse", "publish", micro.CORPUS, "--why", "a test")
    (clone / "my_net.py").write_text(f"# a comment\n{EXAMPLE}")
    assert re.search("uncommitted changes in .*my_net: commit them", micro.run(clone, *publish, status=2))
    micro.commit(clone, "comment")
    micro.run(clone, *publish)
    assert "results/published/micro: intact, up to date" in micro.run(clone, "emofuse", "verify", micro.CORPUS)


@pytest.mark.integration
def test_dvc_notices_another_package(clone: Path) -> None:
    assert micro.ran(micro.run(clone, *micro.DVC)) == set()
    assert read_json(clone / "data/micro/factories.json").keys() == {"my_net"}
    (clone / "my_net.py").write_text(EXAMPLE.replace("relu", "tanh"))
    micro.run(clone, "emofuse", "source", micro.CORPUS)
    status = micro.run(clone, "dvc", "status", f"models@{micro.CORPUS}", f"features@{micro.CORPUS}")
    assert re.search(r"models@micro:\s+changed deps:\s+modified:\s+data/micro/factories\.json", status)
    assert "features@micro" not in status
    assert micro.ran(micro.run(clone, *micro.DVC)) == {
        "train micro kfold_3 my_net 1 0", "evaluate micro kfold_3 my_net 1 0", "report micro",
    }  # fmt: skip
    assert "train: 3 verified" in micro.run(clone, "emofuse", "verify", micro.CORPUS)
