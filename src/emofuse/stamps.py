"""Stamps: one small file a stage that changes exactly when the stage's parameters or code do.

Both engines take a stage's stamp as one of its inputs, so that a change of params.yaml or of the
code runs the stages it concerns and no others, whichever engine ran them before. A stamp is
stamps/<corpus>/<stage>.json: {"params": the resolved parameters of that stage, "code": SHA-256}.

`code` covers the syntax trees of the stage's module and of all that it imports from emofuse, and the
other files of those packages; a comment, a docstring or a line break voids no result. The trees are written out by this module
rather than by `ast.dump`, whose text differs between versions of Python.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emofuse import weights
from emofuse.errors import UserError
from emofuse.files import sha256, write_json, write_text

if TYPE_CHECKING:
    from emofuse.params import Corpus, Params

PACKAGE = Path(__file__).resolve().parent

MODULES = {
    "download": "emofuse.download",
    "index": "emofuse.index",
    "faces": "emofuse.faces",
    "audio": "emofuse.audio",
    "splits": "emofuse.splits",
    "train": "emofuse.training",
    "evaluate": "emofuse.evaluation",
    "track": "emofuse.tracking",
    "report": "emofuse.report",
}

# What of the corpus each stage depends on. Where clips come from (`source`) is in none: it does not change them.
# The stages train and evaluate have a stamp a variant, with its resolved network, loss and training.
CLIPS = ("kind", "modalities", "actors", "shards", "vocal", "labels", "sound", "demo")
KEYS = {
    "download": CLIPS,
    "index": CLIPS,
    "faces": ("faces",),
    "audio": ("audio",),
    "splits": ("split_seed", "validation_actors", "max_unusable", "modalities"),
    "track": ("protocols", "seeds", "variants", "audit"),
    "report": (
        *CLIPS, "title", "faces", "audio", "max_unusable", "protocols", "validation_actors", "split_seed", "seeds",
        "variants", "audit", "network", "loss", "training",
    ),
}  # fmt: skip

# They hand a stage its arguments and are no part of what it does; params would make every stage depend on every type.
OUTSIDE = {"emofuse.cli", "emofuse.params"}


def write(corpus: str, params: Params, root: Path | str = ".") -> None:
    """Bring stamps/<corpus>/ under `root` up to date; a stamp whose content is unchanged is not touched."""
    texts = {
        Path(root) / name: json.dumps(stamp, indent=2, ensure_ascii=False) + "\n"
        for name, stamp in current(corpus, params, root).items()
    }
    for path, text in texts.items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
    for path in (Path(root) / "stamps" / corpus).glob("[!.]*.json"):
        if path not in texts:  # of a variant or stage that params.yaml no longer has
            path.unlink(missing_ok=True)


def current(corpus: str, params: Params, root: Path | str = ".") -> dict[str, dict[str, Any]]:
    """The stamps of a corpus as params.yaml and the code have them: path from the root → {"params", "code"}."""
    return {f"stamps/{corpus}/{name}.json": stamp for name, stamp in _stamps(corpus, params, Path(root))}


def code(stage: str, kind: str) -> str:
    """The SHA-256 over the code that the stage runs for a corpus of that kind."""
    return _codes()[f"{stage} {kind}"]


@cache
def _codes() -> dict[str, str]:
    """Stage and kind of corpus → its code hash; kept beside the compiled modules until a file of the package changes."""
    sources = hashlib.sha256()
    for file in sorted(PACKAGE.rglob("*")):
        if file.is_file() and file.parent.name != "__pycache__":
            sources.update(f"{file.relative_to(PACKAGE)} {sha256(file)}\n".encode())
    kept = PACKAGE / "__pycache__" / f"stamps.{sys.implementation.cache_tag}.json"
    try:
        found = json.loads(kept.read_text(encoding="utf-8"))
        if found["sources"] == sources.hexdigest():
            return dict(found["codes"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    kinds = [file.stem for file in PACKAGE.glob("corpora/[!_]*.py")]
    codes = {f"{stage} {kind}": _code(stage, kind) for stage in MODULES for kind in kinds}
    with suppress(UserError):  # an installation that cannot be written to: it takes a third of a second
        write_json(kept, {"sources": sources.hexdigest(), "codes": codes})
    return codes


def _code(stage: str, kind: str) -> str:
    modules = _closure(MODULES[stage])
    if "emofuse.corpora" in modules:  # it imports the corpus's own module by name
        modules |= _closure(f"emofuse.corpora.{kind}")
    lines = "".join(f"{module} {_digest(module)}\n" for module in sorted(modules))
    return hashlib.sha256(lines.encode()).hexdigest()


def _stamps(name: str, params: Params, root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    corpus = params.corpus(name)
    for stage, keys in KEYS.items():
        if stage in ("faces", "audio") and getattr(corpus, stage) is None:
            continue
        parameters = corpus.model_dump(mode="json", include=set(keys))
        if stage == "report":  # its ledger shows them all
            parameters["general"] = params.model_dump(mode="json", include={"network", "loss", "training"})
            parameters["overrides"] = {variant: params.variants[variant].model_dump() for variant in corpus.variants}
        if stage in ("track", "report") and (log := root / "results" / name / "search.csv").is_file():
            parameters["search"] = sha256(log)  # a file that most corpora do not have, so that no graph names it
        yield stage, _stamp(stage, corpus, parameters)
    for variant in corpus.variants:
        run = params.run(name, variant)
        resolved = run.model_dump(mode="json")
        if local := {file: _hash(root / file) for file in weights.local(run.network)}:
            resolved["weights"] = local
        for stage in ("train", "evaluate"):
            yield f"{stage}-{variant}", _stamp(stage, corpus, resolved)


def _hash(weights_file: Path) -> str:
    if not weights_file.is_file():
        raise UserError(f"weights: {weights_file} is missing; params.yaml names it, for the network or for a variant")
    return sha256(weights_file)


def _stamp(stage: str, corpus: Corpus, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"params": parameters, "code": code(stage, corpus.kind)}


def _path(module: str) -> Path | None:
    """The file of an emofuse module; None for a name that is not a module."""
    base = PACKAGE.joinpath(*module.split(".")[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def _tree(module: str) -> ast.Module:
    path = _path(module)
    if path is None:
        raise ModuleNotFoundError(f"no module {module} under {PACKAGE}", name=module)
    tree = ast.parse(path.read_bytes(), filename=str(path))
    return _WhatRuns().visit(tree)


class _WhatRuns(ast.NodeTransformer):
    """Drops docstrings and what only type checkers see."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        body = getattr(node, "body", None)
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            del body[0]
        return super().generic_visit(node)

    def visit_If(self, node: ast.If) -> Any:
        if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            return [self.visit(child) for child in node.orelse]
        return self.generic_visit(node)


