"""The code digest of a stage: the SHA-256 of the syntax trees of all modules that its results depend on.

These are the stage's module and everything it imports from emofuse, directly or not, computed from the source. Comments,
docstrings and formatting are not in a syntax tree, so changing them reruns nothing. Templates, style sheets and tables
beside a module's package are included byte by byte.

`config` is covered by value: what it resolves for a job is the `settings` of the job's record. The modules in NO_EFFECT
cannot change a result, so that a better progress bar or error message does not invalidate published numbers.
"""

from __future__ import annotations

import ast
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]

STAGES = {
    "download": "emofuse.data.download",
    "weights": "emofuse.data.weights",
    "index": "emofuse.data.index",
    "faces": "emofuse.features.faces",
    "audio": "emofuse.features.audio",
    "splits": "emofuse.data.splits",
    "train": "emofuse.training.train",
    "evaluate": "emofuse.evaluation.evaluate",
    "report": "emofuse.report",
    "paper": "emofuse.report",
}
NO_EFFECT = (
    "emofuse.cli",
    "emofuse.config",
    "emofuse.provenance",
    "emofuse.tracking",
    "emofuse.utils.console",
    "emofuse.utils.errors",
    "emofuse.utils.locks",
    "emofuse.utils.progress",
)


@cache
def digest(stage: str, kind: str | None = None) -> str:
    """The code digest of a stage, for a kind of corpus: a stage that reads clips imports the corpus's module by name."""
    modules = closure(STAGES[stage])
    if kind and "emofuse.datasets" in modules:
        modules |= closure(f"emofuse.datasets.{kind}")
    lines = "".join(f"{module} {_digest(module)}\n" for module in sorted(modules))
    return hashlib.sha256(lines.encode()).hexdigest()


@cache
def closure(module: str) -> frozenset[str]:
    """A module and every emofuse module that it imports, directly or not, anywhere in its text, less NO_EFFECT."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        current = waiting.pop()
        if current not in seen and not any(f"{current}.".startswith(f"{name}.") for name in NO_EFFECT):
            seen.add(current)
            waiting += [*_parents(current), *_imports(current)]
    return frozenset(seen)


def _path(module: str) -> Path | None:
    """The file of an emofuse module; None for a name that is not a module."""
    base = PACKAGE.joinpath(*module.split(".")[1:])
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@cache
def _tree(module: str) -> ast.Module:
    path = _path(module)
    if path is None:
        raise ModuleNotFoundError(f"no module {module} under {PACKAGE}", name=module)
    tree: ast.Module = _Executed().visit(ast.parse(path.read_bytes(), filename=str(path)))
    return tree


class _Executed(ast.NodeTransformer):
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
    if path is not None and path.name == "__init__.py":  # a package's other files, such as a page's template
        for file in sorted(path.parent.glob("[!.]*")):
            if file.is_file() and file.suffix != ".py":
                digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """A syntax tree as nested lists, without positions and empty fields, which differ between versions of Python."""
    if isinstance(value, ast.AST):
        fields = [[name, _plain(field)] for name, field in ast.iter_fields(value) if field is not None and field != []]
        return [type(value).__name__, *fields]
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return repr(value)
