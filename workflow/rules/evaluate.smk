# Score a trained fold on its test clips.


rule evaluate:
    input:
        features,
        paths.splits("{corpus}", "{protocol}"),
        RUN.trained,
        calibration,
        records=[
            ancient(paths.splits_record("{corpus}", "{protocol}")),
            ancient(RUN.training_record),
        ],
    output:
        RUN.scored,
        record=RUN.evaluation_record,
    log:
        "logs/{corpus}/evaluate/{protocol}-{variant}-seed-{seed}-fold-{fold}.log",
    conda:
        "../../environment.yml"
    threads: training_threads
    resources:
        gpu=gpus,
        mem_mb=or_more(16000),
        runtime=120,
    params:
        network=setting("evaluate", "network"),
        spectrogram=setting("evaluate", "spectrogram"),
        training=setting("evaluate", "training"),
        calibration=setting("evaluate", "calibration"),
        classes=setting("evaluate", "classes"),
        code=code("evaluate"),
    shell:
        "emofuse evaluate {wildcards.corpus} {wildcards.protocol} {wildcards.variant} {wildcards.seed} {wildcards.fold}"
        " > {log} 2>&1"
