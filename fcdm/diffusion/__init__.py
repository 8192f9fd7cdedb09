"""Gaussian diffusion: process, training loss, sampling and guidance. Knows no model, no files, no config."""

from fcdm.diffusion.guidance import Denoise, guided
from fcdm.diffusion.loss import Loss, training_loss
from fcdm.diffusion.process import Process
from fcdm.diffusion.sampling import sample

__all__ = ["Denoise", "Loss", "Process", "guided", "sample", "training_loss"]
