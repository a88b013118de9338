"""`lab sweep plan`: what a study will cost, and what it will be able to say, before it is paid for."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.commands.sweep_options import StudyOptions
from lab.errors import LabError

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from lab.data.store import TokenStore
    from lab.pack import PackPlan, Shape
    from sweeps.noise import Noise
    from sweeps.plan import Group
    from sweeps.precision import LawPlan
    from sweeps.study import Arm


@dataclasses.dataclass(frozen=True)
class Plan(StudyOptions):
    """Say what a study will cost and what its runs will identify; trains nothing.

    Speed and memory are measured on this machine, a few dispatches of each program (remembered below the root), or
    taken from a named device's peak under an assumption that is printed. Exit code 3 where the runs do not identify a
    law that the study wants to fit.
    """

    device: str | None = None
    """Plan for another device: a100-40, a100-80, h100, h200, b200, l4, rtx4090, v4, v5e, v5p or v6e. By default this
    machine, measured."""
    devices: int | None = None
    """How many of them: by default 1; on this machine's CPU runs trained side by side, as for `lab sweep run`."""
    utilisation: float = 0.4
    """With --device: the assumed share of its peak."""
    slots: int | None = None
    """Runs side by side. By default one a device on a CPU; on accelerators doubled while it fits and is 10 % faster."""
    price: float | None = None
    """Price of an hour on all the devices together, to say what the study costs."""
    noise: float | None = None
    """Standard deviation of log loss from seed to seed; by default measured from the study's table, else .01."""
    table: Path | None = None
    """Table whose replicated seeds give the noise; by default the study's own, collected or committed."""
    recalibrate: bool = False
    """Measure this machine's speed again."""
    anyway: bool = False
    """Exit with 0 even where a law is not identified."""
    json: bool = False
    """Print one JSON object and nothing else."""

    def run(self) -> int:
        study, scale = self.chosen()
        if not 0 < self.utilisation <= 1:
            raise LabError(f"A utilisation of {self.utilisation:g} is not a share of the peak.", "Give 0.4 for 40 %.")
        if self.device is not None:
            os.environ["JAX_PLATFORMS"] = "cpu"  # nothing is computed on the device that is planned for
        from lab.devices import prepare_process

        prepare_process(host_devices=1 if self.device else self.devices or default_host_devices())
        from rich.console import Console

        from sweeps.texts import prepare_text, stores

        text = prepare_text(scale.data, self.root)
        arms, there = study.checked_arms(text, scale), stores(text)
        console = Console(stderr=self.json, highlight=False)
        found = self._groups(arms, there, console)
        from lab.commands.law_options import REFUSED, print_json
        from lab.commands.sweep_plan_tables import StudyPlan, form, show, total_seconds
        from sweeps.plan import planned_rows

        rows = planned_rows(arms, there)
        noise, source = self._noise(study.label(scale))
        seeds = seeds_of(rows)
        seconds = total_seconds(found)
        plan = StudyPlan(
            study=study.label(scale),
            question=study.question,
            runs=len(arms),
            over=sum((self.root / "runs" / arm.run.run_id / "result.json").exists() for arm in arms),
            groups=found,
            timing=self._timing(),
            memory=self._memory(found),
            money=None if self.price is None or seconds is None else self.price * seconds / 3600,
            noise=noise,
            noise_source=source,
            seeds=seeds,
            detectable={n: noise.detectable(n) for n in sorted({seeds[1], 2, 4, 8} - {1})},
            laws=self._laws(study.laws, rows, noise),
        )
        if self.json:
            print_json(form(plan))
        else:
            show(plan, console)
        refused = any(law.report.verdict != "identified" for law in plan.laws)
        return REFUSED if refused and not self.anyway else 0

    def _groups(self, arms: Sequence[Arm], stores: Mapping[str, TokenStore], console: Console) -> tuple[Group, ...]:
        from lab.data.evalset import evaluation_set
        from lab.train import STEPS_PER_DISPATCH
        from sweeps.plan import DEVICES, Assumed, groups

        read = {c.source.store for arm in arms for c in arm.run.mixture.components}
        sizes = {name: evaluation_set(stores[name]).n_tokens for name in sorted(read)}
        if self.device is None:
            return tuple(groups(arms, sizes, STEPS_PER_DISPATCH, _Calibration(self, arms, console)))
        if self.device not in DEVICES:
            raise LabError(f"Unknown device {self.device!r}.", f"Known: {', '.join(DEVICES)}.")
        device = DEVICES[self.device]
        assumed = Assumed(device, self.devices or 1, self.utilisation)
        found = groups(arms, sizes, STEPS_PER_DISPATCH, assumed, self.slots)
        return tuple(compiled_for(found, device.topology, console) if device.topology else found)

    def _noise(self, label: str) -> tuple[Noise, str]:
        """The noise, and where it comes from."""
        import sweeps
        from lab.table import read_table
        from sweeps.collect import table_path
        from sweeps.noise import Noise, noise_of

        if self.noise is not None:
            if not self.noise > 0:
                raise LabError("The noise of log loss must be above 0.", "1 % is 0.01.")
            return Noise(self.noise, float("inf")), "as given"
        assert sweeps.__file__ is not None
        committed = Path(sweeps.__file__).parent / "results" / f"{label}.parquet"
        tables = [self.table] if self.table else [p for p in (table_path(label, self.root), committed) if p.exists()]
        why = "no table of this study yet"
        for table in tables:
            try:
                noise = noise_of(read_table(table))
            except LabError as error:
                if self.table:
                    raise
                why = error.problem.rstrip(".")
                continue
            if noise is not None:
                return noise, f"from {noise.cells} cells with several seeds in {table}"
            why = f"no cell of {table} has several seeds"
        return Noise(0.01, float("inf")), f"assumed: {why}"

    def _laws(self, wanted: Sequence[Any], rows: pd.DataFrame, noise: Noise) -> tuple[LawPlan, ...]:
        import jax

        from sweeps.precision import judge

        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            return tuple(judge(fit, rows, noise) for fit in wanted)

    def _timing(self) -> str:
        if self.device is None:
            from lab.result import device_name

            return f"measured on {device_name()} and remembered; --recalibrate measures again"
        n = self.devices or 1
        return (
            f"ASSUMED: {n} x {self.device} at {self.utilisation:.0%} of the peak, far more than small models reach; "
            "run this command on the device to measure"
        )

    def _memory(self, found: Sequence[Group]) -> str:
        from lab.commands.sweep_plan_tables import size
        from sweeps.plan import DEVICES

        misfits = sum(g.peak_bytes is None for g in found)
        fit = f"; {misfits} of {len(found)} programs do not fit" if misfits else ""
        if self.device is None:
            import jax

            from lab.calibrate import MEMORY_SHARE
            from lab.memory import device_memory

            room = size(device_memory(jax.devices()[0]))
            return f"{room} a device, of which a program may take {MEMORY_SHARE:.0%}{fit}"
        known = DEVICES[self.device]
        if any(g.peak_bytes is not None or g.seconds is None for g in found):
            return f"compiled for one {self.device} of {size(known.memory)}, one run a program{fit}"
        largest = max(found, key=lambda g: g.state_bytes)
        return (
            f"parameters, moments and gradients of the largest pack take {size(largest.state_bytes)} of "
            f"{size(known.memory)}; activations are known only where the programs are compiled"
        )


