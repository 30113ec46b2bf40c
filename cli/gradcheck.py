"""`npnet gradcheck`."""

from itertools import chain

import click

from npnet.cli import options

MODES = (False, True)  # with the batch's statistics, with running ones


@click.command(short_help="Check gradients by finite differences.")
@click.option(
    "--model",
    "model_name",
    type=options.ModelName(),
    help="Networks of this model's blocks alone.  [default: of every model's]",
)
@options.backend
@click.option(
    "--verbose", "-v", is_flag=True, help="Print every check, not just each operation's worst."
)
def gradcheck(model_name: str | None, backend: str, verbose: bool) -> None:
    """Check every backward pass against finite differences, in float64.

    Each operation alone, then small networks of each model's blocks, with batch norm, with running
    statistics, and with biases.
    """
    from npnet.errors import NpnetError
    from npnet.measure.gradcheck import BOUND, Check, check_network, check_operations, miniatures

    worst: dict[tuple[str, str], Check] = {}
    failed = count = 0
    click.echo(f"{'gradient':34} {'case':38} {'numeric':>16} {'analytic':>16} {'error':>9}")

    def show(check: Check) -> None:
        verdict = "" if check.passed else "  FAILED"
        click.echo(
            f"{check.name:34} {check.case:38} {check.numeric:16.9g} {check.analytic:16.9g} "
            f"{check.error:9.1e}{verdict}"
        )

    networks = [each for each in miniatures() if model_name in (None, each.name)]
    checks = chain(
        check_operations(backend),
        *(check_network(each, backend, frozen=frozen) for each in networks for frozen in MODES),
    )
    operations = True
    for check in checks:
        count += 1
        failed += not check.passed
        operations = operations and ", " not in check.case
        key = (check.name, "" if operations else check.case)
        if key not in worst or not check.error <= worst[key].error:
            worst[key] = check
        if verbose:
            show(check)
    if not verbose:
        for check in worst.values():
            show(check)
    click.echo(f"{count} checks, {failed} failed, bound {BOUND:.0e}")
    if failed:
        raise NpnetError(f"{failed} of {count} gradients of backend {backend} are wrong")
