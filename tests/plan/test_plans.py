"""Plans on simulated CPU devices, against what XLA and closed forms count."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas as pl

from configs import debug
from linearsr_jax.models.flops import forward_flops
from linearsr_jax.models.presets import get_preset
from linearsr_jax.plan.collectives import count_collectives
from linearsr_jax.plan.flop_count import flops_of
from linearsr_jax.plan.plan import format_bytes, format_flops
from linearsr_jax.plan.sampler_plan import format_sampler_plan, plan_sampler
from linearsr_jax.plan.step_plan import _advise, format_step_plan, plan_step
from linearsr_jax.plan.topologies import Chip, PlanError, Topology, parse_topology
from linearsr_jax.training.setup import make_parts
from linearsr_jax.training.sharding import make_mesh

SMALL = Chip("small", 2**20, 1e9, 1e9, 1e9, 1e9)


@pytest.mark.parametrize(
    ("name", "count", "chip"),
    [
        ("v5e:4x4", 16, "TPU v5e"),
        ("v5p:4x4x4", 64, "TPU v5p"),
        ("h200:8", 8, "NVIDIA H200 SXM"),
        (" V6E:2x2 ", 4, "TPU v6e"),
    ],
)
def test_topologies(name, count, chip):
    topology = parse_topology(name)
    assert (topology.count, topology.chip.name) == (count, chip)


def test_slices_of_tpus_only():
    assert parse_topology("v5e:16x16", 3).count == 768
    with pytest.raises(PlanError, match="only TPUs come in slices"):
        parse_topology("h200:8", 2)


@pytest.mark.parametrize(
    "name", ["v5e", "v3:4x4", "v5e:4x", "v5e:0x4", "8xh200", "h200:16", ""]
)
def test_unknown_topologies_are_named(name):
    with pytest.raises(PlanError, match="topology"):
        parse_topology(name)


def test_a_topology_that_no_compiler_knows():
    def describe():
        raise RuntimeError("no such slice")

    with pytest.raises(PlanError, match="x:1: cannot be compiled for: no such slice"):
        Topology("x:1", SMALL, 1, describe).devices()


def test_flops_of_a_forward_pass_are_the_published_count():
    preset = get_preset("600m")
    model = preset.make_model()
    params = jax.eval_shape(model.init_params, jax.random.key(0))
    latents = jax.ShapeDtypeStruct((1, 8, 8, preset.latent_channels), jnp.float32)
    image_lr = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    sigma = jax.ShapeDtypeStruct((1,), jnp.float32)

    def forward(params, latents, sigma, image_lr):
        return model.apply({"params": params}, latents, sigma, image_lr)

    found = flops_of(forward, params, latents, sigma, image_lr)
    expected = sum(forward_flops(model, (8, 8)).values())
    np.testing.assert_allclose(found, expected, rtol=0.02)


def test_flops_in_loops_branches_and_convolutions():
    a, b = jnp.zeros((4, 8)), jnp.zeros((8, 8))

    def loop(a):
        return jax.lax.scan(lambda x, _: (x @ b, None), a, length=5)[0]

    assert flops_of(loop, a) == 5 * 2 * 4 * 8 * 8
    assert flops_of(lambda a: jax.lax.cond(True, loop, lambda x: x, a), a) == 5 * 512
    image, kernel = jnp.zeros((1, 6, 6, 4)), jnp.zeros((3, 3, 2, 8))

    def convolve(image):
        return jax.lax.conv_general_dilated(
            *(image, kernel, (1, 1), "SAME"),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=2,
        )

    assert flops_of(convolve, image) == 2 * 36 * 8 * 3 * 3 * 2


def test_flops_of_all_devices():
    mesh = make_mesh(2, 2, experts=2)
    spec = jax.P(("experts", "data"))

    def multiply(a):
        return a @ jnp.zeros((8, 16))

    mapped = jax.shard_map(
        multiply, mesh=mesh, in_specs=spec, out_specs=spec, axis_names={*spec[0]}
    )
    with jax.set_mesh(mesh):
        assert flops_of(mapped, jnp.zeros((4, 8))) == 2 * 4 * 8 * 16


def test_experts_on_devices_of_their_own_do_the_same_work():
    found = []
    for experts in (1, 4):
        config = debug.get_config()
        config.data.folder = "photographs"
        config.expert_boundaries = (0.25, 0.5, 0.75)
        config.mesh.experts = experts
        chip = Chip("large", 2**30, 1e9, 1e9, 1e9, 1e9)
        plan = plan_step(make_parts(config), Topology("large:8", chip, 8, jax.devices))
        assert plan.fits
        found.append(plan)
    on_one_axis, on_their_own = found
    assert on_their_own.flops_per_step == on_one_axis.flops_per_step
    assert (
        on_their_own.bytes_per_chip["parameters"]
        == on_one_axis.bytes_per_chip["parameters"] / 4
    )


def test_collectives_count_as_often_as_their_loop_runs():
    mesh = make_mesh(8, 1)
    spread = jax.NamedSharding(mesh, jax.P("data"))

    def send(x):
        def turn(x, _):
            return jax.lax.ppermute(x, "data", [(i, (i + 1) % 8) for i in range(8)]), 0

        x = jax.lax.scan(turn, x, length=3)[0]
        return jax.lax.psum(x, "data")

    mapped = jax.shard_map(
        send, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P(), check_vma=False
    )
    x = jax.ShapeDtypeStruct((8, 100), jnp.float32, sharding=spread)
    found = count_collectives(jax.jit(mapped).lower(x).compile().as_text())
    assert found["collective-permute"] == {"count": 3, "bytes": 3 * 400}
    assert found["all-reduce"] == {"count": 1, "bytes": 2 * 7 * 400 // 8}


def test_results_of_asynchronous_collectives_count_once():
    program = """
