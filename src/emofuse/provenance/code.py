"""The code digest of a stage: the SHA-256 of the syntax trees of all modules that its results depend on.

These are the stage's module and everything it imports from emofuse, directly or not, computed from the source. Comments,
docstrings and formatting do not affect the digest, so changing them reruns nothing. Other files of a package (templates,
style sheets, tables) are included byte by byte.

A network of the user comes from a package of the user: all of its files count, by the same rules.

`config` is covered by value: the parameters that it resolves for a job are the `settings` of the job's record. The modules in
NO_EFFECT cannot change a result; changing a progress bar or an error message must not invalidate published numbers.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from emofuse.utils import packages
from emofuse.utils.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]

STAGES = {
    "download": "emofuse.data.download.clips",
    "weights": "emofuse.data.download.weights",
    "index": "emofuse.data.index",
    "faces": "emofuse.features.faces",
    "audio": "emofuse.features.audio",
    "splits": "emofuse.data.splits",
    "train": "emofuse.training.train",
    "calibrate": "emofuse.evaluation.calibrate",
    "evaluate": "emofuse.evaluation.evaluate",
    "transfer": "emofuse.evaluation.transfer",
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
def digest(stage: str, kind: str | None = None, package: str | None = None, root: Path = Path()) -> str:
    """The code digest of a stage. Stages that read clips import the module of the corpus's `kind` by name.

    `package` is that of the user's factory, if the job runs one; it is in `root` or installed.
    """
    modules = closure(STAGES[stage])
    if kind and "emofuse.datasets" in modules:
        modules |= closure(f"emofuse.datasets.{kind}")
    lines = "".join(f"{module} {_module(module)[0]}\n" for module in sorted(modules))
    if package:
        lines += f"{package} {of_package(package, root)}\n"
    return hashlib.sha256(lines.encode()).hexdigest()


@cache
def of_package(name: str, root: Path) -> str:
    """The digest of a package of the user. Raises `UserError` if it is missing, or a file of it cannot be read."""
    digest = hashlib.sha256()
    for file, path in packages.files(name, root):
        try:
            content = path.read_bytes()
            if path.suffix == ".py":
                content = _json(_Executed().visit(ast.parse(content, filename=str(path)))).encode()
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from None
        except (SyntaxError, ValueError, RecursionError) as error:
            line = getattr(error, "lineno", None)
            raise UserError(f"{path}{f', line {line}' if line else ''}: {getattr(error, 'msg', error)}") from None
        digest.update(f"{file} {hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest()


@cache
def closure(module: str) -> frozenset[str]:
    """A module and every emofuse module that it imports, directly or not, without NO_EFFECT. Late imports count too."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        current = waiting.pop()
        if current not in seen and not any(f"{current}.".startswith(f"{name}.") for name in NO_EFFECT):
            seen.add(current)
            waiting += [*_parents(current), *_module(current)[1]]
    return frozenset(seen)


def _path(module: str) -> Path | None:
    """The file of an emofuse module; None for a name that is not a module."""
    base = PACKAGE.joinpath(*module.split(".")[1:])
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _tree(module: str) -> ast.Module:
    path = _path(module)
    if path is None:
        raise ModuleNotFoundError(f"no module {module} under {PACKAGE}", name=module)
    tree: ast.Module = _Executed().visit(ast.parse(path.read_bytes(), filename=str(path)))
    return tree


class _Executed(ast.NodeTransformer):
    """Removes docstrings and `if TYPE_CHECKING` blocks."""

    def visit(self, node: ast.AST) -> Any:
        return node if isinstance(node, ast.expr) else super().visit(node)  # expressions contain no statements

    def generic_visit(self, node: ast.AST) -> ast.AST:
        body = getattr(node, "body", None)
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            del body[0]
        return super().generic_visit(node)

    def visit_If(self, node: ast.If) -> Any:
        if getattr(node.test, "id", getattr(node.test, "attr", None)) == "TYPE_CHECKING":  # typing.TYPE_CHECKING, too
            return [self.visit(child) for child in node.orelse]
        return self.generic_visit(node)


def _parents(module: str) -> list[str]:
    """The packages that contain a module; importing it imports them."""
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


@cache
def _module(module: str) -> tuple[str, tuple[str, ...]]:
    """The digest of a module, and the emofuse modules that it imports itself. The large syntax tree is not cached."""
    tree, path = _tree(module), _path(module)
    digest = hashlib.sha256(_json(tree).encode())
    inside = module.split(".")[:-1]
    if path is not None and path.name == "__init__.py":
        inside = module.split(".")
        for file in sorted(path.parent.glob("[!.]*")):  # other files of the package, such as templates
            if file.is_file() and file.suffix != ".py":
                digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest(), tuple(name for name in _imports(tree, inside) if _path(name) is not None)


def _imports(node: ast.AST, inside: list[str]) -> Iterator[str]:
    """The emofuse names that a module in the package `inside` imports: modules, or names in modules."""
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        above = inside[: len(inside) - node.level + 1] if node.level else []
        origin = ".".join([*above, *([node.module] if node.module else [])])
        names = [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
    yield from (name for name in names if name.split(".")[0] == "emofuse")
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):
            yield from _imports(child, inside)


def _json(value: Any) -> str:
    """A syntax tree as JSON, without positions and empty fields, which differ between versions of Python."""
    if isinstance(value, ast.AST):
        fields = [(name, getattr(value, name, None)) for name in value._fields]
        filled = [f', ["{name}", {_json(field)}]' for name, field in fields if field is not None and field != []]
        return f'["{type(value).__name__}"{"".join(filled)}]'
    if isinstance(value, list):
        return f"[{', '.join(map(_json, value))}]"
    return json.dumps(repr(value))
