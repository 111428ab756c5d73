"""``python -m airflow_ml_provider.steps VERB --spec URI``: what a compute runs.

Exit codes are those of the error kinds (see :mod:`airflow_ml_provider.contract.errors`); 0 is success or
skipped. The result in the store says more, and is believed first.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from airflow_ml_provider.contract.arguments import SHARDED, VERBS
from airflow_ml_provider.contract.documents import StepResult, StepSpec
from airflow_ml_provider.contract.errors import ERRORS_BY_KIND, ConfigError, MLError
from airflow_ml_provider.steps import garbage


def main(argv: Sequence[str] | None = None) -> int:
    """Run one step by its spec."""
    parser = argparse.ArgumentParser(prog="python -m airflow_ml_provider.steps", description=__doc__)
    parser.add_argument("verb", choices=VERBS)
    parser.add_argument("--spec", required=True, help="file or URI of the spec")
    parser.add_argument("--end-with-parent", action="store_true", help="end when standard input closes")
    parser.add_argument("--verify", action="store_true", help="compute a part of it again, and compare")
    fleet = parser.add_argument_group("parts of a fleet, of a search, or of a step in shards")
    fleet.add_argument("--plan", action="store_true", help="write the plan and end")
    fleet.add_argument("--index", type=int, metavar="N", help="run the N-th pending index, from 0, and end")
    fleet.add_argument("--worker", help=argparse.SUPPRESS)
    fleet.add_argument("--fleet-plan", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    part = None
    if options.verb == "fleet":
        from airflow_ml_provider.steps import fleet_modes

        part = fleet_modes.wanted(options)
    elif options.verb == "search":
        from airflow_ml_provider.steps import search_modes

        part = search_modes.wanted(options)
    elif options.verb in SHARDED:
        from airflow_ml_provider.steps import sharding

        part = sharding.wanted(options)
    return run(
        options.spec, verb=options.verb, end_with_parent=options.end_with_parent, part=part,
        verify=options.verify,
    )  # fmt: skip


def run(
    spec_uri: str,
    *,
    verb: str | None = None,
    end_with_parent: bool = False,
    again: bool = False,
    part: Callable[[StepSpec], int] | None = None,
    verify: bool = False,
) -> int:
    """Run the step of a spec; gives the exit code.

    :param verb: refuse a spec of another verb.
    :param end_with_parent: end when standard input closes.
    :param again: run even if an earlier try has left a result.
    :param part: runs only a part of the step, without a result.
    :param verify: compute a part of the step and compare it with the result that lies beside the spec.
    """
    # Before any library starts OpenMP: threads that wait sleep instead of spinning. On a machine that is busy
    # with other steps, or a pod with a CPU limit, spinning made LightGBM's training four times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from airflow_ml_provider.steps import place, runner
    from airflow_ml_provider.steps.context import log

    runner.set_up_logging()
    place.note_memory()
    if end_with_parent:
        runner.end_with_parent()
    try:
        spec = runner.load_spec(spec_uri)
        if verb and spec.verb != verb:
            raise ConfigError(f"{spec_uri} is the spec of a {spec.verb} step, not of {verb}")
        if part is not None:
            garbage.from_now_on()
            return part(spec)
        result = None if again or verify else runner.existing_result(spec)
        if result is not None:
            log.info("already done by an earlier try; its result stands")
        else:
            result = runner.run_step(spec, verify=verify)
    except MLError as error:
        print(f"{error.kind} error: {error}", file=sys.stdout, flush=True)
        return error.exit_code
    return report(result)


def report(result: StepResult) -> int:
    """Print a result for people; the user's own traceback comes first, what to do about it last."""
    if result.failure is not None:
        if result.failure.traceback:
            print(result.failure.traceback.rstrip(), flush=True)
        print(f"{result.failure.kind} error: {result.failure.message}", flush=True)
        return ERRORS_BY_KIND[result.failure.kind].exit_code
    if result.status == "skipped":
        print(f"skipped: {result.reason}", flush=True)
        return 0
    for name, value in result.summary.items():
        print(f"{name}: {value}", flush=True)
    for name, target in result.links.items():
        print(f"{name}: {target}", flush=True)
    print(f"done in {result.seconds:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    garbage.while_importing()
    try:
        sys.exit(main())
    finally:
        garbage.at_the_end()