HloModule jit_step, is_scheduled=true, num_partitions=4

ENTRY %main (p: f32[4]) -> f32[8] {
  %a = (f32[4]{0}, f32[8]{0}) all-reduce-start(%p, %q), to_apply=%add
  %b = (f32[4]{0}, f32[8]{0}) all-gather-start(%p), replica_groups={{0,1},{2,3}}
  %c = ((f32[8]{0}), (f32[2]{0})) reduce-scatter-start(%p), replica_groups=[1,4]<=[4]
  %d = (bf16[16]{0}, bf16[16]{0}, u32[], u32[]) collective-permute-start(%p)
  %e = f32[8]{0} all-gather-done(%b)
}
"""
    assert count_collectives(program) == {
        # Of four devices each keeps a quarter, sums it and hands it round.
        "all-reduce": {"count": 1, "bytes": 2 * 4 * (4 + 8) * 3 // 4},
        "all-gather": {"count": 1, "bytes": 4 * 4},
        "reduce-scatter": {"count": 1, "bytes": 4 * 2 * 3},
        "collective-permute": {"count": 1, "bytes": 2 * 16},
    }


def test_a_loop_counts_as_often_as_its_counter_rises():
    """A product whose factor goes round, as libtpu 0.0.52 writes it, shortened."""
    program = """
HloModule jit_step, is_scheduled=true, num_partitions=16

