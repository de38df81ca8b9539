# Clips and pretrained weights onto this machine, and what is in the clips.


rule download:
    input:
        stamp="stamps/{corpus}/download.json",
    output:
        "data/{corpus}/raw/shard-{shard}.zip",
        fingerprint="provenance/{corpus}/download/shard-{shard}.json",
    log:
        "logs/{corpus}/download/shard-{shard}.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=or_more(2000),
        runtime=1440,
    shell:
        "emofuse download {wildcards.corpus} {wildcards.shard} > {log} 2>&1"


rule weights:
    output:
        "{weights}",
    log:
        "logs/{weights}.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=or_more(1000),
        runtime=120,
    params:
        name=weights_name,
    shell:
        "emofuse weights {params.name} > {log} 2>&1"


rule index:
    input:
        raw,
        stamp="stamps/{corpus}/index.json",
    output:
        "data/{corpus}/index.csv",
        fingerprint="provenance/{corpus}/index.json",
    log:
        "logs/{corpus}/index.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=or_more(2000),
        runtime=60,
    shell:
        "emofuse index {wildcards.corpus} > {log} 2>&1"
