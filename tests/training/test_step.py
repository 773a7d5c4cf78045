"""The pure step: it learns, and devices agree."""

import contextlib
import dataclasses
import re
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from linearsr_jax.codecs import PixelCodec
from linearsr_jax.config.defaults import default_config
from linearsr_jax.data import degradations
from linearsr_jax.models.presets import get_preset
from linearsr_jax.training import metrics as train_metrics
from linearsr_jax.training import optimizers as optim
from linearsr_jax.training import sharding
from linearsr_jax.training.checkpoints import Checkpointer
from linearsr_jax.training.losses import Loss
from linearsr_jax.training.step import (
    TrainState,
    loss_and_grads,
    make_init,
    make_train_step,
    unboxed,
)
from tests.training.test_record import make_record

PRESET = get_preset("debug")


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (8, 9, 9, 3), dtype=np.uint8)
    image_hr = np.repeat(np.repeat(coarse, 4, axis=1), 4, axis=2)[:, 2:34, 2:34]
    image_lr = np.stack([degradations.bicubic(image) for image in image_hr])
    return {"image_hr": image_hr, "image_lr": image_lr}


def start(mesh, optimizer, *, model=None, mass_at_one=0.2, accumulation=1, **terms):
    """The jitted step and the state it starts from."""
    model = model or PRESET.make_model()
    init = make_init(model, optimizer)
    key = jax.random.key(0)
    shardings = sharding.state_sharding(jax.eval_shape(init, key), mesh)
    state = jax.jit(unboxed(init), out_shardings=shardings)(key)
    loss = Loss(model, PRESET, mass_at_one=mass_at_one, **terms)
    step = make_train_step(loss, optimizer, seed=0, accumulation=accumulation)
    return jax.jit(step, out_shardings=(shardings, None)), state


def run(batch, optimizer, *, devices, steps, fsdp=1, sequence=1, **fields):
    mesh = sharding.make_mesh(-1, fsdp, devices, sequence=sequence)
    with jax.set_mesh(mesh):
        step, state = start(mesh, optimizer, **fields)
        losses = []
        for _ in range(steps):
            state, metrics = step(
                state,
                jax.device_put(batch, sharding.batch_sharding(mesh)),
                PixelCodec(),
            )
            losses.append(float(metrics.loss.compute()))
    return state, losses


def test_one_batch_is_overfitted(batch):
    # At sigma = 1 only, the loss is a plain regression that can go to zero.
    state, losses = run(
        batch, optax.adam(1e-2), devices=jax.devices()[:1], steps=250, mass_at_one=1.0
    )
    assert int(state.step) == 250
    assert losses[-1] < 0.05 * losses[0]


def test_one_and_eight_devices_agree_to_rounding(batch):
    # Plain gradient descent: Adam would turn rounding of a gradient near zero into
    # a step of full size.
    optimizer = optax.sgd(0.1)
    one, losses_one = run(batch, optimizer, devices=jax.devices()[:1], steps=3)
    # Samples are split in four, their rows and the parameters in two.
    eight, losses_eight = run(
        batch, optimizer, devices=jax.devices()[:8], steps=3, fsdp=2, sequence=2
    )
    np.testing.assert_allclose(losses_eight, losses_one, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        jax.device_get(eight.params),
        jax.device_get(one.params),
    )


def test_rows_are_split_before_the_work(batch):
    """Each of four devices does little more than a quarter of the operations."""
    mesh = sharding.make_mesh(1, 1, jax.devices()[:4], sequence=4)
    with jax.set_mesh(mesh):
        step, state = start(mesh, optax.sgd(0.1))
        whole = jax.device_put(batch, sharding.batch_sharding(mesh))
        lowered = step.lower(state, whole, PixelCodec())
    own = lowered.compile().cost_analysis()["flops"]
    assert own < 0.35 * lowered.cost_analysis()["flops"]


def make_optimizer(name):
    config = default_config()
    config.optimizer.name = name
    # The first step's learning rate is not 0.
    config.optimizer.warmup_steps = 0
    return optim.make_optimizer(steps=config.steps, **config.optimizer.to_dict())[0]


@pytest.fixture(scope="module")
def came_on_eight(batch):
    optimizer = make_optimizer("came")
    return run(batch, optimizer, devices=jax.devices()[:8], steps=1, fsdp=4)[0]


