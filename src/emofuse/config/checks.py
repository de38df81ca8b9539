"""What one section of params.yaml cannot check by itself. Every mistake is a `UserError` that starts with the key's path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emofuse import datasets
from emofuse.config.section import LONGEST_NAME, check_known
from emofuse.data.protocols import KFOLD, RANDOM, protocol_path, read_protocol
from emofuse.datasets.emotions import VALENCE_AROUSAL
from emofuse.utils import packages
from emofuse.utils.console import printable
from emofuse.utils.errors import UserError

if TYPE_CHECKING:
    from emofuse.config.corpus import Corpus
    from emofuse.config.params import Params
    from emofuse.config.run import Run
    from emofuse.datasets.base import Actor


def check_fits(run: Run, name: str, corpus: Corpus, where: str) -> None:
    """Raise `UserError` if a run cannot be trained on a corpus of that name. `where` starts the message.

    Unless the modalities are averaged late, segment i and snippet i must cover the same moment of a clip.
    """
    if missing := sorted(set(run.network.modalities) - set(corpus.modalities)):
        raise UserError(f"{where} needs {', '.join(missing)}, which {name} lacks")
    if len(run.network.modalities) == 1 or run.network.averages_modalities or corpus.faces is None:
        return
    reason = "segment i and snippet i must cover the same moment"
    if run.spectrogram.segments != corpus.faces.snippets:
        raise UserError(
            f"{where}: spectrogram.segments: {run.spectrogram.segments} differs from faces.snippets"
            f" {corpus.faces.snippets}; {reason}"
        )
    if run.spectrogram.trim_db is not None:
        raise UserError(f"{where}: spectrogram.trim_db: only for sound alone; {reason}")


def check_size(tree: Any, path: Path) -> None:
    """Raise `UserError` for huge integers, and for aliases of aliases that would expand to more than fits in memory."""
    waiting = [tree]
    for _ in range(100_000):
        if not waiting:
            return
        value = waiting.pop()
        if isinstance(value, int) and abs(value) >= 2**63:
            raise UserError(f"{path}: a number has more than 63 bits")
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list | tuple | set):
            waiting += value
    raise UserError(f"{path}: too large; aliases (&, *) may expand to more than they seem")


def check_names(params: Params) -> None:
    """Raise `UserError` for a name that cannot be used, or that is referred to but not defined."""
    if "published" in params.corpora:
        raise UserError("corpora.published: results/published holds committed results; choose another name")
    for name in (*params.corpora, *params.variants):
        if len(name) > LONGEST_NAME:
            raise UserError(f"{name[:LONGEST_NAME]}…: names have at most {LONGEST_NAME} characters; shorten it")
    for name in params.paper:
        if name not in params.corpora:
            raise UserError(f"paper: there is no corpus {name!r} under corpora")
    for name, corpus in params.corpora.items():
        for key in ("variants", "audit"):
            for variant in getattr(corpus, key):
                if variant not in params.variants:
                    raise UserError(f"corpora.{name}.{key}: there is no variant {variant!r} under variants")


def check_packages(params: Params, root: Path) -> None:
    """Raise `UserError` for a variant whose factory is in a package that is missing."""
    for name, corpus in params.corpora.items():
        for variant in corpus.variants:
            network = params.run(name, variant).network
            if network.package:
                try:
                    packages.find(network.package, root)
                except UserError as error:
                    raise UserError(
                        f"corpora.{name}.variants: {variant}: network.factory {network.factory}: {error}"
                    ) from None


def check_emotions(params: Params, name: str) -> None:
    """Raise `UserError` for a loss that needs to know more about an emotion than its name."""
    emotions = params.corpora[name].classes.get("emotions", ())
    if unknown := next((emotion for emotion in emotions if emotion not in VALENCE_AROUSAL), None):
        for variant in params.corpora[name].variants:
            loss = params.run(name, variant).loss
            placed = loss.metric == "fixed" or (loss.metric == "learnable" and loss.start == "valence_arousal")
            if placed or loss.metric == "polarity":
                remedy = f"set corpora.{name}.loss.start: flat" if loss.metric == "learnable" else "remove the variant"
                raise UserError(
                    f"corpora.{name}.table.emotions: {unknown} has no known valence and arousal, which {variant} needs;"
                    f" {remedy} (known are {', '.join(VALENCE_AROUSAL)})"
                )


def check_across(params: Params, name: str) -> None:
    """Raise `UserError` for models of other corpora that do not exist, or that cannot be applied to this one."""
    corpus, where = params.corpora[name], f"corpora.{name}.across"
    for source_name, protocols in corpus.across.items():
        here = f"{where}.{source_name}"
        if source_name == name:
            raise UserError(f"{here}: this is the corpus itself, which its protocols test; name another one")
        check_known(where, "corpus", source_name, params.corpora)
        source = params.corpora[source_name]
        for protocol, variants in protocols.items():
            if protocol.startswith(RANDOM):
                raise UserError(
                    f"{here}: under {printable(protocol)}, training and validation share actors; name a protocol by actor"
                )
            check_known(here, "protocol", protocol, source.protocols)
            for variant in variants:
                check_known(f"{here}.{protocol}", "variant", variant, source.variants)
                needed = params.run(source_name, variant).network.modalities
                if missing := [modality for modality in needed if modality not in corpus.modalities]:
                    raise UserError(
                        f"{here}.{protocol}: {variant} needs {', '.join(missing)}, which {name} lacks, or which none of its"
                        " variants uses"
                    )
            if len(set(variants)) != len(variants):
                raise UserError(f"{here}.{protocol}: a variant is listed twice")
        if len(shared := source.shared_emotions(corpus)) < 2:
            raise UserError(
                f"{here}: at least two emotions must be the same; of {', '.join(source.emotions)} ({source_name}), {name} has"
                f" {', '.join(shared) or 'none'}"
            )


def check_folds(params: Params, name: str, root: Path) -> None:
    """Raise `UserError` for folds that a protocol of a corpus does not have, or that would be empty."""
    corpus, where = params.corpora[name], f"corpora.{name}"
    listed = _listed_actors(where, corpus, root)
    for protocol, folds in corpus.protocols.items():
        _check_folds(where, corpus, protocol, folds, listed, root)


def _listed_actors(corpus_path: str, corpus: Corpus, root: Path) -> Sequence[Actor] | None:
    """The actors in a corpus's table, if it has one. Raises `UserError` if params.yaml names others."""
    if corpus.table is None:
        return None
    listed = datasets.of(corpus, root).actors
    if corpus.actors != "all" and (unknown := [actor for actor in corpus.actors if actor not in listed]):
        raise UserError(f"{corpus_path}.actors: there is no actor {unknown[0]} in {corpus.table.metadata}; remove it")
    return listed


