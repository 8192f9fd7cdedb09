"""What diffusion models learn and how they are sampled and guided. Knows no model and no files."""

from fcdm.config.samplers import CUSTOM, SAMPLERS
from fcdm.config.schema import DiffusionConfig
from fcdm.diffusion.flow import FlowMatching
from fcdm.diffusion.gaussian import GaussianDiffusion
from fcdm.diffusion.objective import Objective
from fcdm.diffusion.process import Process
from fcdm.diffusion.user_objective import own_objective
from fcdm.errors import UserError


def make_objective(config: DiffusionConfig) -> Objective:
    """The objective that a configuration names. Raises UserError for one that is not known, or a bad noise schedule."""
    if config.objective == "flow":
        return FlowMatching()
    if config.objective == "ddpm":
        return GaussianDiffusion(Process.create(config.timesteps, config.beta_start, config.beta_end))
    if config.objective == CUSTOM and config.target is not None:
        return own_objective(config)
    raise UserError(f"diffusion.objective={config.objective} is not known: {', '.join(SAMPLERS)}")
