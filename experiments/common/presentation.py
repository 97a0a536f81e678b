"""Episodes that show a set of frames again and again and then a cue: the drive of the network, step by step."""

from __future__ import annotations

import torch
from torch import Tensor


class Presentation:
    """Writes the drive of an episode into buffers that live as long as this object.

    Every cycle shows all ``frames`` in a new random order, each for ``show`` steps and ``gap`` steps without input;
    then the cue is shown for ``test`` steps. The first neurons are driven by the frames, any others by nothing, except
    that with ``bias_neuron`` the last one is driven by 1 at every step. Drives are multiplied by ``strength``.

    Args:
        frames, size: number of frames and their length.
        neurons: drives of one step, at least ``size`` (+ 1 with a bias neuron).
        cycles, show, gap, test: the schedule.
        strength: factor of every drive.
        clamped: whether :meth:`fill` also marks the non-zero drives as clamped.
        bias_neuron: whether the last neuron is driven at every step.
        device: of the buffers.
    """

    def __init__(
        self,
        *,
        frames: int,
        size: int,
        neurons: int,
        cycles: int,
        show: int,
        gap: int,
        test: int,
        strength: float,
        clamped: bool,
        bias_neuron: bool,
        device: torch.device,
    ):
        self.frames, self.cycles, self.strength = frames, cycles, strength
        shown = frames * cycles
        self.steps = shown * (show + gap) + test
        self.drive = torch.zeros(self.steps, 1, neurons, device=device)
        if bias_neuron:
            self.drive[..., -1] = strength
        self.clamp = (
            torch.zeros(self.drive.shape, dtype=torch.bool, device=device) if clamped else None
        )
        study = self.drive[: shown * (show + gap)].view(shown, show + gap, neurons)
        self._shown = study[:, :show, :size]
        self._cue = self.drive[self.steps - test :, 0, :size]

    def fill(
        self, frames: Tensor, cue: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        """The drive (T, 1, neurons) and its clamp (None if not clamped); valid until the next call."""
        order = torch.rand(self.cycles, self.frames, generator=generator).argsort(1).flatten()
        device = self.drive.device
        self._shown.copy_(frames[order].mul_(self.strength).to(device).unsqueeze(1))
        self._cue.copy_((cue * self.strength).to(device))
        if self.clamp is not None:
            torch.ne(self.drive, 0, out=self.clamp)
        return self.drive, self.clamp