def default_host_devices() -> int:
    """Runs trained side by side on a CPU: one a core, up to two."""
    return max(1, min(2, os.cpu_count() or 1))


class _Calibration:
    """Measures programs, the largest first, so that one that does not fit is known at once."""

    def __init__(self, options: Plan, arms: Sequence[Arm], console: Console):
        import jax

        from lab.pack import plan_pack, shape_of
        from lab.train import STEPS_PER_DISPATCH, Execution, enable_compilation_cache
        from sweeps.plan import flops_spent, marks, programs

        enable_compilation_cache(options.root)
        self.options = options
        self.execution = Execution(options.root, slots=len(jax.devices()))
        pauses = marks(arms)
        members = sorted(programs(arms, [arm.run for arm in arms]), key=lambda g: -flops_spent(g[0]) / g[0].steps)
        with console.status("Measuring ...") as status:
            for k, group in enumerate(members, start=1):

                def say(what: str, k: int = k) -> None:
                    status.update(f"Measuring the speed of program {k} of {len(members)}: {what}")

                def plan_of(slots: int, group: Sequence[Any] = group) -> PackPlan:
                    return plan_pack(group, slots, STEPS_PER_DISPATCH, pauses)

                self._measure(shape_of(group[0]), plan_of, len(group), say, options.recalibrate)

    def __call__(self, shape: Shape, plan_of: Any, runs: int) -> tuple[int, Any]:
        return self._measure(shape, plan_of, runs, lambda _: None, again=False)

    def _measure(self, shape: Shape, plan_of: Any, runs: int, say: Any, again: bool) -> tuple[int, Any]:
        from lab.calibrate import measured, pack_size

        mesh_of, root = self.execution.mesh, self.options.root
        slots = self.options.slots
        if slots is not None:
            slots = min(slots, runs)
            say(f"{slots} side by side")
            return slots, measured(shape, slots, mesh_of(slots), plan_of(slots).steps_per_dispatch, root, again)
        return pack_size(shape, plan_of, mesh_of, self.execution.slots, runs, root, say, again)


def compiled_for(found: Sequence[Group], slice_name: str, console: Console) -> Iterator[Group]:
    """The programs with the memory that one run takes of a TPU that is not here; as they are where it is not known."""
    from lab.memory import footprint, is_out_of_memory, topology
    from lab.ops import compiling_for
    from lab.sharding import make_mesh
    from lab.step import Program

    try:
        mesh = make_mesh(devices=topology(slice_name)[:1])
    except LabError as error:
        console.print(f"Memory is not known: {error}", markup=False, soft_wrap=True)
        yield from found
        return
    with console.status("Compiling ...") as status, compiling_for("tpu"):
        for k, group in enumerate(found, start=1):
            status.update(f"Compiling program {k} of {len(found)} for {slice_name}")
            program = Program(group.shape.model, mesh)
            try:
                need = footprint(program, 1, group.shape.batch, group.plan.steps_per_dispatch)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                yield dataclasses.replace(group, seconds=None)
                continue
            yield dataclasses.replace(group, peak_bytes=need.peak)


def seeds_of(rows: pd.DataFrame) -> tuple[int, int]:
    """Least and most runs that differ in nothing but their seeds."""
    from sweeps.noise import CELL

    counts = rows.groupby(list(CELL), dropna=False).run_id.nunique()
    return int(counts.min()), int(counts.max())
