"""The fields of every training config, and their defaults.

The `get_config(arg)` of a config file starts from `default_config()`, changes some
fields and returns the config; the loader locks it. Each value comes from the paper or
SANA, where a comment says so, or is ours. The defaults are here and not in configs/,
because `linearsr finetune` needs them where only the package is installed.
"""

from ml_collections import ConfigDict


def default_config() -> ConfigDict:
    """Makes a config that trains the preset nano on a folder of photographs."""
    config = ConfigDict()
    config.preset = "nano"
    config.codec_folder = ""  # for a codec with weights; see `linearsr convert`
    config.init_from = ""  # bundled model or model folder to start from
    # Noise levels at which one expert takes over from another; () is one expert.
    config.expert_boundaries = ()
    config.seed = 0
    config.steps = 100_000
    config.batch_size = 8  # samples per expert and optimiser step, over all devices
    config.accumulation = 1  # number of microbatches that a batch is split into
    config.mass_at_one = 0.2  # share of draws at sigma = 1; ours
    config.dtype = "float32"  # or bfloat16 on accelerators; never float16
    # What the backward pass computes again: nothing (none), everything but the
    # products of dense layers (dots), or whole blocks (blocks).
    config.remat = "none"
    config.scan_unroll = 1  # blocks per iteration of the loop over depth

    config.data = ConfigDict()
    config.data.folder = ""  # photographs, in any form of docs/training.md
    config.data.crop_size = 96  # HR pixels
    config.data.scale_range = (0.5, 1.0)  # shrinks the photograph before cropping
    # Shares of the degradations, in any unit; see docs/training.md.
    config.data.degradations = ConfigDict(
        {"bicubic": 0.25, "light": 0.2, "standard": 0.15, "camera": 0.4}
    )
    config.data.degrade_on = "host"  # or "device", which draws other samples
    config.data.cache_gb = 1.0  # decoded photographs kept in memory
    config.data.workers = 0  # processes; the samples do not depend on it
    config.data.prefetch = 4  # batches made ahead

    # What the model is told about a photograph; see docs/tags.md.
    config.condition = ConfigDict()
    config.condition.kind = "none"  # or tags, features
    # A cache of `linearsr tag`, or features; if empty, the tags of photos.jsonl.
    config.condition.file = ""
    config.condition.val_file = ""  # the same for val.folder
    config.condition.max_tokens = 16  # per photograph; further ones are dropped
    config.condition.dropout = 0.1  # share of samples without condition; as SANA

    config.val = ConfigDict()
    config.val.folder = ""  # photographs to validate on
    config.val.holdout = 0.0  # or a share of data.folder that is held out
    config.val.crop_size = 192  # HR pixels, from the centre of each photograph
    config.val.metrics = ("psnr", "lpips")
    config.val.steps = 1  # sampler steps per image
    config.val.every = 2_000  # train steps

    # Early-stopping guided fine-tuning; see docs/stages.md.
    config.esgf = ConfigDict()
    config.esgf.stop_at_knee = False  # end at the knee and export its weights
    config.esgf.patience = 3  # evaluations for which the knee must stand
    config.esgf.knee_step = 0  # knee chosen by hand; 0 for none
    config.esgf.candidates = 24  # number of evaluations whose weights are kept
    config.esgf.sharpness_every = 0  # in evaluations; 0 for never
    config.esgf.max_rewinds = 3  # before a diverging run ends with an error

    config.optimizer = ConfigDict()
    config.optimizer.name = "adamw"  # or came, as SANA
    config.optimizer.adamw = ConfigDict({"b1": 0.9, "b2": 0.99})
    config.optimizer.came = ConfigDict({"b1": 0.9, "b2": 0.999, "b3": 0.9999})
    config.optimizer.learning_rate = 1e-3  # ours
    config.optimizer.warmup_steps = 500
    config.optimizer.descent = (
        "linear"  # over the last decay_steps; or cosine, constant
    )
    config.optimizer.decay_steps = 20_000
    config.optimizer.final_learning_rate = 1e-6
    config.optimizer.weight_decay = 0.0  # as SANA
    config.optimizer.clip_norm = 1.0  # SANA clips at 0.1 with CAME
    config.optimizer.ema_decay = 0.999
    config.optimizer.only = ()  # names of modules to train; () for all

    # Weights of terms on the decoded x0 estimate, added to the flow loss; a term of
    # weight 0 costs nothing. Ours; OSEDiff has LPIPS 2 with L2 1.
    config.loss = ConfigDict()
    config.loss.flow = 1.0
    config.loss.l1 = 0.0
    config.loss.lpips = 0.0
    config.loss.lpips_vgg = 0.0  # needs the extra "judges"
    config.loss.grid = 0.0  # against a pattern of period 4; see training/grid_loss.py
    config.loss.adversarial = 0.0
    # Noise of the LR image, in levels of 255, at which LPIPS and the discriminator
    # count half; 0 for no such weights. See training/noise_weights.py.
    config.loss.half_at_noise = 0.0
    # Noisy samples' photographs are sharpened by up to this amount for l1; see
    # training/sharpening.py.
    config.loss.sharpen = 0.0
    config.loss.below_sigma = 0.223  # only for cleaner samples; the paper's boundary

    # Of the adversarial term.
    config.discriminator = ConfigDict()
    config.discriminator.width = 32
    config.discriminator.learning_rate = 2e-4

    config.mesh = ConfigDict()
    config.mesh.experts = 1
    config.mesh.data = -1  # all remaining devices
    config.mesh.fsdp = 0  # as the preset needs; see sharding.DEFAULT_FSDP
    config.mesh.sequence = 1  # parts of the rows of a sample

    config.profile = ConfigDict()
    config.profile.first = 10  # counted from the start; earlier steps show compilation
    config.profile.count = 0  # steps to trace, into workdir/profile

    config.log_every = 100
    config.checkpoint_every = 2_000
    config.keep_checkpoints = 3  # one more where a validation follows the newest
    config.keep_every = 0  # checkpoints at multiples of this step stay, too
    # Ends a process in which no step begins for so long, so that a cluster can start it
    # again; compiling, validating and saving may take longer. 0 for never.
    config.hang_exit_minutes = 30.0
    # Who writes TensorBoard's files; "clu" needs TensorFlow.
    config.tensorboard = "tensorboardX"
    # Name under which a run reports its times to Google Cloud; see docs/pods.md. Stages
    # append their own.
    config.goodput_job = ""
    return config
