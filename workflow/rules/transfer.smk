# Apply a trained fold to the clips of another corpus.


rule transfer:
    input:
        transferred,
        paths.index("{corpus}"),
        paths.index("{source}"),
        TRANSFER.run.trained,
        TRANSFER.run.metrics,
        records=[
            ancient(paths.record(paths.index("{corpus}"))),
            ancient(paths.record(paths.index("{source}"))),
            ancient(TRANSFER.run.training_record),
            ancient(TRANSFER.run.evaluation_record),
        ],
    output:
        TRANSFER.scored,
        record=TRANSFER.record,
    log:
        "logs/{corpus}/transfer/{source}-{protocol}-{variant}-seed-{seed}-fold-{fold}.log",
    conda:
        "../../environment.yml"
    threads: training_threads
    resources:
        gpu=gpus,
        mem_mb=or_more(16000),
        runtime=1440,
    params:
        network=setting("transfer", "network"),
        spectrogram=setting("transfer", "spectrogram"),
        training=setting("transfer", "training"),
        features=setting("transfer", "features"),
        classes=setting("transfer", "classes"),
        clips=setting("transfer", "clips"),
        code=code("transfer"),
    shell:
        "emofuse transfer {wildcards.source} {wildcards.protocol} {wildcards.variant} {wildcards.seed} {wildcards.fold}"
        " {wildcards.corpus} > {log} 2>&1"
