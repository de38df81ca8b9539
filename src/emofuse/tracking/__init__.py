"""MLflow as a mirror of the result files: the files are the record, the store and they can be rebuilt from each other.

`Live` shows a long training while it runs. `track` then writes one finished run a fold from the
files on disk, whatever was or was not shown live, and running it again changes nothing. `restore`
writes those files back where they are lost, or never were: what the report's tables are made from,
so that there is one way to make a table. Models are not in the store; they are DVC's. `serve` opens the UI.

The store is `mlflow.db` (SQLite) and `mlartifacts/` in the repository's root, or the address in
MLFLOW_TRACKING_URI. MLflow writes absolute paths into its store, which a moved repository breaks;
ours says `mlflow-artifacts:/`, which the UI's own server resolves to `mlartifacts/` wherever that is.

An experiment is a corpus, a parent run a protocol, variant and seed, a child run a fold. A run is
found by its tag `emofuse.run_key`; the tags `emofuse.file.<artefact>` are the SHA-256 of its files. It is up to date
if it is finished and carries the tags that would be written now; else it is deleted, from the store
and not just from view where the store is a local file, and written anew. A file that is not here says
nothing against a run that has it. A run that has no results on disk, or is no longer in params.yaml,
stays, because nothing else may remember it, and its tag `emofuse.state` says so.

Importing MLflow costs seconds, so it is imported where it is first needed.
"""

from emofuse.tracking.live import Live
from emofuse.tracking.mirror import track
from emofuse.tracking.restoring import restore
from emofuse.tracking.store import RunKey, address, download, open_store, serve

__all__ = ["Live", "RunKey", "address", "download", "open_store", "restore", "serve", "track"]
