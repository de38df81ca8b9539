# Emofuse, from clips to tables. `snakemake --cores 8 --resources gpu=1` runs the corpora of the paper, `snakemake demo`
# (or the name of any other corpus of params.yaml) that corpus. dvc.yaml and pipelines/*/dvc.yaml hold the same graph for
# DVC, command for command; tests/test_engines.py fails on any difference.
from snakemake.utils import min_version

min_version("9.19")


include: "workflow/rules/common.smk"


wildcard_constraints:
    corpus=one_of(PARAMS.corpora),
    protocol=one_of(
        protocol for corpus in PARAMS.corpora.values() for protocol in corpus.protocols
    ),
    variant=one_of(PARAMS.variants),
    seed=r"\d+",
    fold=r"\d+",
    shard=r"\d+",
    weights=one_of(WEIGHTS),


localrules:
    all,


rule all:
    default_target: True
    input:
        [wanted(corpus) for corpus in PARAMS.paper],
        report.paper_outputs(),


for corpus in PARAMS.corpora:

    rule:
        name:
            corpus
        input:
            wanted(corpus),
        localrule: True


include: "workflow/rules/corpus.smk"
include: "workflow/rules/features.smk"
include: "workflow/rules/splits.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"


onstart:
    begin()


# What is up to date here is up to date for DVC too; where a job failed, that is what finished.
onsuccess:
    versions.commit(finished())


onerror:
    versions.commit(finished())
