"""Where files lie, from the repository's root: every path of the pipeline is spelled here and nowhere else.

Arguments may be wildcards (`"{corpus}"`), so that Snakemake's rules use the same functions as the stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

LITERATURE = tuple(f"literature/{name}.csv" for name in ("assumptions", "listeners", "paper", "published"))
PUBLISHED = "results/published"
TABLES = (
    "main", "modality", "attention", "fusion", "loss", "compactness", "literature", "audit", "recall", "calibration",
    "folds", "search", "assumptions",
)  # fmt: skip
FIGURES = ("confusion", "calibration", "learning_curves", "folds", "distances", "embeddings", "attention")
PAPER = tuple(f"results/paper.{suffix}" for suffix in ("md", "html", "tex"))


# Pretrained weights by name, as their makers call the files.
WEIGHTS = {
    "resnet18": "resnet18-f37072fd.pth",
    "r3d_18": "r3d_18-b3b3357e.pth",
    "retinaface_resnet50": "retinaface_resnet50_2020-07-20-f168fae3c.zip",
    "retinaface_mobilenet0.25": "mobilenet0.25_Final.pth",
}


@dataclass(frozen=True, order=True)
class RunKey:
    """Identifies one training: a variant with a seed on one fold of a protocol."""

    corpus: str
    protocol: str
    variant: str
    seed: int
    fold: int

    @classmethod
    def of(cls, key: Mapping[str, Any]) -> Self:
        """The run of a record's key."""
        return cls(*(key[name] for name in cls.__dataclass_fields__))

    @classmethod
    def wildcards(cls) -> Self:
        """The run whose parts are Snakemake's wildcards."""
        return cls(*(f"{{{name}}}" for name in cls.__dataclass_fields__))  # type: ignore[arg-type]

    @property
    def group(self) -> str:
        """What the folds of a run share: `<corpus>/<protocol>/<variant>/seed-<seed>`."""
        return f"{self.corpus}/{self.protocol}/{self.variant}/seed-{self.seed}"

    @property
    def model(self) -> str:
        """The trained network (safetensors)."""
        return f"models/{self}.safetensors"

    @property
    def history(self) -> str:
        """The epochs of the training (CSV)."""
        return f"models/{self}.csv"

    @property
    def trained(self) -> tuple[str, str]:
        """What training writes besides its record."""
        return self.model, self.history

    @property
    def training_record(self) -> str:
        """The record of the training."""
        return record(self.model)

    @property
    def evaluation_record(self) -> str:
        """The record of the evaluation."""
        return record_in(self.results)

    @property
    def checkpoint(self) -> str:
        """What an interrupted training resumes from; outside the outputs, which Snakemake deletes before a job."""
        return f"checkpoints/{self}.pt"

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
        """What evaluation writes besides its record."""
        return self.metrics, self.predictions, self.embeddings

    def asdict(self) -> dict[str, Any]:
        """The parts by name."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.group}/fold-{self.fold}"


def record(output: str) -> str:
    """The record of a job whose outputs are files of one name: beside them, `<name>.record.json`."""
    return f"{output.rpartition('.')[0]}.record.json"


def record_in(folder: str) -> str:
    """The record of a job whose outputs fill a folder: `record.json` in it."""
    return f"{folder}/record.json"


def weights(name: str) -> str:
    """The pretrained weights of that name."""
    return f"data/weights/{WEIGHTS[name]}"


def raw(corpus: str, shard: int | str) -> str:
    """The clips of a shard (zip)."""
    return f"data/{corpus}/raw/shard-{shard}.zip"


def raw_record(corpus: str, shard: int | str) -> str:
    """The record of a shard's download: not beside the clips, which no cache may hold, so that it can be versioned."""
    return f"data/{corpus}/download/shard-{shard}.record.json"


def index(corpus: str) -> str:
    """Every clip of a corpus with its labels (CSV)."""
    return f"data/{corpus}/index.csv"


def features(corpus: str, stage: str, shard: int | str) -> tuple[str, str]:
    """The features of a shard, an array and its table; `stage` is "faces" or "audio"."""
    base = f"data/{corpus}/features/{stage}/shard-{shard}"
    return f"{base}.npy", f"{base}.csv"


def splits(corpus: str, protocol: str) -> tuple[str, str]:
    """The clips of a corpus and the folds of a protocol (CSV)."""
    base = f"data/{corpus}/splits/{protocol}"
    return f"{base}/clips.csv", f"{base}/folds.csv"


def splits_record(corpus: str, protocol: str) -> str:
    """The record of the splits."""
    return record_in(f"data/{corpus}/splits/{protocol}")


def summary(corpus: str) -> str:
    """The scores of every run of a corpus (JSON): what `dvc metrics show` prints."""
    return f"results/{corpus}/metrics.json"


def search(corpus: str) -> str:
    """The configurations that were tried on validation actors (CSV); most corpora have none."""
    return f"results/{corpus}/search.csv"


def report(corpus: str) -> list[str]:
    """Every file of a corpus's report; the same whatever was run."""
    base = f"results/{corpus}"
    return [
        *(f"{base}/tables/{table}.{suffix}" for table in TABLES for suffix in ("md", "csv", "tex")),
        *(f"{base}/figures/{figure}.{suffix}" for figure in FIGURES for suffix in ("png", "svg")),
        f"{base}/report.html",
        summary(corpus),
    ]
