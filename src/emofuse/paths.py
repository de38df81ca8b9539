"""Every path of the pipeline, relative to the root of the repository.

Arguments may be wildcards (`"{corpus}"`), so that Snakemake's rules and the stages use the same functions.
"""

from __future__ import annotations

from dataclasses import asdict, astuple, dataclass
from typing import Any, Self

LITERATURE = tuple(f"literature/{name}.csv" for name in ("assumptions", "listeners", "paper", "published"))
PUBLISHED = "results/published"
TABLES = (
    "main", "modality", "attention", "fusion", "loss", "compactness", "literature", "audit", "across", "recall",
    "calibration", "folds", "search", "assumptions",
)  # fmt: skip
FIGURES = ("confusion", "calibration", "learning_curves", "folds", "distances", "embeddings", "attention")
PAPER = tuple(f"results/paper.{suffix}" for suffix in ("md", "html", "tex"))


# Pretrained weights: name → file name of the publisher.
WEIGHTS = {
    "resnet18": "resnet18-f37072fd.pth",
    "r3d_18": "r3d_18-b3b3357e.pth",
    "retinaface_resnet50": "retinaface_resnet50_2020-07-20-f168fae3c.zip",
    "retinaface_mobilenet0.25": "mobilenet0.25_Final.pth",
}


@dataclass(frozen=True, order=True)
class RunKey:
    """Identifies one training: a variant with one seed on one fold of a protocol."""

    corpus: str
    protocol: str
    variant: str
    seed: int
    fold: int

    @classmethod
    def wildcards(cls) -> Self:
        """The run whose parts are wildcards of Snakemake."""
        return cls(*(f"{{{name}}}" for name in cls.__dataclass_fields__))  # type: ignore[arg-type]

    @property
    def group(self) -> str:
        """The part of the path that all folds share: `<corpus>/<protocol>/<variant>/seed-<seed>`."""
        return f"{self.corpus}/{self.protocol}/{self.variant}/seed-{self.seed}"

    @property
    def model(self) -> str:
        """The trained network (safetensors)."""
        return f"models/{self}.safetensors"

    @property
    def history(self) -> str:
        """Losses of each epoch, and validation scores if there are validation actors (CSV)."""
        return f"models/{self}.csv"

    @property
    def trained(self) -> tuple[str, str]:
        """The outputs of the training, without its record."""
        return self.model, self.history

    @property
    def training_record(self) -> str:
        """The record of the training."""
        return record(self.model)

    @property
    def calibration(self) -> str:
        """The temperature fitted on inner halves of the training actors (JSON); only some runs have one."""
        return f"models/{self}.calibration.json"

    @property
    def calibration_record(self) -> str:
        """The record of that calibration."""
        return record(self.calibration)

    @property
    def evaluation_record(self) -> str:
        """The record of the evaluation."""
        return record_in(self.results)

    @property
    def checkpoint(self) -> str:
        """The state of an interrupted training. It is not an output, because Snakemake deletes those before a job."""
        return f"checkpoints/{self}.pt"

    def half_checkpoint(self, half: int) -> str:
        """The state of one of the two interrupted trainings of a calibration."""
        return f"checkpoints/{self}.half-{half}.pt"

    @property
    def results(self) -> str:
        """The folder of the evaluation."""
        return f"results/{self.corpus}/runs/{str(self).partition('/')[2]}"

    @property
    def metrics(self) -> str:
        """The scores on the test clips (JSON)."""
        return f"{self.results}/metrics.json"

    @property
    def predictions(self) -> str:
        """The probabilities of each test clip (CSV)."""
        return f"{self.results}/predictions.csv"

    @property
    def embeddings(self) -> str:
        """The embedding of each test clip (safetensors)."""
        return f"{self.results}/embeddings.safetensors"

    @property
    def scored(self) -> tuple[str, str, str]:
        """The outputs of the evaluation, without its record."""
        return self.metrics, self.predictions, self.embeddings

    def asdict(self) -> dict[str, Any]:
        """The parts by name."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.group}/fold-{self.fold}"


@dataclass(frozen=True, order=True)
class TransferKey:
    """Identifies the application of a fold's model to the clips of another corpus, `corpus`."""

    run: RunKey
    corpus: str

    @classmethod
    def wildcards(cls) -> Self:
        """The transfer whose parts are wildcards of Snakemake; that of the run's corpus is {source}."""
        return cls(RunKey("{source}", *astuple(RunKey.wildcards())[1:]), "{corpus}")

    @property
    def group(self) -> str:
        """What all folds share: their folder in results/<corpus>/runs, `across/<source>/<protocol>/<variant>/seed-<seed>`."""
        return f"across/{self.run.group}"

    @property
    def results(self) -> str:
        """The folder of the outputs."""
        return f"results/{self.corpus}/runs/across/{self.run}"

    @property
    def metrics(self) -> str:
        """The scores, and which clips were left out (JSON)."""
        return f"{self.results}/metrics.json"

    @property
    def predictions(self) -> str:
        """The probabilities of each clip (CSV)."""
        return f"{self.results}/predictions.csv"

    @property
    def scored(self) -> tuple[str, str]:
        """The outputs, without their record."""
        return self.metrics, self.predictions

    @property
    def record(self) -> str:
        """The record of the job."""
        return record_in(self.results)

    def asdict(self) -> dict[str, Any]:
        """The arguments of the job's command by name."""
        named = self.run.asdict()
        return {"source": named.pop("corpus"), **named, "corpus": self.corpus}


