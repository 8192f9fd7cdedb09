"""Every key that a user can set, with its type, its unit and what it means.

Three kinds:

- *science* (`SCIENCE_KEYS`): what the run is, hashed into its id (`fcdm.runs.identity`);
- *request*: which budgets of it, evaluated by which protocol (hashed into the protocol's id, `fcdm.runs.protocol`), for
  which study;
- *runtime*: where, how fast and how loudly it runs. That may move results by float rounding, no more.

Values live in `fcdm/conf/*.yaml` (one home for each default); a dataclass default here is a rule that hardly
anybody changes. Where a key has an effect under a condition only, the field declares it (`applies`), and a command line
that says it elsewhere is refused (`fcdm.config.relevance`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from fcdm.config import when
from fcdm.config.setting import setting

PRECISIONS = ("fp32", "tf32", "bf16")
"""What `precision` and `evaluation.precision` may be."""
HELDOUT = "heldout"
HEADLINES = ("train", HELDOUT)
"""What `evaluation.headline` may be."""
NEVER = "never"
"""Of `evaluation.where`: what branches need of their parent is trained for them alone; no command line says so."""


@dataclass
class ModelConfig:
    """What all model families share. `name` is the preset's name: for people, not part of the run's id."""

    family: str = MISSING
    name: str = MISSING

    @property
    def kind(self) -> str:
        """What runs of one kind are grouped by: the family; of a user's own model the name of its class."""
        return self.family


@dataclass
class FCDMConfig(ModelConfig):
    """Fully convolutional diffusion model (arXiv 2603.09408): three levels of width C, 2C, 4C."""

    family: str = "fcdm"
    width: int = MISSING
    """C, channels of the first level."""
    blocks: list[int] = MISSING
    """Blocks per stage: encoder 1, encoder 2, middle, decoder 2, decoder 1."""
    kernel_size: int = 7
    """Side of the depthwise convolution; odd."""
    expansion: int = 3
    """Width of the inverted bottleneck over the block's width; 1: no inverted bottleneck (hidden width = width)."""
    grn: bool = True
    """Global response normalisation (ConvNeXt V2) inside the bottleneck."""
    channel_attention: bool = False
    """Compact channel attention (DiCo, arXiv 2505.11196) in each block; with `grn=false` instead of GRN."""
    channel_attention_on: str = setting("hidden", applies=when.ATTENDS)
    """`hidden`: on the bottleneck's channels, in GRN's place; `depthwise`: on the depthwise convolution's, a third as
    many at `expansion=3`."""
    feed_forward: bool = False
    """A feed-forward branch of its own modulation after each block's convolutional one."""
    size: str | None = None
    """Instead of width and blocks: a rung of the family's ladder (`fcdm.cost.ladder`), as `model=fcdm/64M` says it. A
    run has what that is, and null here."""
    match_macs: str | None = None
    """Instead of `width`: a preset (`L`) or GMACs; the width at which a forward pass costs as much
    (`fcdm.cost.match_macs`). A run has that width, and null here."""


@dataclass
class DiTConfig(ModelConfig):
    """Diffusion Transformer (arXiv 2212.09748), adaLN-Zero."""

    family: str = "dit"
    patch_size: int = MISSING
    depth: int = MISSING
    width: int = MISSING
    heads: int = MISSING
    mlp_ratio: int = 4
    size: str | None = None
    """As FCDM's, instead of width, depth and heads: `model=dit/64M`, `model=dit/64M-4` with patches of 4."""
    match_macs: str | None = None
    """As FCDM's: the width is a multiple of the heads."""


@dataclass
class CustomConfig(ModelConfig):
    """A model of the user's own (docs/bring_your_own.md): a class, or a function that returns a module."""

    family: str = "custom"
    target: str = MISSING
    """`my_unet.MyUNet`, as Python would import it from the working directory, PYTHONPATH or installed packages."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keywords for it, plain values; what it is given besides: channels, out_channels, side, classes."""
    source: str | None = None
    """sha256 of its source files; null: of those that are there (`fcdm.config.code_source`)."""

    @property
    def kind(self) -> str:
        return self.target.replace(":", ".").rsplit(".", 1)[-1]


FAMILIES: dict[str, type[ModelConfig]] = {"fcdm": FCDMConfig, "dit": DiTConfig, "custom": CustomConfig}
"""What `model.family` may be."""


