"""Live curves of a training, while it runs."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from filelock import Timeout

from emofuse.commit import checked_out
from emofuse.tracking import store
from emofuse.tracking.store import RunKey

if TYPE_CHECKING:
    from mlflow.entities import Experiment
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

# Seconds that a training may wait for others that begin in the same moment.
TURN = 20.0


class Live:
    """Shows a training in MLflow while it runs, and never stands in its way.

    Nothing is imported or sent before the training has lasted `delay` seconds, and then at most
    every `interval` seconds: a short training pays nothing. The first failure of MLflow is one
    warning, and the end of it; what was not sent is not lost, since `track` writes the whole
    record from the files.

        with Live(RunKey("demo", "kfold_3", "proposed", 1, 0), {}) as live:
            live.epoch({"epoch": 1, "train_loss": 1.9, "val_uar": 0.4})
    """

    def __init__(
        self, key: RunKey, tags: Mapping[str, str], root: Path | str = ".", delay: float = 30.0, interval: float = 10.0
    ) -> None:
        self._key, self._tags, self._root, self._interval = key, dict(tags), Path(root), interval
        self._due = time.monotonic() + delay
        self._waiting: list[tuple[int, dict[str, Any]]] = []
        self._client: MlflowClient | None = None
        self._run_id = ""
        self._failed = False

    def __enter__(self) -> Self:
        return self

    def epoch(self, values: Mapping[str, Any]) -> None:
        """Take note of an epoch: "epoch" is its number, every other number a point of a curve."""
        if self._failed:
            return
        self._waiting.append((_milliseconds(), dict(values)))
        if time.monotonic() >= self._due:
            self._try(self._send)
            self._due = time.monotonic() + self._interval

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._client is not None and not self._failed:
            status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
            self._try(lambda: self._finish(status))

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            self._failed = True
            self._waiting.clear()
            log.warning(
                "MLflow: no live curves of %s from here on (%s); the training goes on, and `emofuse track %s` "
                "writes its whole record",
                self._key,
                store.first_line(error),
                self._key.corpus,
            )

    def _send(self) -> None:
        if self._client is None:
            try:
                self._client = self._start()
            except Timeout:  # others begin just now: the points are kept until the next time
                return
        from mlflow.entities import Metric

        points = [
            Metric(name, float(value), when, int(values["epoch"]))
            for when, values in self._waiting
            for name, value in values.items()
            if name != "epoch" and isinstance(value, int | float) and not isinstance(value, bool)
        ]
        store.send_metrics(self._client, self._run_id, points)
        self._waiting.clear()

    def _finish(self, status: str) -> None:
        self._send()
        if self._client is not None:
            self._client.set_terminated(self._run_id, status)

    def _start(self) -> MlflowClient:
        # A server that does not answer may hold the training up for seconds, once, and not for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        client = store.open_store(self._root)
        for name in ("mlflow", "urllib3"):  # of a failure they would write a page beside our one line
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with store.lock(self._root, timeout=TURN):
            experiment = store.open_experiment(client, self._key.corpus, self._root)
            runs = store.runs(client, experiment)
            for run in runs:
                if (
                    store.run_key(run) == str(self._key) and run.info.status != "FINISHED"
                ):  # of a training that was stopped
                    store.delete(client, run, self._root)
            parents = [run.info.run_id for run in runs if store.run_key(run) == self._key.group]
            parent = parents[0] if parents else self._make_parent(client, experiment)
            tags = {
                **self._tags,
                **store.git_tags(checked_out(self._root)),
                store.RUN_KEY: str(self._key),
                store.PARENT: parent,
            }
            tags |= {store.OWNER: store.process(os.getpid()), store.STATE: "live, before evaluation"}
            run = client.create_run(experiment.experiment_id, tags=tags, run_name=self._key.run_name)
        self._run_id = run.info.run_id
        return client

    def _make_parent(self, client: MlflowClient, experiment: Experiment) -> str:
        """An empty parent run to hang the fold under; `track` puts one with the scores in its place."""
        run = client.create_run(
            experiment.experiment_id, tags={store.RUN_KEY: self._key.group}, run_name=self._key.parent_name
        )
        client.set_terminated(run.info.run_id)
        return run.info.run_id


def _milliseconds() -> int:
    return int(time.time() * 1000)
