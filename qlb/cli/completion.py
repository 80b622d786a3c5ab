"""``qlb completion``: the script with which a shell completes qlb's command line.

The script of each shell runs qlb with the variable _QLB_COMPLETE; click then prints the candidates.
"""

from typing import Final

import click

_SHELLS: Final = ("bash", "zsh", "fish")
_PROGRAM: Final = "qlb"
_VARIABLE: Final = "_QLB_COMPLETE"

_BASH: Final = r"""_qlb_completion() {
    local IFS=$'\n' i last kind value
    local -a words=()
    # bash divides words at colons, which the names of discovered backends contain.
    for ((i = 0; i <= COMP_CWORD; i++)); do
        if ((i)) && [[ ${COMP_WORDS[i]} == :* || ${words[-1]} == *: ]]; then
            words[-1]+=${COMP_WORDS[i]}
        else
            words+=("${COMP_WORDS[i]}")
        fi
    done
    last=${words[-1]}
    COMPREPLY=()
    while IFS=, read -r kind value; do
        case $kind in
            plain) COMPREPLY+=("${value#"${last%"${last##*:}"}"}") ;;
            file) compopt -o default ;;
            dir) compopt -o dirnames ;;
        esac
    done < <(COMP_WORDS="${words[*]}" COMP_CWORD=$((${#words[@]} - 1)) _QLB_COMPLETE=bash_complete "$1" 2>/dev/null)
}
complete -o nosort -F _qlb_completion qlb
"""
"""click's own script for bash completes nothing after a colon."""


@click.command("completion", short_help="Print a script for shell completion.")
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print the script with which SHELL completes commands, options, files and the names of backends.

    bash (4.4 or later): add `eval "$(qlb completion bash)"` to ~/.bashrc. zsh: add `eval "$(qlb completion zsh)"` to
    ~/.zshrc, after `compinit`. fish: `qlb completion fish > ~/.config/fish/completions/qlb.fish`

    The names of backends come from the running daemon. If none answers at once, the shell completes nothing.
    """
    if shell == "bash":
        click.echo(_BASH, nl=False)
        return
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None, f"click knows {shell}"
    program = click.get_current_context().find_root().command
    click.echo(found(program, {}, _PROGRAM, _VARIABLE).source(), nl=False)