@dataclass
class DataConfig:
    """What is trained on. `checksum` is its identity; `name` and `path` are not part of the run's id."""

    name: str = MISSING
    """`digits` (bundled 8x8 digits); of a store what runs are called after: the store's own name."""
    path: str | None = setting(None, path=True)
    """Folder of the store, of VAE latents or of pixels, which says all below of itself but what is said here; null:
    data that is bundled."""
    vae: str | None = setting(None, applies=when.LATENTS, path=True)
    """The VAE that the store was made with (hub id, folder, `ft-ema`): a store of another is refused. Not part of the
    id, which the store's checksum is; null: whichever it is."""
    checksum: str | None = None
    """sha256 of the training data (of the store's manifest); null: read from the store."""
    channels: int = MISSING
    classes: int = MISSING
    downsample: int = MISSING
    """Image pixels per side of one latent pixel: 8 for SD-VAE latents, 1 for pixels."""
    flip: str = setting(applies=when.UNMIRRORED)
    """`none`; `random`: horizontal, drawn at training time; `frozen`: one toss per image for good (the public code)."""
    latents: str = setting("posterior", applies=when.LATENTS)
    """Of a latents store: `posterior`: drawn anew at each visit; `frozen`: one draw per image for good (the public
    code). Means nothing for pixels."""
    normalisation: str = setting("scalar", applies=when.LATENTS)
    """Of latents, before a model sees them: `scalar`: less the VAE's shift, times its factor; `channel`: less the mean
    and over the deviation of each channel, which the store has measured."""
    channel_mean: list[float] | None = setting(None, applies=when.BY_COMMANDS)
    """Of `normalisation=channel`: of each channel of the unscaled latents, read from the store; kept, not in the id."""
    channel_deviation: list[float] | None = setting(None, applies=when.BY_COMMANDS)
    """The same."""
    images: int | None = setting(None, applies=when.BY_COMMANDS)
    """How many are trained on, an epoch; read from the data, kept, not in the id; null: not known."""
    conditions: dict[str, list[int]] = field(default_factory=dict)
    """What else a data set of the user's own gives to a model of the user's own: name -> shape of one image's."""
    target: str | None = None
    """`my_data.Shapes`: a data set of the user's own (docs/bring_your_own.md), as Python would import it."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keywords for it, plain values."""
    source: str | None = None
    """sha256 of its source files; null: of those that are there (`fcdm.config.code_source`)."""


@dataclass
class DiffusionConfig:
    """Gaussian diffusion: DDPM (arXiv 2006.11239) with learned range variance (arXiv 2102.09672), or flow matching."""

    objective: str = "ddpm"
    """`ddpm`: predict the noise; `flow`: predict the velocity of the linear path (SiT, arXiv 2401.08740), for which
    `timesteps` and the betas mean nothing; `custom`: `target`, for which they mean nothing either."""
    timesteps: int = setting(1000, applies=when.NOISE_SCHEDULE)
    beta_start: float = setting(1e-4, applies=when.NOISE_SCHEDULE)
    beta_end: float = setting(2e-2, applies=when.NOISE_SCHEDULE)
    learn_sigma: bool = True
    """The network's second half of channels interpolates the log-variance; adds the variational bound to the loss."""
    target: str | None = None
    """`my_objective.Cosine`: an objective of the user's own (docs/bring_your_own.md), with `objective=custom`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keywords for it, plain values."""
    source: str | None = None
    """sha256 of its source files; null: of those that are there (`fcdm.config.code_source`)."""


@dataclass
class LabelDropConfig:
    """Labels replaced by the null class in training, for classifier-free guidance (arXiv 2207.12598)."""

    probability: float = 0.1
    mode: str = setting("independent", applies=(when.DROPS, when.SEVERAL_EMBEDDERS))
    """`independent`: each label embedder of the model draws its own mask (the public FCDM code; fully
    unconditional with p^3 only); `shared`: one mask. The same for DiT, which has one embedder."""


