"""`linearsr train`: trains a model by one config, or by several stages."""

import argparse
import contextlib

from linearsr_jax.cli.arguments import STOPPED, UsageError, add_workdir, index, positive

HELP = "train a model, or resume the run in its workdir"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument(
        "--config",
        nargs="+",
        required=True,
        metavar="FILE[:ARG]",
        help="config file, see configs/; several are stages, each starting from the "
        "knee of the one before",
    )
    add_workdir(parser, "data.folder=photos")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print where every array of the training state would lie, and its bytes",
    )
    hosts = parser.add_argument_group(
        "several hosts",
        "run the same command on each; needed only where JAX finds no cluster (Cloud "
        "TPU, SLURM, Open MPI, Kubernetes)",
    )
    hosts.add_argument(
        "--coordinator", metavar="HOST:PORT", help="address of process 0"
    )
    hosts.add_argument("--process", type=index, metavar="I", help="which one this is")
    hosts.add_argument(
        "--processes",
        type=positive,
        metavar="N",
        help="number of processes; 1 looks for no cluster",
    )


def run(args: argparse.Namespace) -> int:
    """Trains one config, or several as stages."""
    from linearsr_jax.config.loading import ConfigError, load_config, load_stages

    try:
        if len(args.config) > 1:
            stages = load_stages(args.config, args.override)
        else:
            config = load_config(args.config[0], args.override)
    except ConfigError as error:
        raise UsageError(str(error)) from error
    from linearsr_jax.core.allocator import keep_freed_memory_on_cpu
    from linearsr_jax.inference.compilation_cache import enable_compilation_cache
    from linearsr_jax.training.hosts import HostArgumentError, connected
    from linearsr_jax.training.record import BadFieldError

    # A step compiles for minutes where the cores are busy; a resumed run need not.
    enable_compilation_cache()
    keep_freed_memory_on_cpu()
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(
                connected(args.coordinator, args.process, args.processes)
            )
            if args.dry_run:
                for each in stages.values() if len(args.config) > 1 else [config]:
                    _print_places(each)
                return 0
            if len(args.config) > 1:
                from linearsr_jax.training.stages import run_stages

                is_finished = run_stages(stages, args.workdir)
            else:
                from linearsr_jax.training.loop import train_and_evaluate

                is_finished = train_and_evaluate(config, args.workdir).is_finished
        except (HostArgumentError, BadFieldError) as error:
            raise UsageError(str(error)) from error
    return 0 if is_finished else STOPPED


def _print_places(config) -> None:
    import jax

    from linearsr_jax.training.initial_state import StartState
    from linearsr_jax.training.setup import make_parts
    from linearsr_jax.training.state_bytes import find_places, format_places

    parts = make_parts(config)
    with jax.set_mesh(parts.mesh):
        print(format_places(find_places(StartState(parts))))
