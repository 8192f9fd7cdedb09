"""What diffusion models learn and how they are sampled and guided. Knows no model and no files."""

from fcdm.config.schema import DiffusionConfig
from fcdm.diffusion.flow import FlowMatching
from fcdm.diffusion.gaussian import GaussianDiffusion
from fcdm.diffusion.objective import Objective
from fcdm.diffusion.process import Process


def make_objective(config: DiffusionConfig) -> Objective:
    """The objective that a configuration names. Raises UserError for a noise schedule that is none."""
    if config.objective == "flow":
        return FlowMatching()
    return GaussianDiffusion(Process.create(config.timesteps, config.beta_start, config.beta_end))