@dataclass
class OptimiserConfig:
    """AdamW with a learning rate that depends on no run's last step, so that budgets can be joined."""

    lr: float = MISSING
    lr_rule: str = "constant"
    """`constant`; `width`: lr x (width / that of lr_base)^-lr_power (`fcdm.cost.size_rules`). A run has the rate that
    comes out, and `constant` here."""
    lr_power: float | None = setting(None, applies=when.LR_RULE)
    lr_base: Any = setting(None, applies=when.LR_RULE)
    """At which model the rate is `lr`: `N`, or one of each family, `[N,dit/N-2]`."""
    betas: list[float] = setting(lambda: [0.9, 0.999], applies=when.ADAMW)
    weight_decay: float = setting(0.0, applies=when.ADAMW)
    warmup_steps: int = 0
    """Linear warm-up of the learning rate over this many steps."""
    schedule: str = "constant"
    """After the warm-up: `constant`; or `inverse_sqrt`: lr / sqrt(step / decay_from) from that step on, as EDM2 has
    it (arXiv 2312.02696)."""
    decay_from: int | None = setting(None, applies=when.DECAYS)
    """Step until which the rate stays `lr`."""
    cooldown: list[int] | None = setting(None, applies=when.BY_COOLDOWN)
    """Of a branch (`cooldown=0.1`): step from which the rate falls linearly, and the run's end, where it would be 0."""
    cooldown_share: float | None = setting(None, applies=when.BY_COOLDOWN)
    """As it was asked for; kept, not in the id."""
    clip_grad_norm: float | None = None
    target: str | None = None
    """`my_optimiser.Lion`: an optimiser of the user's own (docs/bring_your_own.md) instead of AdamW."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keywords for it, plain values; what it is given besides: the weights and lr."""
    source: str | None = None
    """sha256 of its source files; null: of those that are there (`fcdm.config.code_source`)."""


@dataclass
class EMAConfig:
    """Exponential moving average of the weights, every step, starting from the initial weights."""

    decay: float | None = 0.9999
    """Null: none of its own, so that its half-life is the share `rampup` of the steps so far, however many."""
    rampup: float | None = setting(None, applies=when.AVERAGES)
    """Half-life at most this fraction of the steps so far; null: no ramp-up."""


@dataclass
class ResourcesConfig:
    """What one job asks a cluster for. Null: the model's own default (`fcdm/conf/resources/`), else the cluster's."""

    gpus: int = 0
    """GPUs of the whole job, over all nodes; one process per GPU. 0: on CPUs."""
    nodes: int = 1
    hours: float = 24.0
    """Time limit of one start of the job. It saves and is requeued as long as it makes progress."""
    mem_gb: float | None = None
    """Memory of each node; 0: all that it has; null: what the cluster gives."""
    cpus: int | None = None
    """CPU cores per process; null: what the cluster gives."""
    gpu_type: str | None = None
    """Of which kind the GPUs have to be, as SLURM names them (`sinfo -o %G`)."""
    partition: str | None = None
    """This, `qos`, `account`, `constraint` and `gres` mean what they mean to sbatch; null: as the launcher says."""
    qos: str | None = None
    account: str | None = None
    constraint: str | None = None
    gres: str | None = None


