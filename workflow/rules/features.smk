# Extract faces and log-mel spectrograms.


rule faces:
    input:
        detector,
        clips=paths.raw("{corpus}", "{shard}"),
        index=paths.index("{corpus}"),
        records=[
            ancient(paths.raw_record("{corpus}", "{shard}")),
            ancient(paths.record(paths.index("{corpus}"))),
        ],
    output:
        paths.features("{corpus}", "faces", "{shard}"),
        record=paths.record(paths.features("{corpus}", "faces", "{shard}")[0]),
    log:
        "logs/{corpus}/faces/shard-{shard}.log",
    conda:
        "../../environment.yml"
    threads: detector_threads
    resources:
        gpu=detector_gpus,
        mem_mb=or_more(8000),
        runtime=1440,
    params:
        faces=setting("faces", "faces"),
        code=code("faces"),
    shell:
        "emofuse faces {wildcards.corpus} {wildcards.shard} > {log} 2>&1"


rule audio:
    input:
        clips=paths.raw("{corpus}", "{shard}"),
        index=paths.index("{corpus}"),
        records=[
            ancient(paths.raw_record("{corpus}", "{shard}")),
            ancient(paths.record(paths.index("{corpus}"))),
        ],
    output:
        paths.features("{corpus}", "audio", "{shard}"),
        record=paths.record(paths.features("{corpus}", "audio", "{shard}")[0]),
    log:
        "logs/{corpus}/audio/shard-{shard}.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=or_more(4000),
        runtime=240,
    params:
        audio=setting("audio", "audio"),
        code=code("audio"),
    shell:
        "emofuse audio {wildcards.corpus} {wildcards.shard} > {log} 2>&1"