def _check_folds(
    corpus_path: str, corpus: Corpus, protocol: str, folds: list[int], listed: Sequence[Actor] | None, root: Path
) -> None:
    where = f"{corpus_path}.protocols.{protocol}"
    if len(set(folds)) != len(folds):
        raise UserError(f"{where}: a fold is listed twice")
    if generated := KFOLD.fullmatch(protocol.removeprefix(RANDOM)):
        number = int(generated[1])
        if number < 2:
            raise UserError(f"{where}: {number} fold(s) leave no training data")
        actors = listed if corpus.actors == "all" else corpus.actors
        if actors is not None and number > len(actors):
            raise UserError(f"{where}: {number} folds of {len(actors)} actors leave some empty")
        available = list(range(number))
    elif path := protocol_path(corpus.protocol_folder, protocol):
        if not (root / path).is_file():
            known = sorted(file.stem for file in (root / path).parent.glob("*.csv"))
            raise UserError(
                f"{where}: no such protocol; there are kfold_<k>, {', '.join(known)}, each also with the prefix random_"
            )
        published = read_protocol(root / path)
        available = sorted(published)
        if corpus.table and listed and (unknown := _tested(published) - set(listed)):
            raise UserError(
                f"{path}: actor {min(map(str, unknown))} is not in {corpus.table.metadata}; correct one of them"
            )
        if corpus.actors != "all":
            for fold in folds:
                if fold in published and not set(corpus.actors) & set(published[fold]["test"]):
                    raise UserError(
                        f"{where}: none of {corpus_path}.actors is in the test part of fold {fold}; remove the fold"
                    )
    for fold in folds:
        if fold not in available:
            raise UserError(
                f"{where}: there is no fold {fold}; {protocol} has {len(available)}, {available[0]} to {available[-1]}"
            )


def _tested(protocol: Mapping[int, Mapping[str, Sequence[Actor]]]) -> set[Actor]:
    """Every actor that a protocol names."""
    return {actor for parts in protocol.values() for actors in parts.values() for actor in actors}
