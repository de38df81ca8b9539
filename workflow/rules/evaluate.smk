# A trained fold scored on its test clips.


rule evaluate:
    input:
        features,
        clips="data/{corpus}/{protocol}/clips.csv",
        folds="data/{corpus}/{protocol}/folds.csv",
        model="models/{corpus}/{protocol}/{variant}/seed-{seed}/fold-{fold}.safetensors",
        trained="stamps/{corpus}/train-{variant}.json",
        stamp="stamps/{corpus}/evaluate-{variant}.json",
    output:
        metrics="results/{corpus}/{protocol}/{variant}/seed-{seed}/fold-{fold}/metrics.json",
        predictions="results/{corpus}/{protocol}/{variant}/seed-{seed}/fold-{fold}/predictions.csv",
        embeddings="results/{corpus}/{protocol}/{variant}/seed-{seed}/fold-{fold}/embeddings.safetensors",
        fingerprint="provenance/{corpus}/evaluate/{protocol}/{variant}/seed-{seed}/fold-{fold}.json",
    log:
        "logs/{corpus}/evaluate/{protocol}-{variant}-seed-{seed}-fold-{fold}.log",
    conda:
        "../../environment.yml"
    threads: training_threads
    resources:
        gpu=gpus,
        mem_mb=or_more(16000),
        runtime=120,
    shell:
        "emofuse evaluate {wildcards.corpus} {wildcards.protocol} {wildcards.variant} {wildcards.seed} {wildcards.fold}"
        " > {log} 2>&1"