def record(output: str) -> str:
    """The record of a job whose outputs share a base name: `<name>.record.json` next to them."""
    return f"{output.rpartition('.')[0]}.record.json"


def record_in(folder: str) -> str:
    """The record of a job whose outputs are all in one folder: `record.json` in that folder."""
    return f"{folder}/record.json"


def weights(name: str) -> str:
    """Pretrained weights by name."""
    return f"data/weights/{WEIGHTS[name]}"


def raw(corpus: str, shard: int | str) -> str:
    """The clips of one shard (zip)."""
    return f"data/{corpus}/raw/shard-{shard}.zip"


def raw_record(corpus: str, shard: int | str) -> str:
    """The record of a download. It is not next to the clips, which DVC must not cache, so that DVC can version it."""
    return f"data/{corpus}/download/shard-{shard}.record.json"


def index(corpus: str) -> str:
    """The clips of a corpus and their labels (CSV)."""
    return f"data/{corpus}/index.csv"


def features(corpus: str, stage: str, shard: int | str) -> tuple[str, str]:
    """The features of one shard: an array (NumPy) and its table (CSV). `stage` is "faces" or "audio"."""
    base = f"data/{corpus}/features/{stage}/shard-{shard}"
    return f"{base}.npy", f"{base}.csv"


def splits(corpus: str, protocol: str) -> tuple[str, str]:
    """The clips of a corpus and the folds of a protocol (CSV)."""
    base = f"data/{corpus}/splits/{protocol}"
    return f"{base}/clips.csv", f"{base}/folds.csv"


def splits_record(corpus: str, protocol: str) -> str:
    """The record of the splits."""
    return record_in(f"data/{corpus}/splits/{protocol}")


def across(corpus: str) -> str:
    """The state of the other corpora's runs that are applied to a corpus (JSON), for DVC."""
    return f"data/{corpus}/across.json"


def summary(corpus: str) -> str:
    """The scores of every run of a corpus (JSON), shown by `dvc metrics show`."""
    return f"results/{corpus}/metrics.json"


def search(corpus: str) -> str:
    """Configurations compared on a development corpus (CSV); other corpora have no such file."""
    return f"results/{corpus}/search.csv"


def report(corpus: str) -> list[str]:
    """Every file of a corpus's report. The list does not depend on what has been run."""
    base = f"results/{corpus}"
    return [
        *(f"{base}/tables/{table}.{suffix}" for table in TABLES for suffix in ("md", "csv", "tex")),
        *(f"{base}/figures/{figure}.{suffix}" for figure in FIGURES for suffix in ("png", "svg")),
        f"{base}/report.html",
        summary(corpus),
    ]
