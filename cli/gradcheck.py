"""`npnet gradcheck`."""

import click

from npnet.cli import options


@click.command(short_help="Check gradients by finite differences.")
@options.backend
@click.option(
    "--verbose", "-v", is_flag=True, help="Print every check, not just each operation's worst."
)
def gradcheck(backend: str, verbose: bool) -> None:
    """Check every backward pass against finite differences, in float64."""
    from npnet.errors import NpnetError
    from npnet.measure.gradcheck import BOUND, Check, check_network, check_operations

    worst: dict[str, Check] = {}
    failed = count = 0
    click.echo(f"{'gradient':34} {'case':14} {'numeric':>16} {'analytic':>16} {'error':>9}")

    def show(check: Check) -> None:
        verdict = "" if check.passed else "  FAILED"
        click.echo(
            f"{check.name:34} {check.case:14} {check.numeric:16.9g} {check.analytic:16.9g} "
            f"{check.error:9.1e}{verdict}"
        )

    checks = [
        *check_operations(backend),
        *check_network(backend),
        *check_network(backend, frozen=True),
    ]
    for check in checks:
        count += 1
        failed += not check.passed
        if check.name not in worst or not check.error <= worst[check.name].error:
            worst[check.name] = check
        if verbose:
            show(check)
    if not verbose:
        for check in worst.values():
            show(check)
    click.echo(f"{count} checks, {failed} failed, bound {BOUND:.0e}")
    if failed:
        raise NpnetError(f"{failed} of {count} gradients of backend {backend} are wrong")
