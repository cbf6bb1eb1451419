"""`evenly completion`: what a shell reads to complete commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from evenly.cli.app import PROGRAM, evenly

VARIABLE = f"_{PROGRAM.upper()}_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Prints what completes commands and options in that shell.

    \b
    bash:  evenly completion bash > ~/.local/share/bash-completion/completions/evenly
    zsh:   evenly completion zsh > a file _evenly in a directory of $fpath
    fish:  evenly completion fish > ~/.config/fish/completions/evenly.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    # Not by `source`, which runs the shell to see its version.
    made = kind(evenly, {}, PROGRAM, VARIABLE)
    click.echo(made.source_template % made.source_vars())