def test_fsdp_splits_parameters_and_moments(came_on_eight):
    state = came_on_eight
    kernel = state.params["blocks"]["attention"]["qkv"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (2, 8, 96)
    average = optim.ema_params(state.opt_state)["blocks"]["attention"]["qkv"]["kernel"]
    assert average.sharding == kernel.sharding
    came = state.opt_state[1][0]
    assert came.mean["blocks"]["attention"]["qkv"]["kernel"].sharding == kernel.sharding
    vectors = came.square["blocks"]["attention"]["qkv"]["kernel"]
    shards = [x.sharding.shard_shape(x.shape) for x in vectors]
    assert shards == [(2, 8), (2, 96)]


def test_came_saved_on_eight_devices_goes_on_on_one(came_on_eight, tmp_path):
    state = jax.tree.map(lambda x: x + 0, came_on_eight)
    mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
    shardings = jax.tree.map(lambda _: sharding.replicated(mesh), state)
    with contextlib.closing(Checkpointer(tmp_path, keep=1)) as checkpointer:
        checkpointer.save(1, state, make_record())
    with contextlib.closing(Checkpointer(tmp_path, keep=1)) as checkpointer:
        restored = checkpointer.restore_state(1, state, shardings)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, *jax.device_get((restored, state)))
    assert {len(x.sharding.device_set) for x in jax.tree.leaves(restored)} == {1}


def compile_step(batch, mesh, **fields):
    with jax.set_mesh(mesh):
        step, state = start(mesh, optax.sgd(0.1), **fields)
        return (
            step,
            state,
            step.lower(
                state,
                jax.device_put(batch, sharding.batch_sharding(mesh)),
                PixelCodec(),
            ).compile(),
        )


# An image term is on: a mean over a few samples is the one to get wrong.
TERMS = {"l1": 0.5, "below_sigma": 0.7}


@pytest.fixture(scope="module")
def whole(batch):
    """Two steps without accumulation."""
    return run(batch, optax.sgd(0.1), devices=jax.devices()[:1], steps=2, **TERMS)


class TestAccumulation:
    @pytest.mark.parametrize(
        ("accumulation", "devices", "fsdp", "sequence"), [(8, 1, 1, 1), (2, 8, 2, 2)]
    )
    def test_equals_the_whole_batch(
        self, batch, whole, accumulation, devices, fsdp, sequence
    ):
        state, losses = run(
            batch,
            optax.sgd(0.1),
            devices=jax.devices()[:devices],
            steps=2,
            fsdp=fsdp,
            sequence=sequence,
            accumulation=accumulation,
            **TERMS,
        )
        np.testing.assert_allclose(losses, whole[1], rtol=1e-5)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            *jax.device_get((state.params, whole[0].params)),
        )

    def test_every_device_keeps_its_own_samples(self, batch):
        """No collective of the compiled step moves images: all are 8-bit until used."""
        mesh = sharding.make_mesh(4, 1, jax.devices()[:4])
        *_, compiled = compile_step(batch, mesh, accumulation=2)
        text = compiled.as_text()
        collectives = re.findall(
            r"= (.*) (?:all-gather|all-to-all|collective-permute)(?:-start)?\(", text
        )
        assert "all-reduce" in text
        assert not [shape for shape in collectives if re.search(r"[su]8\[|,3\]", shape)]

    def test_values_keep_the_order_of_the_samples(self):
        """As the noise levels they are sorted by in the log."""

        def loss(scale, codec, x, sigma, critic):
            return scale * jnp.sum(x), ({"flow": x + sigma}, {"dead_rows": x[:1]})

        samples = (jnp.arange(6.0), jnp.arange(6.0) / 8)
        state = TrainState(step=0, params=2.0, opt_state=None, guard=None)
        total, values, telemetry, grads = loss_and_grads(loss, state, None, samples, 3)
        assert (total, grads) == (30.0, (15.0, None))
        np.testing.assert_array_equal(values["flow"], samples[0] + samples[1])
        np.testing.assert_array_equal(telemetry["dead_rows"], [[0.0], [1.0], [2.0]])

    def test_a_batch_that_cannot_be_split(self, batch):
        mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
        with pytest.raises(ValueError, match="batch_size 8 is not a multiple of 3"):
            compile_step(batch, mesh, accumulation=3)


@pytest.fixture(scope="module")
def first_metrics(batch):
    mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
    with jax.set_mesh(mesh):
        step, state = start(mesh, make_optimizer("adamw"), l1=1.0, below_sigma=0.5)
        after, metrics = step(
            state, jax.device_put(batch, sharding.batch_sharding(mesh)), PixelCodec()
        )
    return state, after, train_metrics.scalars(metrics)


