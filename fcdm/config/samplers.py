"""The samplers, by the objective that they belong to: one table behind checks, costs, protocols and the samplers."""

from __future__ import annotations

SAMPLERS = {"ddpm": ("ddpm", "ddim"), "flow": ("euler", "heun", "dopri5", "sde")}
"""Objective -> its samplers; the functions are in `fcdm/diffusion/gaussian.py` and `solvers.py`."""

CUSTOM = "custom"
"""The objective that is a user's own (`diffusion.target`), whose samplers it names itself."""

CALLS_A_STEP = {"heun": 2}
"""Calls of the model a step; of all others 1."""

ADAPTIVE = ("dopri5",)
"""Take the steps that they need, within `evaluation.atol` and `rtol`; `sampling_steps` means nothing to them."""