%cond (p: (u32[], bf16[64])) -> pred[] {
  %limit = u32[]{:T(128)} constant(8), metadata={op_name="dot_general"}
  %p = (u32[]{:T(128)}, bf16[64]{0}) parameter(0)
  %i = u32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%body (p.1: (u32[], bf16[64])) -> (u32[], bf16[64]) {
  %two = u32[]{:T(128)} constant(2)
  %p.1 = (u32[]{:T(128)}, bf16[64]{0}) parameter(0)
  %i.1 = u32[]{:T(128)} get-tuple-element(%p.1), index=0
  %x = bf16[64]{0} get-tuple-element(%p.1), index=1
  %next = u32[]{:T(128)} add(%i.1, %two), metadata={op_name="dot_general"}
  %s = (bf16[64]{0}, bf16[64]{0}, u32[], u32[]) collective-permute-start(%x)
  %d = bf16[64]{0} collective-permute-done(%s)
  ROOT %t = (u32[]{:T(128)}, bf16[64]{0}) tuple(%next, %d)
}

ENTRY %main (q: bf16[64]) -> bf16[64] {
  %w = (u32[], bf16[64]{0}) while(%q), condition=%cond, body=%body, metadata={a="b"}
}
"""
    expected = {"collective-permute": {"count": 4, "bytes": 4 * 2 * 64}}
    assert count_collectives(program) == expected
    expected["collective-permute"] = {"count": 8, "bytes": 8 * 2 * 64}
    assert count_collectives(program.replace("constant(2)", "constant(1)")) == expected


def test_a_collective_that_is_carried_on_counts_once():
    """As libtpu 0.0.52 writes it, shortened: beside a loop of four products."""
    program = """
HloModule jit_step, is_scheduled=true, num_partitions=16

%begin (p: bf16[1,8]) -> (bf16[1,8], bf16[16,8]) {
  %g = bf16[16,8]{1,0} all-gather(%p), channel_id=7, dimensions={0}
}

%async_collective_fusion.1 (p.1: bf16[1,8]) -> bf16[16,8] {
  %g.1 = bf16[16,8]{1,0} all-gather(%p.1), channel_id=7, dimensions={0}
}

%body (s: (u32[], bf16[1,8])) -> (u32[], bf16[1,8]) {
  %f.1 = bf16[16,8]{1,0} fusion(%s), kind=kCustom, calls=%async_collective_fusion.1
}

%finish (p.2: bf16[1,8]) -> bf16[16,8] {
  %g.2 = bf16[16,8]{1,0} all-gather(%p.2), channel_id=7, dimensions={0}
}

ENTRY %main (q: bf16[1,8]) -> bf16[16,8] {
  %async-collective-start = (bf16[1,8]{1,0}) fusion(%q), kind=kCustom, calls=%begin
  %w = (u32[]) while(%q), condition=%c, body=%body, \
backend_config={"known_trip_count":{"n":"4"}}
  %async-collective-done = bf16[16,8]{1,0} fusion(%w), kind=kCustom, calls=%finish
}
"""
    once = {"all-gather": {"count": 1, "bytes": 2 * 15 * 8}}
    assert count_collectives(program) == once


def test_a_refused_program_sends_nothing():
    assert count_collectives("") == {}


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,1},{2,3},{4,5},{6,7}}", 2),
        ("[2,4]<=[8]", 4),
        ("mesh['x'=2,'y'=4] {'y'}", 4),
        ("mesh['x'=2,'y'=4] {'x','y'}", 8),
        ("mesh['x'=2,'y'=1,'z'=4], device_ids=([4,2]T(1,0)) {'x'}", 2),
        ("mesh['x'=2,'y'=4] {'y':(1)2}", 2),
        ("{}", 8),
    ],
)
def test_groups_in_every_form(groups, size):
    program = """HloModule step, num_partitions=8

ENTRY %main (p: f32[80]) -> f32[10] {
  %a = f32[10]{0} reduce-scatter(%p), replica_groups=GROUPS, to_apply=%add
}
"""
    found = count_collectives(program.replace("GROUPS", groups))
    assert found == {"reduce-scatter": {"count": 1, "bytes": 40 * (size - 1)}}
    with pytest.raises(ValueError, match="unknown form"):
        count_collectives(program.replace("GROUPS", "by_hand"))


def test_messages_between_slices_count_apart():
    """They are a sum over two slices as libtpu 0.0.52 writes it, shortened."""
    program = """
ENTRY %main (p: f32[4]) -> f32[8] {
  %a = f32[1024]{0} all-reduce(%p), replica_groups=[2,2]<=[4], to_apply=%add
  %send = (f32[64,8]{1,0}, u32[]{:S(2)}, token[]) send(%p, %t), is_host_transfer=true, \
frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv = (f32[64,8]{1,0}, u32[]{:S(2)}, token[]) recv(%t), is_host_transfer=true, \
frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %done = (f32[64,8]{1,0}, token[]) recv-done(%recv), is_host_transfer=true
}
"""
    assert count_collectives(program) == {
        "all-reduce": {"count": 1, "bytes": 4 * 1024},
        "between-slices": {"count": 1, "bytes": 4 * 64 * 8},
    }


def test_a_reduce_scatter_of_tpus_is_counted_as_one():
    """libtpu writes it as a sum of which each device takes its part."""
    found = count_collectives("""
HloModule jit_f, num_partitions=16

%all-reduce-scatter.1 (input: bf16[64,8]) -> bf16[16,8] {
  %input = bf16[64,8]{1,0} parameter(0)
  %all-reduce.5 = bf16[64,8]{1,0} all-reduce(%input), replica_groups=[4,4]<=[16]
  ROOT %part = bf16[16,8]{1,0} dynamic-slice(%all-reduce.5, %a, %b)
}

ENTRY %main (p: bf16[64,8]) -> bf16[16,8] {
  %p = bf16[64,8]{1,0} parameter(0)
  ROOT %fusion = bf16[16,8]{1,0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1
}
""")
    assert found == {"reduce-scatter": {"count": 1, "bytes": 2 * 64 * 8 * 3 // 4}}


def test_a_kernel_of_pallas_counts_in_every_cell_of_its_grid():
    def kernel(x, out):
        out[...] = x[...] @ x[...]

    def multiply(x):
        spec = pl.BlockSpec((16, 16), lambda i: (i, 0))
        return pl.pallas_call(
            kernel,
            grid=(8,),
            in_specs=[spec],
            out_specs=spec,
            out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        )(x)

    assert flops_of(multiply, jnp.ones((128, 16))) == 8 * 2 * 16**3


@pytest.mark.parametrize("kind", ["none", "tags"])
def test_an_image_is_planned_for_one_chip(kind):
    config = debug.get_config()
    config.data.folder = "photographs"
    config.expert_boundaries = (0.5,)
    config.condition.kind = kind
    parts = make_parts(config)
    chip = Chip("large", 2**30, 1e9, 1e9, 1e9, 1e9)
    devices = jax.devices()
    eight = Topology("large:8", chip, 8, lambda: devices)
    plan = plan_sampler(parts, eight, devices, (64, 32), 3)
    assert plan.fits
    sizes = plan.bytes_per_chip
    weights = jax.eval_shape(parts.model.init_params, jax.random.key(0))
    one = sum(4 * x.size for x in jax.tree.leaves(weights))
    assert sizes["parameters"] == 2 * one
    latents, pixels = 4 * 8 * 16 * 48, 8 * 16 * 3
    tokens = config.condition.max_tokens * (4 + 1) if kind == "tags" else 0
    # And the scale of guidance.
    assert sizes["inputs"] == latents + pixels + tokens + 4
    assert (
        sum(sizes[x] for x in ("parameters", "codec", "inputs", "temporaries"))
        == (sizes["total"])
    )
    flops = dict(forward_flops(parts.model, (8, 16), tokens and 16))
    # An expert takes the condition once.
    once = flops.pop("condition")
    expected = 2 * once + 3 * sum(flops.values())
    np.testing.assert_allclose(plan.flops_per_image, expected, rtol=0.03)
    bound = max(plan.flops_per_image, 3 * one) / 1e9
    assert plan.seconds_bound == pytest.approx(bound, rel=0.01)
    assert plan.images_per_second_bound == 8 / plan.seconds_bound
    assert "fits: yes" in format_sampler_plan(plan)
    small = Topology("small:8", SMALL, 8, lambda: devices)
    plan = plan_sampler(parts, small, devices, (64, 32), 3)
    assert not plan.fits
    assert plan.advice.startswith("--max-memory")
    with pytest.raises(PlanError, match="multiples of 4"):
        plan_sampler(parts, eight, devices, (62, 32), 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["h100:8", "h200:2"])
def test_a_step_and_an_image_are_planned_for_gpus(name):
    pytest.importorskip("jax_cuda13_plugin", reason="compiles with jax's CUDA packages")
    topology = parse_topology(name)
    devices = topology.devices()
    assert len(devices) == topology.count
    config = debug.get_config()
    config.data.folder = "photographs"
    config.mesh.fsdp = 2
    parts = make_parts(config, devices)
    plan = plan_step(parts, topology)
    assert plan.fits
    # Gradients are summed over the devices, and the parameters gathered.
    assert {"all-reduce", "all-gather"} <= plan.collectives.keys()
    assert plan_sampler(parts, topology, devices, (64, 64), 2).fits


@pytest.mark.parametrize(
    ("limit", "advice"),
    [
        (160, "accumulation=2"),  # refused all the same
        (130, "accumulation=2"),
        (95, "accumulation=8"),
        (70, "accumulation=2 mesh.fsdp=8"),
        (29, "accumulation=8 mesh.fsdp=8 remat=blocks"),
        (12, "128 chips of this kind or more, with a larger mesh.fsdp, remat=blocks"),
    ],
)
def test_the_smallest_change_is_advised(limit, advice):
    config = debug.get_config()
    config.data.folder = "photographs"
    config.mesh.fsdp = 2
    config.batch_size = 64
    sizes = {"parameters": 40, "moments": 40, "activations": 40, "temporaries": 40}
    # 80 is divided by fsdp, and 80 by the accumulation.
    assert _advise(make_parts(config), sizes, 160, limit) == advice


def test_a_plan_names_what_would_make_it_fit():
    config = debug.get_config()
    config.data.folder = "photographs"
    config.mesh.fsdp = 2
    config.batch_size = 64
    parts = make_parts(config)
    plans = [
        plan_step(parts, Topology("small:8", chip, 8, jax.devices))
        for chip in (SMALL, Chip("large", 2**30, 1e9, 1e9, 1e9, 1e9))
    ]
    small, large = plans
    assert large.fits
    assert large.advice == ""
    assert not small.fits
    assert small.advice
    sizes = large.bytes_per_chip
    kinds = {
        kind: size for kind, size in sizes.items() if kind not in ("total", "limit")
    }
    assert sum(kinds.values()) == sizes["total"]
    assert sizes["moments"] == pytest.approx(2 * sizes["parameters"], rel=0.01)
    assert sizes["batch"] == 8 * 3 * (32 * 32 + 8 * 8)
    values = json.loads(json.dumps(large.to_json()))
    assert {"topology", "chips", "bytes_per_chip", "fits", "flops_per_step"} < set(
        values
    )
    assert 0 < values["mfu_bound"] <= 1
    assert values["seconds_bound"] > 0
    assert "all-reduce" in large.collectives
    assert "fits: no; " in format_step_plan(small)


def test_small_numbers_are_not_printed_as_zeros():
    assert format_bytes(3 * 2**20).split() == ["3.000", "MiB"]
    assert format_bytes(5 * 2**30).split() == ["5.000", "GiB"]
    assert format_flops(2.5e9) == "2.5 GFLOP"
    assert format_flops(1.1156e15) == "1,115.6 TFLOP"