def test_metrics_are_norms_and_telemetry_of_the_step(batch, first_metrics):
    before, after, scalars = first_metrics
    flat = [
        np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]).astype(np.float64)
        for tree in (before.params, after.params)
    ]
    update = np.linalg.norm(flat[1] - flat[0])
    np.testing.assert_allclose(
        scalars["param_norm"], np.linalg.norm(flat[1]), rtol=1e-5
    )
    np.testing.assert_allclose(scalars["update_norm"], update, rtol=1e-3)
    np.testing.assert_allclose(
        scalars["update_to_param"], update / np.linalg.norm(flat[1]), rtol=1e-3
    )
    assert scalars["grad_norm"] == scalars["grad_norm_max"] > 0
    assert scalars["attention_min_denominator"] > 0
    assert 0 <= scalars["attention_dead_rows"] <= scalars["attention_dead_rows_max"] < 1
    assert scalars["attention_max_state"] > 0


class TestMixedPrecision:
    def test_bfloat16_trains_and_keeps_its_state_float32(self, batch):
        model = PRESET.make_model(dtype=jnp.bfloat16)
        state, losses = run(
            batch,
            make_optimizer("came"),
            devices=jax.devices()[:1],
            steps=2,
            model=model,
        )
        assert np.all(np.isfinite(losses))
        kinds = {x.dtype for x in jax.tree.leaves(state)}
        assert kinds == {jnp.dtype("float32"), jnp.dtype("int32")}

    def test_only_the_layers_products_are_bfloat16(self, batch):
        """Sums over tokens, samples or layers are float32, forward and backward.

        A dense layer's or convolution's product may take bfloat16: hardware adds those
        up in float32. Attention's may not: their size is what overflows.
        """
        model = PRESET.make_model(dtype=jnp.bfloat16)
        mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
        with jax.set_mesh(mesh):
            step, state = start(mesh, make_optimizer("adamw"), model=model)
            jaxpr = jax.make_jaxpr(step)(state, batch, PixelCodec()).jaxpr
        allowed, found = set(), set()
        for equation, where in low_precision_sums(jaxpr):
            name = equation.primitive.name
            is_layer = where in ("layers.py", "embeddings.py", "reference.py")
            if name in ("dot_general", "conv_general_dilated") and is_layer:
                contraction = equation.params["dimension_numbers"]
                if name == "dot_general" and contraction[1] != ((), ()):
                    found.add(f"{name} with batch dimensions, {where}")
                allowed.add(name)
            elif where != "reference.py":  # the plain form's gradient of its filters
                found.add(f"{name}, {where}")
        assert not found
        assert allowed == {"dot_general", "conv_general_dilated"}


def low_precision_sums(jaxpr):
    """Sums of bfloat16 over more than one element, with the file they come from."""
    for equation in jaxpr.eqns:
        operand = equation.invars[0].aval if equation.invars else None
        name = equation.primitive.name
        if getattr(operand, "dtype", None) == jnp.bfloat16 and (
            name in ("dot_general", "conv_general_dilated")
            or (
                name.startswith(("reduce_sum", "cumsum", "reduce_window"))
                and operand.size > equation.outvars[0].aval.size
            )
        ):
            frame = equation.source_info.traceback.frames
            files = [Path(f.file_name) for f in frame]
            ours = [f.name for f in files if {"models", "kernels_pallas"} & {*f.parts}]
            yield equation, ours[0] if ours else "elsewhere"
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from low_precision_sums(inner)


@pytest.mark.slow
def test_remat_saves_memory():
    """The temporary memory of a compiled depth-8 step falls from policy to policy."""
    preset = dataclasses.replace(PRESET, depth=8)
    batch = {
        "image_hr": np.zeros((2, 64, 64, 3), np.uint8),
        "image_lr": np.zeros((2, 16, 16, 3), np.uint8),
    }
    mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
    temporary = []
    for remat in ("none", "dots", "blocks"):
        model = preset.make_model(remat=remat)
        *_, compiled = compile_step(batch, mesh, model=model)
        temporary.append(compiled.memory_analysis().temp_size_in_bytes)
    assert temporary[0] > 1.2 * temporary[1] > 1.2**2 * temporary[2]


def test_draws_depend_on_the_step_and_the_seed(batch):
    model, optimizer = PRESET.make_model(), optax.sgd(0.0)
    state = unboxed(make_init(model, optimizer))(jax.random.key(0))

    def losses(seed, steps):
        loss = Loss(model, PRESET, mass_at_one=0.0)
        train_step = jax.jit(make_train_step(loss, optimizer, seed=seed))
        return [
            float(
                train_step(state.replace(step=step), batch, PixelCodec())[
                    1
                ].loss.compute()
            )
            for step in steps
        ]

    same, again, other_step = losses(seed=0, steps=[0, 0, 1])
    (other_seed,) = losses(seed=1, steps=[0])
    assert same == again
    assert len({same, other_step, other_seed}) == 3


