"""Studies on a Slurm cluster, through submitit: an array of tasks, each of which takes one pack from the queue.

A task is `lab sweep run STUDY --packs 1`, which anyone may start by other means as well. Asked to stop (before its time
limit, or to make room for another job) it saves its pack and puts itself back into Slurm's queue; the pack is then
free for whichever task runs first. `scancel` saves and does not come back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import hashlib
import io
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from lab.errors import LabError

WARNED_S = 120  # a task is told so long before its time limit: a dispatch, an evaluation and a checkpoint fit in
MOST_REQUEUES = 1000  # after time limits; preemptions are not counted


@dataclasses.dataclass(frozen=True)
class SlurmJob:
    """What Slurm gives to each task of the array; a task trains one pack, on one node."""

    tasks: int = 1
    """With --on slurm: so many tasks or more, as far as there are runs; each shape of model has one at least."""
    dry_run: bool = False
    """With --on slurm: say what would be submitted."""

    partition: str | None = None
    """Slurm partition; the cluster's default one if not given."""
    account: str | None = None
    """Slurm account to charge."""
    gpus: int = 0
    """GPUs of each task."""
    minutes: int = 60
    """Time limit of each task; one that reaches it saves, queues again and goes on."""
    sbatch: tuple[str, ...] = ()
    """Other options of sbatch, as in: constraint=a100 mem=32G qos=long"""

    def parameters(self, name: str, cpus: int) -> dict[str, Any]:
        """What submitit is to ask of Slurm.

        Raises:
          LabError: for an option that is not of the form name=value.
        """
        options: dict[str, Any] = {"requeue": True}
        for option in self.sbatch:
            key, equals, value = option.lstrip("-").partition("=")
            if not equals:
                raise LabError(f"The sbatch option {option!r} is not of the form name=value.")
            options[key] = value
        asked = {"partition": self.partition, "account": self.account, "gpus_per_node": self.gpus or None}
        return {
            "job_name": name,
            "time": self.minutes,
            "nodes": 1,
            "ntasks_per_node": 1,
            "cpus_per_task": cpus,
            "signal_delay_s": WARNED_S,
            **{key: value for key, value in asked.items() if value is not None},
            "additional_parameters": options,
        }


def describe(parameters: dict[str, Any], tasks: int, arguments: Sequence[str]) -> str:
    """The array job as the sbatch command that it amounts to."""
    shown = {k: v for k, v in parameters.items() if k not in ("additional_parameters", "signal_delay_s")}
    shown |= {"array": f"0-{tasks - 1}", "signal": f"USR2@{parameters['signal_delay_s']}"}
    shown |= parameters["additional_parameters"]
    flags = [f"--{k.replace('_', '-')}" + ("" if v is True else f"={v}") for k, v in shown.items()]
    return f"sbatch {shlex.join(flags)} --wrap {shlex.quote(shlex.join(['srun', 'lab', *arguments]))}"


def submit(label: str, arguments: Sequence[str], root: Path, job: SlurmJob, cpus: int, packs: int) -> str:
    """Submits one task for each pack that has none yet; returns what was done, in words.

    Args:
      label: the study's name and scale.
      arguments: the command line of each task, after `lab`.
      root: folder of all results, on a file system that the nodes share.
      job: what each task gets.
      cpus: CPU cores of each task.
      packs: packs that are not over.

    Raises:
      LabError: where there is no Slurm or no submitit, or Slurm refuses the job (an unknown partition, say).
    """
    name = f"lab-{label}-{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:6]}"
    parameters = job.parameters(name, cpus)
    if job.dry_run:
        return f"{packs} packs. Nothing is submitted; without --dry-run:\n{describe(parameters, packs, arguments)}"
    if shutil.which("sbatch") is None:
        raise LabError("There is no Slurm here (no sbatch).", "Run this on a login node, or use --on local.")
    try:
        import submitit
    except ImportError:
        raise LabError("The package submitit is not installed.", "pip install 'scaling-lab[slurm]'.") from None
    alive = len(_squeue("--array", f"--user={getpass.getuser()}", f"--name={name}", "--format=%i"))
    tasks = packs - alive
    if tasks <= 0:
        return f"{alive} tasks of this study are queued or running already; {packs} packs are left."
    logs = root.resolve() / label / "slurm"
    executor = submitit.SlurmExecutor(folder=logs, max_num_timeout=MOST_REQUEUES)
    executor.update_parameters(**parameters)
    try:
        with contextlib.redirect_stderr(io.StringIO()), executor.batch():  # submitit repeats what sbatch says
            jobs = [executor.submit(Task(tuple(arguments))) for _ in range(tasks)]
    except submitit.core.utils.FailedJobError as error:
        raise LabError(f"Slurm refused the job: {_reason(error)}.", _partitions()) from None
    return (
        f"Submitted {tasks} tasks as job {jobs[0].job_id.partition('_')[0]}, one for each pack without one. Their logs "
        f"are in {logs}; the last task makes the table."
    )


@dataclasses.dataclass(frozen=True)
class Task:
    """What a node runs: a `lab` command that puts itself back into Slurm's queue when it was stopped and saved."""

    arguments: tuple[str, ...]

    def __call__(self) -> None:
        requeue = signal.getsignal(signal.SIGUSR2)  # submitit's: it writes this task down again and calls scontrol
        signal.signal(signal.SIGTERM, _stop)  # while a pack trains, the trainer listens instead, and saves first
        signal.signal(signal.SIGUSR2, lambda *_: signal.raise_signal(signal.SIGTERM))
        from lab.cli import main
        from sweeps.launch import DIVERGED, STOPPED

        code: object
        try:
            code = main(self.arguments)
        except SystemExit as stopped:
            code = stopped.code
        if code in (0, DIVERGED):
            return
        if code == STOPPED:
            # A task that was only told to stop still runs; one that was cancelled or preempted is Slurm's to end.
            if _squeue(f"--jobs={os.environ['SLURM_JOB_ID']}", "--format=%T") == ["RUNNING"]:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Slurm ends what it requeues
                signal.signal(signal.SIGUSR2, requeue)
                signal.raise_signal(signal.SIGUSR2)
            print("Slurm ends this task: it was cancelled, or is back in the queue.", flush=True)
        raise SystemExit(code)

    def checkpoint(self) -> Any:
        """What submitit is to run after a requeue: the same, since a pack goes on from its own checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _stop(*_: object) -> NoReturn:
    from sweeps.launch import STOPPED

    raise SystemExit(STOPPED)


def _squeue(*arguments: str) -> list[str]:
    done = subprocess.run(["squeue", "--noheader", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"Slurm does not answer: {done.stderr.strip().splitlines()[-1]}.", "Try `squeue` by itself.")
    return done.stdout.split()


def _reason(error: Exception) -> str:
    """The last thing that sbatch said, out of submitit's longer message."""
    lines = [line for line in str(error).splitlines() if "sbatch: error:" in line] or str(error).splitlines()
    return lines[-1].rpartition("error:")[2].strip().rstrip(".")


def _partitions() -> str:
    done = subprocess.run(["sinfo", "--noheader", "--format=%R"], capture_output=True, text=True)
    names = sorted(set(done.stdout.split()))
    return f"Its partitions are {', '.join(names)}: name one with --partition." if names else ""
