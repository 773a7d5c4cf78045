"""Describes TPUs and GPUs that are not here, so that programs can be compiled for them.

The devices can be compiled for and run nothing. Have JAX_PLATFORMS=cpu in the
environment of the process.
"""

import os
from typing import Any

# What libtpu wants to know on a machine that is no TPU host.
_LIBTPU_WITHOUT_TPU = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
# What XLA wants to know of a GPU, with CUDA 13: the limits of compute capability 9.0 in
# NVIDIA's CUDA programming guide.
_HOPPER = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: {memory}
  cuda_compute_capability {{ major: 9 }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
runtime_version {{ major: 13 minor: 0 patch: 0 }}
dnn_version_info {{ major: 9 minor: 12 }}
device_description_str: "{name}"
"""
# What CUDA says of each: a little more memory than the names do.
GPUS = {
    "h100": _HOPPER.format(
        name="NVIDIA H100 80GB HBM3", memory=84_929_347_584, bandwidth=3_352_320_000_000
    ),
    "h200": _HOPPER.format(
        name="NVIDIA H200", memory=150_109_880_320, bandwidth=4_800_000_000_000
    ),
}


def tpu_devices(topology: str, slices: int = 1) -> list[Any]:
    """Describes the chips of TPU slices; needs libtpu.

    Use it in a process that has not loaded libtpu for another purpose.

    Args:
      topology: shape of a slice, such as "v5e:2x2".
      slices: number of slices.
    """
    from jax.experimental import topologies

    for name, value in _LIBTPU_WITHOUT_TPU.items():
        os.environ.setdefault(name, value)
    # A v4 chip has two cores, which programs use as one device.
    one_a_chip = {"chip_config_name": "megacore"} if topology.startswith("v4:") else {}
    return topologies.get_topology_desc(
        platform="tpu", topology_name=topology, num_slices=slices, **one_a_chip
    ).devices


def gpu_devices(name: str, count: int = 1) -> list[Any]:
    """Describes the GPUs of one node.

    Needs jax 0.11 with jax-cuda13-plugin and jax-cuda13-pjrt.

    Args:
      name: a key of GPUS.
      count: number of GPUs.
    """
    from jax.experimental import topologies

    # Devices of one process, which NVLink connects.
    description: Any = topologies.get_topology_desc(
        name, "cuda", target_config=GPUS[name], topology=f"1x1x{count}"
    )
    return description.devices
