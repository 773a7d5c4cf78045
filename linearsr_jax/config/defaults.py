"""The fields every training config has, and their defaults.

A config file's `get_config(arg)` starts from `default_config()`, changes what it
wants and returns it; the loader locks it. Every value is from the paper or SANA
(named) or ours. Here and not in configs/, because `linearsr finetune` needs them
where only the package is installed.
"""

from ml_collections import ConfigDict


def default_config() -> ConfigDict:
    """A config for preset nano on a folder of photographs."""
    config = ConfigDict()
    config.preset = "nano"
    config.codec_folder = ""  # of a codec with weights; see `linearsr convert`
    config.init_from = ""  # weights to start from: a bundled model, a model folder
    # Noise levels where one expert takes over from another; none is one expert.
    config.expert_boundaries = ()
    config.seed = 0
    config.steps = 100_000
    config.batch_size = 8  # of each expert over all its devices, in an optimiser step
    config.accumulation = 1  # microbatches a step; the batch is split into so many
    config.mass_at_one = 0.2  # share of draws at sigma = 1; ours
    config.dtype = "float32"  # or bfloat16 on accelerators; never float16
    # What the backward pass computes again: nothing, all but the dense layers'
    # products (dots), or whole blocks.
    config.remat = "none"
    config.scan_unroll = 1  # blocks per iteration of the loop over depth

    config.data = ConfigDict()
    config.data.folder = ""  # photographs in any form of docs/training.md
    config.data.crop_size = 96  # HR pixels
    config.data.scale_range = (0.5, 1.0)  # of the photograph before the crop
    config.data.bicubic_probability = 0.5
    config.data.degradation = "light"  # of the rest; see DEGRADATIONS
    config.data.degrade_on = "host"  # or "device"; another stream of samples
    config.data.cache_gb = 1.0  # decoded photographs kept in memory
    config.data.workers = 0  # processes; the stream does not depend on it
    config.data.prefetch = 4  # batches

    # What training says of a photograph beside its pixels; see docs/training.md.
    config.condition = ConfigDict()
    config.condition.kind = "none"  # or tags, features
    # From `linearsr tag`, or of features; without, the photographs' own tags.
    config.condition.file = ""
    config.condition.val_file = ""  # the same of val.folder
    config.condition.max_tokens = 16  # of a photograph
    config.condition.dropout = 0.1  # share of samples that go without; SANA's

    config.val = ConfigDict()
    config.val.folder = ""  # photographs to validate on; or see holdout
    config.val.holdout = 0.0  # share of data.folder kept for validation instead
    config.val.crop_size = 192  # HR pixels, from the centre of each photograph
    config.val.metrics = ("psnr", "lpips")
    config.val.steps = 1  # network evaluations an image
    config.val.every = 2_000

    # Early-stopping guided fine-tuning; see docs/stages.md.
    config.esgf = ConfigDict()
    config.esgf.stop_at_knee = False  # end there, and hand on the weights of the knee
    config.esgf.patience = 3  # evaluations that a knee has to stand for that
    config.esgf.knee_step = 0  # the knee chosen by hand; 0 is none
    config.esgf.candidates = 24  # evaluations whose weights are kept
    config.esgf.sharpness_every = 0  # evaluations; 0 is never
    config.esgf.max_rewinds = 3  # of a run that diverges

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"  # or came, SANA's
    config.optimizer.adamw = ConfigDict({"b1": 0.9, "b2": 0.99})
    config.optimizer.came = ConfigDict({"b1": 0.9, "b2": 0.999, "b3": 0.9999})
    config.optimizer.learning_rate = 1e-3  # ours
    config.optimizer.warmup_steps = 500
    config.optimizer.descent = "linear"  # of the last steps; or cosine, constant
    config.optimizer.decay_steps = 20_000
    config.optimizer.final_learning_rate = 1e-6
    config.optimizer.weight_decay = 0.0  # as SANA
    config.optimizer.clip_norm = 1.0  # SANA clips at 0.1 with CAME
    config.optimizer.ema_decay = 0.999
    config.optimizer.only = ()  # names of modules; all others keep their weights

    # Terms on the decoded image of the x0 that the network implies, beside the flow
    # loss. They are weights; 0 costs nothing. Ours; OSEDiff has LPIPS 2 with L2 1.
    config.loss = ConfigDict()
    config.loss.l1 = 0.0
    config.loss.lpips = 0.0
    config.loss.below_sigma = 0.223  # for cleaner samples only; the paper's boundary

    config.mesh = ConfigDict()
    config.mesh.experts = 1
    config.mesh.data = -1  # what is left
    config.mesh.fsdp = 1

    config.profile = ConfigDict()
    config.profile.first = 10  # step from here; the first show compilation only
    config.profile.count = 0  # of steps; the trace goes to workdir/profile

    config.log_every = 100
    config.checkpoint_every = 2_000
    config.keep_checkpoints = 3
    return config
