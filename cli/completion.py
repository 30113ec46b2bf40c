"""`npnet completion`."""

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command(short_help="Complete commands and options by TAB.")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, /, shell: str) -> None:
    """Print the script by which SHELL completes npnet's commands and options at TAB.

    \b
    bash   npnet completion bash >> ~/.bashrc
    zsh    npnet completion zsh >> ~/.zshrc          behind its compinit
    fish   npnet completion fish > ~/.config/fish/completions/npnet.fish

    Once; it counts from the next shell on. Nothing is run until TAB is pressed, so npnet may lie in
    a virtual environment that is activated later.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "npnet", "_NPNET_COMPLETE").source())
