# Which clips are usable, and which of them train, validate and test each fold.


rule splits:
    input:
        features,
        published,
        index="data/{corpus}/index.csv",
        stamp="stamps/{corpus}/splits.json",
    output:
        clips="data/{corpus}/{protocol}/clips.csv",
        folds="data/{corpus}/{protocol}/folds.csv",
        fingerprint="provenance/{corpus}/splits/{protocol}.json",
    log:
        "logs/{corpus}/splits/{protocol}.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=or_more(2000),
        runtime=60,
    shell:
        "emofuse splits {wildcards.corpus} {wildcards.protocol} > {log} 2>&1"
