"""The content of params.yaml: what is run, and the parameters that each job depends on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from emofuse.config.checks import (
    check_across,
    check_emotions,
    check_fits,
    check_folds,
    check_names,
    check_packages,
    check_size,
)
from emofuse.config.corpus import Corpus
from emofuse.config.run import Loss, Network, Overrides, Run, Spectrogram, Training, overridden
from emofuse.config.section import Name, Section, check_known, validate
from emofuse.data.protocols import RANDOM
from emofuse.datasets.shards import FOLDERS
from emofuse.paths import RunKey, TransferKey
from emofuse.utils.errors import UserError
from emofuse.utils.files import read_yaml

# The halves are of the training actors (`emofuse calibrate`).
CalibratedOn = Literal["validation actors", "inner halves"]


class Params(Section):
    """The content of params.yaml."""

    corpora: Annotated[dict[Name, Corpus], Field(min_length=1)]
    paper: list[Name] = Field(description="the corpora of the paper, in the order of its tables")
    variants: dict[Name, Overrides]
    network: Network = Network()
    spectrogram: Spectrogram = Spectrogram()
    loss: Loss = Loss()
    training: Training = Training()

    @property
    def proposed(self) -> Run:
        """The proposed network and how it is trained, before the overrides of a corpus."""
        return Run(network=self.network, spectrogram=self.spectrogram, loss=self.loss, training=self.training)

    def corpus(self, name: str) -> Corpus:
        """A corpus by name. Raises `UserError` if params.yaml has none of that name."""
        check_known("corpora", "corpus", name, self.corpora)
        return self.corpora[name]

    def keys(self, corpus: str) -> list[RunKey]:
        """Every fold of every run of a corpus."""
        return [
            RunKey(corpus, protocol, variant, seed, fold)
            for protocol, variant, seed, folds in self.corpus(corpus).runs()
            for fold in folds
        ]

    def calibrated_on(self, key: RunKey) -> CalibratedOn | None:
        """What the temperature of a fold is fitted on; None if it has none, and its probabilities stay uncalibrated."""
        section = self.corpus(key.corpus)
        if self.run(key.corpus, key.variant).training.selection == "nested":
            return "validation actors"
        chosen = key.variant in section.calibrated and key.seed == section.seeds[0]
        return "inner halves" if chosen and not key.protocol.startswith(RANDOM) else None

    def transfers(self, corpus: str) -> list[TransferKey]:
        """Every fold of other corpora's runs that is applied to a corpus."""
        return [
            TransferKey(RunKey(source, protocol, variant, seed, fold), corpus)
            for source, protocols in self.corpus(corpus).across.items()
            for protocol, variants in protocols.items()
            for variant in variants
            for seed in self.corpus(source).seeds
            for fold in self.corpus(source).protocols[protocol]
        ]

    def kind(self, key: Mapping[str, Any]) -> str | None:
        """The kind of corpus that a job belongs to; None for jobs that belong to no corpus. `key` is the job's."""
        return self.corpus(key["corpus"]).kind if "corpus" in key else None

    def package(self, key: Mapping[str, Any]) -> str | None:
        """The package that a job runs besides ours: that of its variant's factory. `key` is the job's."""
        trained_on = key.get("source", key.get("corpus"))
        return self.run(trained_on, key["variant"]).network.package if "variant" in key else None

    def packages(self, corpus: str) -> list[str]:
        """The packages of the factories of a corpus's variants, and of the runs that are applied to it, sorted."""
        runs = {(corpus, variant) for variant in self.corpus(corpus).variants}
        runs |= {(key.run.corpus, key.run.variant) for key in self.transfers(corpus)}
        return sorted({name for run in runs if (name := self.run(*run).network.package)})

    def run(self, corpus: str, variant: str) -> Run:
        """What a variant is trained with: the proposed sections, overridden by the corpus, then by the variant.

        Raises `UserError` for a corpus or variant that params.yaml does not run.
        """
        check_known(f"corpora.{corpus}.variants", "variant", variant, self.corpus(corpus).variants)
        return self._resolved[corpus, variant]

    def settings(self, stage: str, corpus: str = "", variant: str = "", **key: Any) -> dict[str, dict[str, Any]]:
        """The resolved parameters of a job, by section. Its outputs depend on no other parameters.

        `stage` and the other arguments are those of its command. Raises `UserError` for a job that params.yaml does not
        include.
        """
        if stage == "weights":
            return {}
        if stage == "paper":
            return {name: self.settings("report", name) for name in self.paper}
        section = self.corpus(corpus)
        match stage:
            case "download" | "index":
                return {"clips": section.clips}
            case "faces" | "audio":
                features: Section | None = getattr(section, stage)
                if features is None:
                    raise UserError(f"corpora.{corpus}: this corpus has no {stage}")
                return {stage: features.model_dump(mode="json")}
            case "splits":
                check_known(f"corpora.{corpus}.protocols", "protocol", key["protocol"], section.protocols)
                keys = {"split_seed", "validation_actors", "max_unusable", "modalities"}
                return {"splits": section.model_dump(mode="json", include=keys)}
            case "train" | "calibrate" | "evaluate":
                run = self.planned(corpus, variant=variant, **key).model_dump(mode="json")
                run["classes"] = section.classes
                calibrated_on = self.calibrated_on(RunKey(corpus=corpus, variant=variant, **key))
                if stage == "calibrate" and calibrated_on != "inner halves":
                    raise UserError(
                        f"corpora.{corpus}.calibrated: {variant} with seed {key['seed']} under {key['protocol']} is not calibrated"
                        " by two further trainings; that is for training.selection: last, the variants listed there, the first"
                        " seed, and protocols by actor"
                    )
                if stage != "evaluate":
                    return run
                return {
                    "network": run["network"],
                    "spectrogram": run["spectrogram"],
                    "training": {"threads": run["training"]["threads"]},
                    "calibration": {"from": calibrated_on},
                    "classes": run["classes"],
                }
            case "transfer":
                applied = self.applied(corpus, variant=variant, **key)
                source = self.corpus(key["source"])
                stages = {modality: FOLDERS[modality] for modality in applied.network.modalities}
                return {
                    **applied.model_dump(mode="json", include={"network", "spectrogram"}),
                    "training": {"threads": applied.training.threads},
                    "features": {stage: getattr(source, stage).model_dump(mode="json") for stage in stages.values()},
                    "classes": {"emotions": list(source.emotions), "shared": list(source.shared_emotions(section))},
                    "clips": {"max_unusable": section.max_unusable},
                }
            case "report":
                return {
                    "corpus": section.model_dump(mode="json", exclude={"source"}),
                    "proposed": self.proposed.model_dump(mode="json"),
                    "variants": {name: self.variants[name].model_dump(mode="json") for name in section.variants},
                    "across": {
                        source: self.corpora[source].model_dump(
                            mode="json", include={"seeds", "protocols", "development"}
                        )
                        for source in section.across
                    },
                }
        raise KeyError(stage)

    def planned(self, corpus: str, protocol: str, variant: str, seed: int, fold: int) -> Run:
        """What a fold is trained with. Raises `UserError` for a fold that params.yaml does not include."""
        section, where = self.corpus(corpus), f"corpora.{corpus}"
        check_known(f"{where}.protocols", "protocol", protocol, section.protocols)
        key = "audit" if protocol.startswith(RANDOM) else "variants"
        check_known(f"{where}.{key}", "variant", variant, section.variants_under(protocol))
        check_known(f"{where}.seeds", "seed", seed, section.seeds_under(protocol))
        check_known(f"{where}.protocols.{protocol}", "fold", fold, section.protocols[protocol])
        return self.run(corpus, variant)

    def applied(self, corpus: str, source: str, protocol: str, variant: str, seed: int, fold: int) -> Run:
        """What a fold of `source`, which is applied to another corpus, is trained with.

        Raises `UserError` for one that params.yaml does not include.
        """
        where, across = f"corpora.{corpus}.across", self.corpus(corpus).across
        check_known(where, "corpus", source, across)
        check_known(f"{where}.{source}", "protocol", protocol, across[source])
        check_known(f"{where}.{source}.{protocol}", "variant", variant, across[source][protocol])
        return self.planned(source, protocol, variant, seed, fold)

    @cached_property
    def _resolved(self) -> dict[tuple[str, str], Run]:
        return {
            (name, variant): _resolve(self, name, variant)
            for name, corpus in self.corpora.items()
            for variant in corpus.variants
        }


