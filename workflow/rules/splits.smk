# Select the usable clips, and split them into folds.


rule splits:
    input:
        feature_tables,
        published,
        index=paths.index("{corpus}"),
        record=ancient(paths.record(paths.index("{corpus}"))),
    output:
        paths.splits("{corpus}", "{protocol}"),
        record=paths.splits_record("{corpus}", "{protocol}"),
    log:
        "logs/{corpus}/splits/{protocol}.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=or_more(2000),
        runtime=60,
    params:
        splits=setting("splits", "splits"),
        code=code("splits"),
    shell:
        "emofuse splits {wildcards.corpus} {wildcards.protocol} > {log} 2>&1"
