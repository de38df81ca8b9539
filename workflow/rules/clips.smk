# Download clips and pretrained weights, and index the clips.


rule download:
    input:
        labels,
    output:
        paths.raw("{corpus}", "{shard}"),
        record=paths.raw_record("{corpus}", "{shard}"),
    log:
        "logs/{corpus}/download/shard-{shard}.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=or_more(2000),
        runtime=1440,
    params:
        clips=setting("download", "clips"),
        source=source,
        code=code("download"),
    shell:
        "emofuse download {wildcards.corpus} {wildcards.shard} > {log} 2>&1"


for name in paths.WEIGHTS:

    rule:
        name:
            f"weights_{name.replace('.', '_')}"
        output:
            paths.weights(name),
            record=paths.record(paths.weights(name)),
        log:
            f"logs/weights/{name}.log",
        conda:
            "../../environment.yml"
        resources:
            mem_mb=or_more(1000),
            runtime=120,
        params:
            name=name,
            code=f"code {digest('weights')}",
        shell:
            "emofuse weights {params.name} > {log} 2>&1"


rule index:
    input:
        raw,
        labels,
    output:
        paths.index("{corpus}"),
        record=paths.record(paths.index("{corpus}")),
    log:
        "logs/{corpus}/index.log",
    conda:
        "../../environment.yml"
    resources:
        mem_mb=or_more(2000),
        runtime=60,
    params:
        clips=setting("index", "clips"),
        code=code("index"),
    shell:
        "emofuse index {wildcards.corpus} > {log} 2>&1"