def _resolve(params: Params, corpus_name: str, variant: str) -> Run:
    corpus = params.corpora[corpus_name]
    run = params.proposed
    for where, layer in ((f"corpora.{corpus_name}", corpus), (f"variants.{variant}", params.variants[variant])):
        run = overridden(run, {section: getattr(layer, section) for section in Run.model_fields}, where)
    check_fits(run, corpus_name, corpus, f"corpora.{corpus_name}.variants: {variant}")
    return run


def _without_unused(params: Params, name: str) -> Corpus:
    """A corpus without the modality that none of its variants uses, so that nothing is fetched or computed for it."""
    corpus = params.corpora[name]
    used = {modality for variant in corpus.variants for modality in params.run(name, variant).network.modalities}
    unused = {FOLDERS[modality]: None for modality in corpus.modalities if modality not in used}
    modalities = [modality for modality in corpus.modalities if modality in used]
    return corpus.model_copy(update={"modalities": modalities, **unused})


def load(path: Path | str = "params.yaml") -> Params:
    """Read and validate params.yaml.

    Raises `UserError`, one line that starts with the path of the key, for a missing file, invalid YAML, unknown keys, wrong
    types, and values that are impossible or contradict each other.
    """
    path = Path(path)
    tree = read_yaml(path, missing="run emofuse in the folder that holds params.yaml")
    check_size(tree, path)
    params = validate(Params, tree)
    check_names(params)
    for variant, changes in params.variants.items():
        overridden(params.proposed, changes.model_dump(), f"variants.{variant}")
    for name in params.corpora:
        check_folds(params, name, path.parent)
        check_emotions(params, name)
    check_packages(params, path.parent)
    params = params.model_copy(update={"corpora": {name: _without_unused(params, name) for name in params.corpora}})
    for name in params.corpora:
        check_across(params, name)
    return params


def schema() -> str:
    """The JSON schema of params.yaml, as text."""
    value = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Params.model_json_schema()}
    return json.dumps(value, indent=2) + "\n"