@dataclass
class EvaluationConfig:
    """The protocol: how a checkpoint is evaluated. All but `RUNTIME_EVALUATION` is part of the evaluation's key."""

    weights: str = "ema"
    """`ema`; `raw`; or `power:0.08`: the power function average of that sigma_rel, made of `power_ema`'s snapshots."""
    weights_snapshots: str | None = setting(None, applies=when.BY_COMMANDS)
    """Of which snapshots; set at submission."""
    sampler: str = setting(applies=when.DRAWS)
    """`ddpm` (ancestral) or `ddim` (eta 0); of a flow `euler`, `heun`, `dopri5` (adaptive steps) or `sde`."""
    sampling_steps: int = setting(applies=(when.DRAWS, when.COUNTS_STEPS))
    clip_denoised: bool = setting(False, applies=when.DRAWS)
    """Clip the predicted x0 to [-1, 1]; sensible for pixels, never for latents."""
    guidance_scale: float = setting(1.0, applies=when.DRAWS)
    """1: no guidance, one forward pass per step instead of two."""
    guidance_weak: str | None = setting(None, applies=when.GUIDED, path=True)
    """Guide by a weaker model instead of by no label (autoguidance, arXiv 2406.02507): a run's checkpoint
    `<run>@<step>`, its folder, or a file of weights of the same model. In the key by its identity."""
    guidance_weak_weights: str = setting("ema", applies=(when.BY_WEAKER, when.GUIDED))
    """Which of its weights: as `weights`."""
    guidance_weak_snapshots: str | None = setting(None, applies=when.BY_COMMANDS)
    """Of which snapshots; set at submission."""
    guidance_weak_path: str | None = setting(None, applies=when.BY_COMMANDS, path=True)
    """Where it is; set at submission."""
    guidance_channels: int | None = setting(None, applies=(when.GUIDED, when.BY_NO_LABEL))
    """Guide the first so many channels only (the public codes: 3 of 4, the default there); null: all."""
    guidance_interval: list[float] | None = setting(None, applies=when.GUIDED)
    """Guide at diffusion times in [low, high] only, 0 data to 1 noise (arXiv 2404.07724); null: always."""
    atol: float = setting(1e-6, applies=when.ADAPTS)
    """Of `dopri5`: the error allowed in a step is atol + rtol |x|."""
    rtol: float = setting(1e-3, applies=when.ADAPTS)
    samples: int = MISSING
    """0: none, so that the losses of held-out images are all that is evaluated."""
    loss_images: int | None = None
    """Held-out images of the held-out loss, drawn by `seed`, and beside it the loss of as many images that are trained
    on (`train_loss`), with the same noise: what it is lower by was memorised. All of them, of fewer; null: the loss of
    all held-out images, and none of images that are trained on."""
    seed: int = 0
    labels: str = setting("uniform", applies=(when.DRAWS, when.SEVERAL_CLASSES))
    """`uniform`: each label drawn i.i.d. (the papers' rule); `balanced`: equally many of each class."""
    precision: str = "fp32"
    """As `precision`, of the network; the decoder is float32 or, unless this is `fp32`, TF32; features are float32."""
    features: Any = setting(applies=when.DRAWS)
    """The space that distances are taken in (docs/features.md): `inception`, `dinov2`, `dinov2-pil`, `pixels`,
    `classifier` (of the store that is trained on), `digits-cnn`; or `my_features.Edges`: an extractor of the user's own
    (docs/bring_your_own.md). A list (`[digits-cnn,pixels]`) is several evaluations of the same
    samples, the first of them the study's headline; once composed, each has one (`fcdm.config.spaces`)."""
    features_options: dict[str, Any] = field(default_factory=dict)
    """Keywords for the user's own extractor, plain values."""
    features_source: str | None = setting(None, applies=when.BY_COMMANDS)
    """sha256 of its source files; set at submission."""
    headline: str = setting("train", applies=when.DRAWS)
    """Which images of a store of pixels the study's distance is to: `train`: those that are trained on, so that a model
    that copies them is rewarded; `heldout`. Distances to the others stand beside it."""
    dinov2: str = setting("facebook/dinov2-large", applies=(when.DRAWS, when.DINOV2), path=True)
    """Which DINOv2: a hub id or a folder; in the key by its weights."""
    reference: str | None = setting(None, applies=(when.DRAWS, when.COMPARES), path=True)
    """What samples are compared with: statistics of the same features in ADM's format, in the key by the file's sha256,
    or a folder, .npz or .npy of real images, in the key by their content. Null: the store of pixels that is trained
    on."""
    decoder: str | None = setting(None, applies=(when.DRAWS, when.LATENTS), path=True)
    """VAE that decodes latents: a hub id, a folder, `ft-ema` or `ft-mse`; in the key by its weights."""
    batch_size: int = 250
    """Samples per forward pass; does not move the result beyond float rounding."""
    where: str = "inline"
    """`inline`: by the training job, at each budget; `job`: on SLURM, by a job of its own after the training's."""
    resources: ResourcesConfig = setting(ResourcesConfig, applies=when.OWN_JOB)
    """Of the evaluation's own job."""


RUNTIME_EVALUATION = ("batch_size", "where", "resources", "guidance_weak_path")
"""Keys of `evaluation` that do not move a result beyond float rounding."""


@dataclass
class CheckpointConfig:
    """Runtime: when a checkpoint is written and which are kept. Every budget's checkpoint is always kept."""

    every_minutes: float = 15.0
    every_steps: int | None = None
    keep: int = 2


@dataclass
class PowerEMAConfig:
    """Runtime: power function averages (arXiv 2312.02696) besides the EMA, for averages of other lengths afterwards.

    They change neither training nor the EMA, so they are not part of the run's id; but they must be there from its
    first step.
    """

    sigma_rel: list[float] | None = None
    """Lengths to track, as shares of the steps so far: [0.05,0.10] will do for all between 0.04 and 0.15. Each costs
    memory for one copy of the weights. Null: those that the run has tracked so far, none at first; []: none (from
    now on: what is not tracked once cannot be again)."""
    every: int | None = None
    """Steps from one kept snapshot to the next, besides those at every budget; a snapshot is one copy of the weights
    for each length. 8 up to a budget make lengths from 0.04 to 0.15 to 3 % of their profile; an average is made of
    these and of the budget's own. Null: as the run has so far, at budgets only at first."""


