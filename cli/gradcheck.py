"""`npnet gradcheck`."""

import sys

import click

from npnet.cli import options


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
    from npnet.cli.bar import Progress
    from npnet.cli.console import terminal
    from npnet.errors import NpnetError
    from npnet.measure.gradcheck import BOUND, Check, families

    worst: dict[tuple[str, str], Check] = {}
    failed = count = 0
    progress = Progress(None if verbose and sys.stdout.isatty() else terminal())
    todo = families(backend, model_name)
    progress.say(f"Checking the gradients of {len(todo)} operations and networks")
    header = f"{'gradient':34} {'case':38} {'numeric':>16} {'analytic':>16} {'error':>9}"
    if verbose:
        click.echo(header)

    def show(check: Check) -> None:
        verdict = "" if check.passed else "  FAILED"
        click.echo(
            f"{check.name:34} {check.case:38} {check.numeric:16.9g} {check.analytic:16.9g} "
            f"{check.error:9.1e}{verdict}"
        )

    for number, family in enumerate(todo):
        progress.show("Checking gradients", number, len(todo), family.name)
        for check in family.checks:
            count += 1
            failed += not check.passed
            key = (check.name, check.case if family.is_network else "")
            if key not in worst or not check.error <= worst[key].error:
                worst[key] = check
            if verbose:
                show(check)
            progress.show("Checking gradients", number, len(todo), family.name)
    progress.show("Checking gradients", len(todo), len(todo), "done")
    progress.finish()
    if not verbose:
        click.echo(header)
        for check in worst.values():
            show(check)
    click.echo(f"{count} checks, {failed} failed, bound {BOUND:.0e}")
    if failed:
        raise NpnetError(f"{failed} of {count} gradients of backend {backend} are wrong")
