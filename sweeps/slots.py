"""How many runs of a shape this process trains side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lab.errors import LabError

if TYPE_CHECKING:
    from lab.config import RunConfig
    from lab.pack import Marks, PackPlan, Shape
    from lab.train import Execution


class Slots:
    """As asked for; by default one a device on a CPU, and on accelerators as many as are measured to be faster.

    Whatever it was, it is halved for a shape that did not fit into memory, down to one run a device group.
    """

    def __init__(self, execution: Execution, asked: int | None, pauses: Marks, say: Callable[[str], None]):
        self._execution, self._asked, self._pauses, self._say = execution, asked, pauses, say
        self._known: dict[Shape, int] = {}

    def __call__(self, group: Sequence[RunConfig]) -> int:
        """Slots for a pack of these runs, all of one shape."""
        from lab.pack import shape_of

        shape = shape_of(group[0])
        if shape not in self._known:
            self._known[shape] = self._asked or self._chosen(group, shape)
        return self._known[shape]

    def halve(self, shape: Shape, slots: int, error: Exception) -> None:
        """Takes in that `slots` runs of a shape did not fit.

        Raises:
          LabError: when fewer are not to be had.
        """
        least = self._execution.slots
        if slots <= least:
            raise LabError(
                f"Memory does not hold {slots} run{'s' if slots > 1 else ''} of this shape side by side: "
                f"{str(error).splitlines()[0][:200]}",
                "Use a smaller model or batch, or fewer --devices.",
            ) from error
        self._known[shape] = max(least, slots // 2)
        self._say(f"{slots} runs side by side do not fit into memory; going on with {self._known[shape]}.")

    def _chosen(self, group: Sequence[RunConfig], shape: Shape) -> int:
        import jax

        from lab.calibrate import pack_size
        from lab.pack import plan_pack
        from lab.train import STEPS_PER_DISPATCH

        least = self._execution.slots
        if jax.default_backend() == "cpu":
            return least  # mapping over runs gains nothing there

        def plan_of(slots: int) -> PackPlan:
            return plan_pack(group, slots, STEPS_PER_DISPATCH, self._pauses)

        root, mesh_of = self._execution.root, self._execution.mesh
        return pack_size(
            shape, plan_of, mesh_of, least, len(group), root, lambda text: self._say(f"Measuring {text}.")
        )[0]
