"""Python packages of the user, which `network.factory` names: where they are, and their import.

They are in the folder that holds params.yaml, or installed. `find` and `files` import nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from emofuse.utils.errors import UserError

OUTPUTS = ("data", "models", "results", "checkpoints", "logs")  # of the pipeline: each job would change the package


def package(factory: str) -> str:
    """The top-level package, or single module, of a factory "package.module:function"."""
    return factory.partition(":")[0].partition(".")[0]


def find(name: str, root: Path) -> ModuleSpec:
    """Where a top-level package is: in `root`, or installed. Raises `UserError` if it is in neither."""
    if name in OUTPUTS or name in sys.stdlib_module_names:
        taken = "a folder of outputs" if name in OUTPUTS else "a module of Python"
        raise UserError(f"{name} is the name of {taken}; give the package another name")
    local = PathFinder.find_spec(name, [str(root.resolve())])
    if local and _has_source(local):
        return local
    try:
        installed = importlib.util.find_spec(name)
    except ValueError:  # something that is no module is imported under this name
        installed = None
    if installed and _has_source(installed):
        return installed
    if local or installed:
        raise UserError(f"the folder {name} is not a package; add the file {name}/__init__.py")
    raise UserError(
        f"no package {name} and no module {name}.py, neither in the folder of params.yaml nor installed; add it, or"
        " correct the name"
    )


def _has_source(spec: ModuleSpec) -> bool:
    return spec.origin is not None and Path(spec.origin).is_file()


def files(name: str, root: Path) -> Iterator[tuple[str, Path]]:
    """The files of a top-level package, with their paths in it, sorted; a single module is one file.

    Files that Python compiles, and hidden ones, are left out. Raises `UserError` for a package that is missing or
    contains a link to a folder, whose files would be left out.
    """
    spec = find(name, root)
    top = Path(str(spec.origin))
    if spec.submodule_search_locations is None:
        yield top.name, top
        return
    for folder, inside, names in os.walk(top.parent):
        inside[:] = sorted(each for each in inside if not each.startswith(".") and each != "__pycache__")
        for each in inside:
            if (path := Path(folder, each)).is_symlink():
                raise UserError(f"{path} is a link to a folder, in which changes are not noticed; copy the folder")
        for each in sorted(names):
            if not each.startswith(".") and not each.endswith(".pyc"):
                path = Path(folder, each)
                yield path.relative_to(top.parent).as_posix(), path


def load(factory: str, root: Path) -> Callable[..., Any]:
    """Import a factory. From `root`, only its own package can be imported, because only that is in code digests.

    Raises `UserError` for a package that is missing, or whose name is in use, and whatever its code raises.
    """
    module, function = factory.split(":")
    name = package(factory)
    spec = find(name, root)
    in_use = sys.modules.get(name)
    if in_use is None:
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]
            raise
    elif in_use.__file__ != spec.origin:
        raise UserError(f"{spec.origin}: the package {in_use.__file__} has the same name; rename yours")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return loaded
