# From clips to tables. `snakemake --cores 8 --resources gpu=1` runs the corpora of the paper; `snakemake demo --cores 2` (or
# any other corpus of params.yaml) runs one corpus, and `snakemake demo_features --cores 2` one step of it. The graph is
# defined here and in workflow/rules; dvc.yaml calls these targets.
from snakemake.utils import min_version

min_version("9.19")


include: "workflow/rules/common.smk"


wildcard_constraints:
    corpus=one_of(PARAMS.corpora),
    source=one_of(PARAMS.corpora),
    protocol=one_of(
        protocol for corpus in PARAMS.corpora.values() for protocol in corpus.protocols
    ),
    variant=one_of(PARAMS.variants),
    seed=r"\d+",
    fold=r"\d+",
    shard=r"\d+",


localrules:
    all,


rule all:
    default_target: True
    input:
        [step(corpus, "report") for corpus in PARAMS.paper],
        paths.PAPER,
        paths.record(paths.PAPER[0]),


for corpus in PARAMS.corpora:

    rule:
        name:
            corpus
        input:
            step(corpus, "report"),
        localrule: True

    for name in ("clips", "features", "splits", "models", "scores"):

        rule:
            name:
                f"{corpus}_{name}"
            input:
                step(corpus, name),
            localrule: True


include: "workflow/rules/clips.smk"
include: "workflow/rules/features.smk"
include: "workflow/rules/splits.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/transfer.smk"
include: "workflow/rules/report.smk"


onstart:
    begin()
