"""The state of the runs of other corpora that are applied to a corpus, which DVC's stages of that corpus depend on.

DVC cannot list the files of other corpora per corpus. `emofuse source` therefore writes this state to
data/<corpus>/across.json. It changes whenever such a run has to be trained again, or has been with another result.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emofuse.config import Params
from emofuse.data.download import clips
from emofuse.data.protocols import protocol_path
from emofuse.provenance.records import Record
from emofuse.utils.files import sha256


def state(corpus: str, params: Params, root: Path) -> dict[str, Any]:
    """The state of each other corpus whose runs are applied to this one; {} if there is none.

    `params` is its section of params.yaml, `clips` and `files` are digests of its clips at their source and of its tables
    and protocols, `retrained` lists the models that are no longer those from which the results of this corpus were made.
    """
    found: dict[str, Any] = {}
    for source in params.corpus(corpus).across:
        section = params.corpus(source)
        protocols = (protocol_path(section.protocol_folder, protocol) for protocol in section.protocols)
        files = [*section.tables, *(str(path) for path in protocols if path)]
        found[source] = {
            "params": section.model_dump(mode="json", exclude={"source", "across"}),
            "clips": [clips.at_source(params, source, shard, root) for shard in section.shards],
            "files": {file: sha256(root / file) for file in files},
            "retrained": {},
        }
    for key in params.transfers(corpus):
        transfer, training = Record.read(root, key.record), Record.read(root, key.run.training_record)
        if transfer and training:
            inputs = {path: transfer.inputs.get(path) for path in key.run.trained}
            now = {path: training.outputs.get(path) for path in key.run.trained}
            found[key.run.corpus]["retrained"] |= {path: now[path] for path in now if now[path] != inputs[path]}
    return found
