"""A Slurm cluster of two nodes with fake GPUs on this machine: slurmctld, slurmd and munged on 127.0.0.1."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import servers

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo", "scontrol")
NODES = ("node1", "node2")


@dataclass
class Cluster:
    """A running Slurm cluster in its own folder."""

    folder: Path
    daemons: dict[str, subprocess.Popen[bytes]]

    @property
    def settings(self) -> dict[str, str]:
        """The environment variables with which Slurm's commands find the cluster."""
        return {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{servers.PATH}",
        }

    def output(self, *command: str) -> str:
        """The output of a Slurm command."""
        done = subprocess.run(command, env={**os.environ, **self.settings}, capture_output=True, text=True, check=True)
        return done.stdout

    def states(self, *nodes: str) -> set[str]:
        """The states of nodes; empty while slurmctld does not respond."""
        try:
            return set(self.output("sinfo", "-h", "-N", "-o", "%t", "-n", ",".join(nodes)).split())
        except subprocess.CalledProcessError:
            return set()

    def jobs(self) -> list[dict[str, str]]:
        """Every job so far: its requests and state, by Slurm's names."""
        lines = self.output("scontrol", "show", "jobs", "-o").splitlines()
        return [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines]

    def kill(self, node: str) -> None:
        """Kill a node: its slurmd and everything that runs on it."""
        self.daemons[node].kill()
        self.daemons[node].wait()
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                settings = process.environ()
                if (
                    settings.get("SLURMD_NODENAME") == node
                    and settings.get("SLURM_CONF") == self.settings["SLURM_CONF"]
                ):
                    above = process.parent()
                    if above and above.name().startswith("slurmstepd"):
                        above.kill()
                    process.kill()

    def revive(self, node: str) -> None:
        """Restart a killed node."""
        conf = self.folder / "slurm.conf"
        self.daemons[node] = servers.daemon(
            self.folder / "log" / node, *_name()[1], "slurmd", "-D", "-N", node, "-f", conf
        )
        self.wait_for(node)

    def wait_for(self, *nodes: str) -> None:
        """Wait until the nodes accept jobs."""
        deadline = time.monotonic() + servers.START
        while self.states(*nodes) != {"idle"}:
            assert time.monotonic() < deadline, f"the nodes do not start: see {self.folder / 'log'}"
            time.sleep(0.5)


CONFIGURATION = """\
ClusterName=emofuse
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
SlurmdTimeout=10
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmdParameters=config_overrides
MinJobAge=86400
GresTypes=gpu
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={node1} CPUs=8 RealMemory=256000 Gres=gpu:1
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={node2} CPUs=8 RealMemory=256000 Gres=gpu:1
PartitionName=cpu Nodes=ALL Default=YES
PartitionName=gpu Nodes=ALL
"""


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Run a Slurm cluster in a folder during the block; skips the test if that is impossible."""
    for name in PROGRAMS:
        servers.program(name, "munge" if name == "munged" else "slurm-wlm")
    if os.getuid() != 0:
        servers.cannot("Slurm's daemons need root")
    log = folder / "log"
    folder.chmod(0o755)  # munge requires an accessible folder
    (folder / "state").mkdir()
    log.mkdir()
    (folder / "munge.key").touch(mode=0o600)
    (folder / "munge.key").write_bytes(secrets.token_bytes(128))
    ports = dict(zip(("control", *NODES), servers.free_ports(3), strict=True))
    host, named = _name()
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, host=host, user="root", **ports))
    (folder / "gres.conf").write_text("NodeName=node[1-2] Name=gpu File=/dev/null\n")
    # Snakemake's plugin removes SLURM_CONF before it calls srun, which then looks for the default configuration.
    (folder / "bin").mkdir()
    (folder / "bin" / "srun").write_text(
        f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {servers.program("srun", "slurm-wlm")} "$@"\n'
    )
    (folder / "bin" / "srun").chmod(0o755)
    running = Cluster(folder, {})
    with ExitStack() as stack:
        stack.callback(_end, running)
        names = ("socket", "key-file", "pid-file", "log-file", "seed-file")
        files = (f"--{name}={folder}/munge.{name.split('-')[0]}" for name in names)
        running.daemons["munged"] = servers.daemon(log / "munged", "munged", "--foreground", "--force", *files)
        running.daemons["slurmctld"] = servers.daemon(
            log / "slurmctld", *named, "slurmctld", "-D", "-f", folder / "slurm.conf"
        )
        for node in NODES:
            running.daemons[node] = servers.daemon(
                log / node, *named, "slurmd", "-D", "-N", node, "-f", folder / "slurm.conf"
            )
        running.wait_for(*NODES)
        yield running


def _name() -> tuple[str, list[str]]:
    """A host name that resolves to 127.0.0.1, and the command prefix that starts a daemon under that name."""
    host = socket.gethostname().split(".")[0]
    with suppress(OSError):
        if socket.gethostbyname(host).startswith("127."):
            return host, []
    return "localhost", ["unshare", "--uts", "sh", "-c", 'hostname localhost && exec "$@"', "sh"]


def _end(cluster: Cluster) -> None:
    for node in NODES:
        if node in cluster.daemons:
            cluster.kill(node)
    for process in cluster.daemons.values():
        process.kill()
        process.wait()
