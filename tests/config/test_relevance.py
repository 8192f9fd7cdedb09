"""A setting that means nothing here is refused, in one line that says what to write instead."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fcdm.config.keys import config_keys
from fcdm.errors import UserError
from fcdm.sweep.compose import Composer
from tests.support.commands import composing

DIGITS, LATENTS, FLOW = ("model=N",), ("model=S",), ("model=N", "objective=flow")
ALONE = (*DIGITS, "evaluation.samples=0")
ADAPTIVE = (*FLOW, "evaluation.sampler=dopri5")
GUIDED = ("evaluation.guidance_scale=1.5",)
BY_WEAKER = (*GUIDED, "evaluation.guidance_weak=run@2", "evaluation.guidance_channels=null")

ATTENDS = (*DIGITS, "model.channel_attention=true")

FALLS = "optimiser.schedule=inverse_sqrt"
LR_RULE = ("optimiser.lr_rule=width",)

CASES: list[tuple[tuple[str, ...], str, str, tuple[str, ...] | None]] = [
    # where it means nothing, what is said, what to do instead, where it has an effect
    (DIGITS, "data.vae=ft-mse", "leave it away", LATENTS),
    (DIGITS, "data.flip=random", "a mirrored digit is no digit", (*LATENTS, "data.flip=none")),
    (DIGITS, "data.flip=frozen", "a mirrored digit is no digit", LATENTS),
    (DIGITS, "data.latents=frozen", "no latents of a VAE", LATENTS),
    (DIGITS, "data.normalisation=channel", "no latents of a VAE", LATENTS),
    (DIGITS, "data.channel_mean=[0.1]", "the commands set it", None),
    (DIGITS, "data.channel_deviation=[1.5]", "the commands set it", None),
    (DIGITS, "data.images=5", "the commands set it", None),
    (DIGITS, "optimiser.decay_from=9", "say optimiser.schedule=inverse_sqrt too", (*DIGITS, FALLS)),
    (DIGITS, "optimiser.lr_power=0.5", "say optimiser.lr_rule=width too", (*DIGITS, *LR_RULE, "optimiser.lr_base=N")),
    (DIGITS, "optimiser.lr_base=N", "say optimiser.lr_rule=width too", (*DIGITS, *LR_RULE, "optimiser.lr_power=0.5")),
    (DIGITS, "optimiser.cooldown=[9,10]", "cooldown=0.1 sets it, of each budget: say that instead", None),
    (DIGITS, "optimiser.cooldown_share=0.1", "cooldown=0.1 sets it, of each budget: say that instead", None),
    (DIGITS, "batch_power=0.5", "say batch_rule=width too", (*DIGITS, "batch_rule=width", "batch_base=M")),
    (DIGITS, "batch_base=M", "say batch_rule=width too", (*DIGITS, "batch_rule=width", "batch_power=0.5")),
    (FLOW, "diffusion.timesteps=500", "no noise schedule", DIGITS),
    (FLOW, "diffusion.beta_start=1e-3", "no noise schedule", DIGITS),
    (FLOW, "diffusion.beta_end=0.1", "no noise schedule", DIGITS),
    ((*DIGITS, "label_drop.probability=0"), "label_drop.mode=independent", "say label_drop.probability=0.1", DIGITS),
    (("model=dit/N-2",), "label_drop.mode=independent", "one label embedder", DIGITS),
    ((*DIGITS, "ema.decay=0"), "ema.rampup=0.2", "no average", DIGITS),
    (DIGITS, "model.channel_attention_on=depthwise", "say model.channel_attention=true too", ATTENDS),
    (DIGITS, "init_from_weights=raw", "say init_from=<run>@<step> too", (*DIGITS, "init_from=run@2")),
    (DIGITS, "init_path=x", "the commands set it", None),
    (DIGITS, "evaluation.weights_snapshots=x", "the commands set it", None),
    (DIGITS, "evaluation.features_source=x", "the commands set it", None),
    ((*DIGITS, "optimiser.target=my.Lion"), "optimiser.betas=[0.9,0.99]", "+optimiser.options.NAME=VALUE", DIGITS),
    ((*DIGITS, "optimiser.target=my.Lion"), "optimiser.weight_decay=0.1", "+optimiser.options.NAME=VALUE", DIGITS),
    (DIGITS, "evaluation.guidance_weak_snapshots=x", "the commands set it", None),
    ((*DIGITS, *BY_WEAKER), "evaluation.guidance_weak_path=x", "the commands set it", None),
    (ADAPTIVE, "evaluation.sampling_steps=9", "say evaluation.rtol=1e-3 instead", FLOW),
    (DIGITS, "evaluation.atol=1e-3", "say evaluation.sampler=dopri5 too", ADAPTIVE),
    (FLOW, "evaluation.rtol=1e-2", "say evaluation.sampler=dopri5 too", ADAPTIVE),
    (DIGITS, "evaluation.guidance_weak=run@2", "say evaluation.guidance_scale=1.5 too", (*DIGITS, *GUIDED)),
    ((*DIGITS, *GUIDED), "evaluation.guidance_weak_weights=raw", "guidance_weak=<run>", (*DIGITS, *BY_WEAKER)),
    (LATENTS, "evaluation.guidance_channels=null", "say evaluation.guidance_scale=1.5 too", (*LATENTS, *GUIDED)),
    ((*DIGITS, *BY_WEAKER), "evaluation.guidance_channels=1", "evaluation.guidance_channels=null", (*DIGITS, *GUIDED)),
    (DIGITS, "evaluation.guidance_interval=[0.1,0.8]", "say evaluation.guidance_scale=1.5", (*DIGITS, *GUIDED)),
    ((*LATENTS, "data.classes=1"), "evaluation.labels=balanced", "all labels are the same", LATENTS),
    (DIGITS, "evaluation.reference=ref.npz", "leave it away", LATENTS),
    (
        LATENTS,
        "evaluation.dinov2=folder",
        "say evaluation.features=dinov2 too",
        (*LATENTS, "evaluation.features=dinov2"),
    ),
    (DIGITS, "evaluation.decoder=ft-mse", "no latents of a VAE", LATENTS),
    (ALONE, "evaluation.sampler=ddpm", "no sample is drawn", DIGITS),
    (ALONE, "evaluation.sampling_steps=9", "say evaluation.samples=2000", DIGITS),
    (ALONE, "evaluation.clip_denoised=false", "no sample is drawn", DIGITS),
    (ALONE, "evaluation.guidance_scale=2", "no sample is drawn", DIGITS),
    (ALONE, "evaluation.labels=uniform", "no sample is drawn", DIGITS),
    (ALONE, "evaluation.features=pixels", "no sample is drawn", DIGITS),
    (ALONE, "evaluation.headline=heldout", "no sample is drawn", None),
    (DIGITS, "evaluation.resources.gpus=2", "say evaluation=job too", (*DIGITS, "evaluation=job")),
    (DIGITS, "evaluation={resources: {hours: 2}}", "say evaluation=job too", (*DIGITS, "evaluation=job")),
]


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    with composing() as found:
        yield found


@pytest.mark.parametrize(("where", "said", "instead", "fits"), CASES)
def test_refused_where_it_means_nothing_and_taken_where_it_does(
    composer: Composer, where: tuple[str, ...], said: str, instead: str, fits: tuple[str, ...] | None
) -> None:
    composer.config(where)
    with pytest.raises(UserError) as refused:
        composer.config([*where, said])
    assert instead in str(refused.value)
    assert "\n" not in str(refused.value)
    if fits is not None:
        composer.config([*fits, said])


def test_every_condition_of_the_schema_has_a_case() -> None:
    said = {said.partition("=")[0] for _, said, _, _ in CASES}
    conditional = {key for key, item in config_keys().items() if item.needs}
    assert {key for key in conditional if not key.startswith("evaluation.resources.")} <= said


@pytest.mark.parametrize(
    "choice",
    [
        (*DIGITS, "evaluation.guidance_interval=null", "evaluation.atol=1e-6", "data.flip=none", "data.path=null"),
        (*LATENTS, "evaluation.guidance_channels=3", "data.latents=posterior"),
        (*ADAPTIVE, "evaluation.sampling_steps=25"),
        (*FLOW, "evaluation.sampling_steps=2000"),  # more than diffusion.timesteps, which a flow has not
        (*DIGITS, "evaluation=job", "evaluation={resources: {hours: 2}, samples: 50}"),
    ],
)
def test_what_the_presets_say_anyway_is_not_refused(composer: Composer, choice: tuple[str, ...]) -> None:
    composer.config(choice)
