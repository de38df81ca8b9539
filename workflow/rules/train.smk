# One variant trained on one fold.


rule train:
    input:
        features,
        pretrained,
        clips="data/{corpus}/{protocol}/clips.csv",
        folds="data/{corpus}/{protocol}/folds.csv",
        stamp="stamps/{corpus}/train-{variant}.json",
    output:
        model="models/{corpus}/{protocol}/{variant}/seed-{seed}/fold-{fold}.safetensors",
        history="models/{corpus}/{protocol}/{variant}/seed-{seed}/fold-{fold}.csv",
        record="models/{corpus}/{protocol}/{variant}/seed-{seed}/fold-{fold}.json",
        fingerprint="provenance/{corpus}/train/{protocol}/{variant}/seed-{seed}/fold-{fold}.json",
    log:
        "logs/{corpus}/train/{protocol}-{variant}-seed-{seed}-fold-{fold}.log",
    conda:
        "../../environment.yml"
    threads: training_threads
    resources:
        gpu=gpus,
        mem_mb=or_more(32000),
        runtime=1440,
    shell:
        "emofuse train {wildcards.corpus} {wildcards.protocol} {wildcards.variant} {wildcards.seed} {wildcards.fold}"
        " > {log} 2>&1"