@cache
def _closure(module: str) -> frozenset[str]:
    """The module and every emofuse module that it imports, directly or not, wherever in its text."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        current = waiting.pop()
        if current in seen or current in OUTSIDE:
            continue
        seen.add(current)
        waiting += [*_parents(current), *_imports(current)]
    return frozenset(seen)


def _parents(module: str) -> list[str]:
    """The packages that are imported on the way to a module."""
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


@cache
def _imports(module: str) -> tuple[str, ...]:
    """The emofuse modules that a module's own text imports."""
    path = _path(module)
    inside = module.split(".") if path is not None and path.name == "__init__.py" else module.split(".")[:-1]
    names: list[str] = []
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = inside[: len(inside) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            names += [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
    return tuple(name for name in names if name.split(".")[0] == "emofuse" and _path(name) is not None)


@cache
def _digest(module: str) -> str:
    digest = hashlib.sha256(json.dumps(_plain(_tree(module))).encode())
    path = _path(module)
    if path is not None and path.name == "__init__.py":  # a package's other files, such as the page's template
        for file in sorted(path.parent.glob("[!.]*")):
            if file.is_file() and file.suffix != ".py":
                digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """A syntax tree as nested lists, without positions and without empty fields: new versions of Python add those."""
    if isinstance(value, ast.AST):
        fields = [[name, _plain(field)] for name, field in ast.iter_fields(value) if field is not None and field != []]
        return [type(value).__name__, *fields]
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return repr(value)
