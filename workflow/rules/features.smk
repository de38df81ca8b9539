# What the network sees and hears of each clip.


rule faces:
    input:
        detector,
        clips="data/{corpus}/raw/shard-{shard}.zip",
        index="data/{corpus}/index.csv",
        stamp="stamps/{corpus}/faces.json",
    output:
        faces="data/{corpus}/faces/shard-{shard}.npy",
        table="data/{corpus}/faces/shard-{shard}.csv",
        fingerprint="provenance/{corpus}/faces/shard-{shard}.json",
    log:
        "logs/{corpus}/faces/shard-{shard}.log",
    conda:
        "../../environment.yml"
    threads: detector_threads
    resources:
        gpu=detector_gpus,
        mem_mb=or_more(8000),
        runtime=1440,
    shell:
        "emofuse faces {wildcards.corpus} {wildcards.shard} > {log} 2>&1"


rule audio:
    input:
        clips="data/{corpus}/raw/shard-{shard}.zip",
        index="data/{corpus}/index.csv",
        stamp="stamps/{corpus}/audio.json",
    output:
        segments="data/{corpus}/audio/shard-{shard}.npy",
        table="data/{corpus}/audio/shard-{shard}.csv",
        fingerprint="provenance/{corpus}/audio/shard-{shard}.json",
    log:
        "logs/{corpus}/audio/shard-{shard}.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=or_more(4000),
        runtime=240,
    shell:
        "emofuse audio {wildcards.corpus} {wildcards.shard} > {log} 2>&1"
