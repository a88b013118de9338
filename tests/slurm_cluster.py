"""A real Slurm of one node on this machine, run by hand in a temporary folder: munged, slurmctld and slurmd.

    with slurm_cluster(folder):
        ...                      # sbatch, srun, squeue, scancel and submitit find it by SLURM_CONF

Needs Debian's `slurm-wlm` and `munge` and root. No accounting, no cgroups, no system services.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

CPUS = 2
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "squeue", "sinfo")


def why_not() -> str | None:
    """Why a cluster cannot be started here, or None."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        return f"{', '.join(missing)} not installed: apt-get install slurm-wlm munge"
    return None if os.getuid() == 0 else "a one-node Slurm by hand needs root"


@contextlib.contextmanager
def slurm_cluster(folder: Path) -> Iterator[None]:
    """Starts the daemons with their files in `folder`, waits until the node is idle; stops them at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    conf = folder / "slurm.conf"
    conf.write_text(_conf(folder))
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
    kept = {name: os.environ.get(name) for name in ("SLURM_CONF", "PATH")}
    os.environ["SLURM_CONF"] = str(conf)
    os.environ["PATH"] = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    munged = ["munged", "--foreground", "--force", "--num-threads=2"]
    munged += [f"--{k}={folder / f}" for k, f in (("key-file", "munge.key"), ("socket", "munge.socket"))]
    munged += [f"--{k}={folder / f}" for k, f in (("pid-file", "munged.pid"), ("seed-file", "munge.seed"))]
    started: list[subprocess.Popen[bytes]] = []
    try:
        _start(munged, folder / "munged.log", started)
        _until(lambda: (folder / "munge.socket").exists(), started, folder)
        _start(["slurmctld", "-D", "-i"], folder / "slurmctld.log", started)
        _start(["slurmd", "-D", "-N", _host()], folder / "slurmd.log", started)
        _until(lambda: "idle" in _out("sinfo", "--noheader", "--format=%T"), started, folder)
        yield
    finally:
        if len(started) == 3:
            _out("scancel", "--full", "--user=root")
            with contextlib.suppress(TimeoutError):
                _until(lambda: not _out("squeue", "--noheader"), started, folder, seconds=20)
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _host() -> str:
    return socket.gethostname().split(".")[0]


def _conf(folder: Path) -> str:
    host = _host()
    controller, node = _free_ports(2)
    return f"""ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder / "munge.socket"},cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=20
MinJobAge=600
ReturnToService=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
StateSaveLocation={folder / "state"}
SlurmdSpoolDir={folder / "spool"}
SlurmctldPidFile={folder / "slurmctld.pid"}
SlurmdPidFile={folder / "slurmd.pid"}
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={CPUS} State=UNKNOWN
PartitionName=low Nodes={host} Default=YES MaxTime=60 PriorityTier=1 State=UP
PartitionName=high Nodes={host} MaxTime=60 PriorityTier=10 PreemptMode=OFF State=UP
"""


def _free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]


def _start(command: list[str], log: Path, started: list[subprocess.Popen[bytes]]) -> None:
    with log.open("wb") as f:
        started.append(subprocess.Popen(command, stdout=f, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL))


def _until(done: Callable[[], bool], started: list[subprocess.Popen[bytes]], folder: Path, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not done():
        dead = [p.args[0] for p in started if p.poll() is not None]
        if dead or time.monotonic() > end:
            logs = "\n".join(f"== {log.name}\n{log.read_text()[-2000:]}" for log in sorted(folder.glob("*.log")))
            raise TimeoutError(f"The cluster did not come up{f' ({dead} ended)' if dead else ''}.\n{logs}")
        time.sleep(0.2)


def _out(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.strip()