@dataclass
class Config:
    """The whole configuration of one job."""

    # --- science: hashed into the run's id -------------------------------------------------
    model: ModelConfig = MISSING
    data: DataConfig = MISSING
    resolution: int = MISSING
    """Side of the images in pixels."""
    batch_size: int = MISSING
    """Global batch: over all ranks and micro-batches."""
    batch_rule: str = "constant"
    """As `optimiser.lr_rule`: `width` is batch_size x (width / that of batch_base)^batch_power, to a multiple of 8."""
    batch_power: float | None = setting(None, applies=when.BATCH_RULE)
    batch_base: Any = setting(None, applies=when.BATCH_RULE)
    precision: str = MISSING
    """`fp32`, `tf32` (float32, whose products a GPU rounds to 10 bits; on a CPU they are float32) or `bf16` (autocast,
    float32 master weights, TF32 on)."""
    seed: int = 0
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    label_drop: LabelDropConfig = field(default_factory=LabelDropConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    ema: EMAConfig = field(default_factory=EMAConfig)
    init_from: str | None = setting(None, path=True)
    """Weights to start from instead of drawn ones: a run's checkpoint `<run>@<step>`, its folder, or a file.

    Model and EMA begin with them, the optimiser and the steps anew. In the id by what it is: `<run's id>@<step>` or
    `sha256:...`."""
    init_from_weights: str = setting("ema", applies=when.BEGINS)
    """Which of its weights: `ema` or `raw`."""

    # --- request: which budgets, how evaluated, for which study ---------------------------------
    steps: Any = MISSING
    """A number or a list: the budgets at which the run is checkpointed and evaluated; once checked a sorted list."""
    flops: Any = None
    """The budgets in FLOPs of training instead, a number or a list; of each the nearest number of steps
    (`fcdm.runs.flop_budgets`). A run has these steps, and null here."""
    cooldown: Any = None
    """Share of each budget in which the rate falls to 0, in a branch of the trajectory (`fcdm.runs.branches`); null:
    the rate goes on. A run has `optimiser.cooldown`, and null here."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    keep_steps: list[int] = field(default_factory=list)
    """Steps whose checkpoints other requests for the same run want; set when a sweep joins them."""
    study: str = "default"
    grids: list[Any] = field(default_factory=list)
    """Only in sweep files: a list of grids, each a mapping of key to value or list of values."""
    studies: list[str] = field(default_factory=list)
    """Only in sweep files, instead of grids: names of other sweep files, asked for together."""

    # --- runtime: outside the id ------------------------------------------------------------
    runs_dir: str = setting("runs", path=True)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:K`."""
    threads: int | None = None
    """CPU threads of this job; null: what the launcher shares out, else torch's own choice."""
    micro_batch: int | None = None
    """Images per forward pass and rank; null: the rank's whole share of the batch."""
    compile: bool | None = None
    """Compile the model (torch.compile), for training and for sampling; null: on a GPU, not on a CPU."""
    deterministic: bool = True
    """Train by torch's deterministic algorithms only, so that a resume is bit for bit on a GPU too; false: by the
    fastest. An operation without a deterministic variant is refused."""
    activation_checkpointing: bool = False
    log_every: int = 50
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    power_ema: PowerEMAConfig = field(default_factory=PowerEMAConfig)
    init_path: str | None = setting(None, applies=when.BY_COMMANDS, path=True)
    """Where `init_from` is; set at submission, read before the first step only."""
    mlflow_uri: str | None = setting(None, path=True)
    """MLflow tracking URI; null: sqlite in `<runs_dir>/mlflow.db`; `off`: no tracking. A user and password in it go to
    the environment (`fcdm.credentials`) and are written nowhere."""


SCIENCE_KEYS = (
    "model",
    "data",
    "resolution",
    "batch_size",
    "precision",
    "seed",
    "diffusion",
    "label_drop",
    "optimiser",
    "ema",
    "init_from",
    "init_from_weights",
)
