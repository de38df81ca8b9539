"""What a Snakemake run finished, recorded in DVC's locks and cache."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dvc.repo import Repo


def commit(files: Iterable[str]) -> None:
    """Record in DVC the stages that made any of `files`, paths from the working folder, all of which are up to date.

    The same as `dvc commit --force --no-relink` of just those stages, but in one go: a command a stage
    reads and writes every dvc.lock anew. A plain `dvc commit` would certify whatever else lies about,
    and stop where a stage has not run yet. Files are not replaced by links, which would change their
    times. Does nothing inside a DVC stage, which records itself, or where EMOFUSE_DVC_COMMIT is 0;
    says why where it cannot: the results are whole without it, but `dvc repro` would make them again.
    """
    if "DVC_STAGE" in os.environ or os.environ.get("EMOFUSE_DVC_COMMIT") == "0":
        return
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from scmrepo.exceptions import SCMError

    made = {str(Path.cwd() / file) for file in files}
    made |= {str(parent) for file in made for parent in Path(file).parents}  # an output may be a folder of them
    try:
        with Repo() as repo, repo.lock:
            _mend_locks(repo)
            stages = [stage for stage in repo.index.stages if any(out.fs_path in made for out in stage.outs)]
            for dvcfile, group in groupby(stages, key=lambda stage: stage.dvcfile):
                whole = [stage for stage in group if all(item.exists for item in (*stage.deps, *stage.outs))]
                for stage in whole:
                    stage.save()
                    stage.commit(relink=False)
                dvcfile.dump_stages(whole, update_pipeline=False)
    except (DvcException, SCMError) as error:
        reason = " ".join(str(error).split())
        print(f"emofuse: not recorded in DVC, so dvc repro would make it again: {reason}", file=sys.stderr)


def _mend_locks(repo: Repo) -> None:
    """DVC writes its list of locked files in place: killed at that moment, it stops at the list ever after."""
    from dvc.lock import make_lock
    from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK

    folder = str(repo.tmp_dir)
    path = Path(folder) / RWLOCK_FILE
    with make_lock(os.path.join(folder, RWLOCK_LOCK), tmp_dir=folder):  # noqa: PTH118 - DVC takes no Path
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            pass
        except ValueError:
            path.unlink()