@pytest.mark.parametrize(
    ("preset", "count", "slices", "axes", "expected"),
    [
        ("nano", 16, 1, {}, 1),
        ("600m", 16, 1, {}, 16),
        ("1600m", 8, 1, {}, 8),
        ("600m", 256, 1, {"experts": 4}, 16),
        ("600m", 12, 1, {}, 4),
        ("600m", 16, 1, {"data": 4}, 4),
        ("600m", 16, 1, {"sequence": 2}, 8),
        ("600m", 1, 1, {}, 1),
        # Two slices share out four experts, or the copies of one; three cannot share
        # two experts.
        ("600m", 32, 2, {"experts": 4}, 8),
        ("600m", 32, 2, {}, 16),
        ("600m", 48, 3, {"experts": 2}, 8),
    ],
)
def test_fsdp_is_what_the_preset_needs_and_a_slice_has(
    monkeypatch, preset, count, slices, axes, expected
):
    monkeypatch.setattr(sharding, "count_slices", lambda devices: slices)
    devices = [types.SimpleNamespace(platform="tpu")] * count
    assert sharding.default_fsdp(preset, devices, **axes) == expected


def test_fsdp_stays_within_a_node_of_gpus():
    nodes = [
        types.SimpleNamespace(platform="gpu", process_index=n // 8) for n in range(32)
    ]
    assert sharding.default_fsdp("1600m_qk", nodes) == 8
    assert sharding.default_fsdp("1600m_qk", nodes, experts=4) == 8


@pytest.mark.parametrize(("data", "fsdp"), [(3, 1), (-1, -1), (0, 8), (-1, 3)])
def test_mesh_that_does_not_fit_is_an_error(data, fsdp):
    with pytest.raises(ValueError, match="does not fit 8 devices"):
        sharding.make_mesh(data, fsdp)


@dataclasses.dataclass(frozen=True)
class Chip:
    """What JAX looks at to place a mesh on a TPU slice.

    libtpu describes a slice that is not here so: without its number.
    """

    id: int
    coords: tuple[int, int, int]
    platform = "tpu"
    device_kind = "TPU v5p"
    core_on_chip = 0
    process_index = 0


@dataclasses.dataclass(frozen=True)
class ChipOfSlice(Chip):
    slice_index: int


def test_an_axis_may_be_a_part_of_a_torus():
    chips = [Chip(i, place) for i, place in enumerate(np.ndindex(4, 4, 4))]
    mesh = sharding.make_mesh(-1, 8, chips, experts=4)
    assert dict(mesh.shape) == {"experts": 4, "data": 2, "fsdp": 8, "sequence": 1}
    assert {chip.id for chip in mesh.devices.flat} == set(range(64))
    # Chips that share parameters are neighbours: two sides of the torus hold them.
    for chips_of_one in mesh.devices.reshape(-1, 8):
        sides = [{chip.coords[axis] for chip in chips_of_one} for axis in range(3)]
        assert sorted(map(len, sides)) == [1, 2, 4]


@pytest.mark.parametrize(
    ("experts", "data", "held"), [(4, 2, (1, 2)), (2, 4, (1, 2)), (1, 8, (1, 2))]
)
def test_slices_divide_experts_and_then_data(experts, data, held):
    """Of four slices; `held` is what of experts and data each slice has."""
    chips = [
        ChipOfSlice(16 * n + i, place, n)
        for n in range(4)
        for i, place in enumerate(np.ndindex(4, 2, 2))
    ]
    mesh = sharding.make_mesh(data, 8, chips, experts=experts)
    slices = np.vectorize(lambda chip: chip.slice_index)(mesh.devices)
    assert (slices == slices[..., :1, :]).all(), "fsdp leaves a slice"
    for n in range(4):
        places = np.argwhere(slices == n)
        assert tuple(len(set(places[:, axis])) for axis in (0, 1)) == held
    with pytest.raises(ValueError, match="4 TPU slices cannot divide experts=1"):
        sharding.make_mesh(2, 32, chips)


class Gpu(ChipOfSlice):
    platform = "gpu"
    device_kind = "NVIDIA H100"


def test_hosts_of_gpus_are_no_slices():
    """XLA numbers them, and those of CPUs, as if they were."""
    gpus = [Gpu(i, (0, 0, 0), i // 8) for i in range(16)]
    mesh = sharding.make_mesh(-1, 8, gpus)
    assert [gpu.id for gpu in mesh.devices.flat] == list(range(16))
