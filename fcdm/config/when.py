"""Under which conditions a setting has an effect: of several fields of the schema, which declare them (`applies`)."""

from __future__ import annotations

from fcdm.config import spaces
from fcdm.config.samplers import ADAPTIVE
from fcdm.config.setting import Needs

BY_COMMANDS = Needs(None, lambda _: False, "the commands set it: leave it away")
BY_COOLDOWN = Needs(None, lambda _: False, "cooldown=0.1 sets it, of each budget: say that instead")
UNMIRRORED = Needs(
    "data.name", lambda name: name != "digits", "a mirrored digit is no digit, so that none is: leave it away"
)
LATENTS = Needs("data.downsample", lambda side: side > 1, "these are pixels, and no latents of a VAE: leave it away")
SEVERAL_CLASSES = Needs("data.classes", lambda count: count > 1, "all labels are the same: leave it away")
NOISE_SCHEDULE = Needs(
    "diffusion.objective", lambda name: name == "ddpm", "that has no noise schedule, or one of its own: leave it away"
)
DROPS = Needs(
    "label_drop.probability",
    lambda share: 0 < share < 1,
    "no label is dropped, or every one: leave it away, or say label_drop.probability=0.1",
)
SEVERAL_EMBEDDERS = Needs(
    "model.family",
    lambda family: family != "dit",
    "a DiT has one label embedder, so that both modes are one: leave it away",
)
ADAMW = Needs(
    "optimiser.target",
    lambda target: target is None,
    "it is AdamW's: say what yours takes, +optimiser.options.NAME=VALUE",
)
LR_RULE = Needs(
    "optimiser.lr_rule",
    lambda rule: rule == "width",
    "the rate is what optimiser.lr says: say optimiser.lr_rule=width too, or leave it away",
)
BATCH_RULE = Needs(
    "batch_rule",
    lambda rule: rule == "width",
    "the batch is what batch_size says: say batch_rule=width too, or leave it away",
)
DECAYS = Needs(
    "optimiser.schedule",
    lambda schedule: schedule == "inverse_sqrt",
    "the rate is constant: say optimiser.schedule=inverse_sqrt too, or leave it away",
)
AVERAGES = Needs("ema.decay", lambda decay: decay is None or decay > 0, "that is no average: leave it away")
BEGINS = Needs("init_from", lambda source: source is not None, "init_from names none: say init_from=<run>@<step> too")
GUIDED = Needs(
    "evaluation.guidance_scale",
    lambda scale: scale != 1.0,
    "nothing is guided: say evaluation.guidance_scale=1.5 too, or leave it away",
)
BY_WEAKER = Needs(
    "evaluation.guidance_weak",
    lambda source: source is not None,
    "no weaker model guides: say evaluation.guidance_weak=<run>@<step> too, or leave it away",
)
BY_NO_LABEL = Needs(
    "evaluation.guidance_weak",
    lambda source: source is None,
    "a weaker model guides all channels: say evaluation.guidance_channels=null",
)
DRAWS = Needs(
    "evaluation.samples",
    lambda count: count > 0,
    "no sample is drawn, of which it says something: leave it away, or say evaluation.samples=2000",
)
ADAPTS = Needs(
    "evaluation.sampler",
    lambda sampler: sampler in ADAPTIVE,
    f"it takes sampling_steps steps, of whatever error: say evaluation.sampler={ADAPTIVE[0]} too, or leave it away",
)
COUNTS_STEPS = Needs(
    "evaluation.sampler",
    lambda sampler: sampler not in ADAPTIVE,
    "it takes the steps that it needs: say evaluation.rtol=1e-3 instead, or leave it away",
)
COMPARES = Needs(
    "evaluation.features",
    lambda features: features not in spaces.OF_THE_DATA,
    "these features know the data that is trained on alone, and compare with that: leave it away",
)
DINOV2 = Needs(
    "evaluation.features",
    lambda features: features in spaces.DINOV2,
    "no DINOv2 is asked for: say evaluation.features=dinov2 too, or leave it away",
)
ATTENDS = Needs(
    "model.channel_attention",
    lambda attends: attends is True,
    "nothing attends: say model.channel_attention=true too, or leave it away",
)
OWN_JOB = Needs(
    "evaluation.where",
    lambda where: where == "job",
    "the training's job evaluates: say evaluation=job too, or leave it away",
)
