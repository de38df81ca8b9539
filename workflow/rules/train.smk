# Train one variant on one fold, and calibrate it by training on halves of its actors.


rule train:
    input:
        features,
        pretrained,
        paths.splits("{corpus}", "{protocol}"),
        record=ancient(paths.splits_record("{corpus}", "{protocol}")),
    output:
        RUN.trained,
        record=RUN.training_record,
    log:
        "logs/{corpus}/train/{protocol}-{variant}-seed-{seed}-fold-{fold}.log",
    conda:
        "../../environment.yml"
    threads: training_threads
    resources:
        gpu=gpus,
        mem_mb=or_more(32000),
        runtime=1440,
    params:
        network=setting("train", "network"),
        loss=setting("train", "loss"),
        spectrogram=setting("train", "spectrogram"),
        training=setting("train", "training"),
        classes=setting("train", "classes"),
        code=code("train"),
    shell:
        "emofuse train {wildcards.corpus} {wildcards.protocol} {wildcards.variant} {wildcards.seed} {wildcards.fold}"
        " > {log} 2>&1"


rule calibrate:
    input:
        features,
        pretrained,
        paths.splits("{corpus}", "{protocol}"),
        record=ancient(paths.splits_record("{corpus}", "{protocol}")),
    output:
        RUN.calibration,
        record=RUN.calibration_record,
    log:
        "logs/{corpus}/calibrate/{protocol}-{variant}-seed-{seed}-fold-{fold}.log",
    conda:
        "../../environment.yml"
    threads: training_threads
    resources:
        gpu=gpus,
        mem_mb=or_more(32000),
        runtime=1440,
    params:
        network=setting("calibrate", "network"),
        loss=setting("calibrate", "loss"),
        spectrogram=setting("calibrate", "spectrogram"),
        training=setting("calibrate", "training"),
        classes=setting("calibrate", "classes"),
        code=code("calibrate"),
    shell:
        "emofuse calibrate {wildcards.corpus} {wildcards.protocol} {wildcards.variant} {wildcards.seed} {wildcards.fold}"
        " > {log} 2>&1"
