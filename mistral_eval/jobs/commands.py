"""Shell text that both kinds of job need: the command of a run, and Ray across nodes."""

import re
import shlex
from collections.abc import Sequence
from typing import Final

from mistral_eval.errors import UsageError

PROGRAM: Final = ("mistral-eval", "run")
NODES_SECONDS: Final = 300  # how long the command waits for Ray's other nodes
NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,99}")


def written(options: Sequence[str], *shell: str, indent: str = "") -> str:
    """Return the command of a run, one option on a line.

    Args:
        options: The run's options as a shell would pass them; they are quoted here.
        shell: Further options that are shell text already, e.g. with a variable.
        indent: What each line begins with.
    """
    lines = [shlex.join(PROGRAM), *map(shlex.quote, options), *shell]
    return indent + f" \\\n{indent}    ".join(lines)


def start_ray(role: str, head: str, port: str, resources: Sequence[str], indent: str = "") -> str:
    """Return shell text that starts Ray on one node and ends with it.

    A worker waits for the head first. Since Ray 2.60 a cluster that other machines can reach asks
    for a token, by default for one that no client sends: the caller exports RAY_AUTH_MODE=token and
    RAY_AUTH_TOKEN.

    Args:
        role: "head" or "worker".
        head: The head node's address, as shell text.
        port: Its port, as shell text.
        resources: Further options of `ray start`, as shell text.
        indent: What each line after the first begins with.
    """
    where = (
        (f'--head --node-ip-address="{head}"', f'--port="{port}"', "--include-dashboard=false")
        if role == "head"
        else (f'--address="{head}:{port}"',)
    )
    options = (*where, *resources, "--disable-usage-stats", "--block")
    wait = f'until ray health-check --address="{head}:{port}" 2>/dev/null; do sleep 2; done'
    lines = [*([wait] if role == "worker" else []), f"ray start {' '.join(options)}"]
    return f"\n{indent}".join(lines)


def wait_for_nodes(count: str, address: str) -> str:
    """Return shell text that waits until Ray has so many nodes, or goes on with fewer.

    Args:
        count: The number of nodes, as shell text.
        address: Ray's address, as shell text.
    """
    return f"""\
nodes_alive() {{
    python3 - "{address}" <<'END_OF_PYTHON' 2>/dev/null || echo 0
import sys, ray
ray.init(sys.argv[1], log_to_driver=False)
print(sum(node["Alive"] for node in ray.nodes()))
END_OF_PYTHON
}}
until [ "$(nodes_alive)" -ge "{count}" ]; do
    if [ "$SECONDS" -gt {NODES_SECONDS} ]; then
        echo "Only $(nodes_alive) of {count} nodes came up in time; the run begins with these." >&2
        break
    fi
    sleep 2
done"""


def check_name(option: str, value: str) -> None:
    """Check a name that schedulers put into file names.

    Raises:
        UsageError: it has other characters than letters, digits, dots, dashes and underscores.
    """
    if not NAME.fullmatch(value):
        raise UsageError(
            f"{option} should be made of letters, digits, dots, dashes and underscores, and is "
            f"{value!r}. Give another name."
        )


def check_count(option: str, value: int | None, *, least: int = 1) -> None:
    """Check a number of something.

    Raises:
        UsageError: it is smaller than `least`.
    """
    if value is not None and value < least:
        raise UsageError(f"{option} should be {least} or more, and is {value}. Give a larger one.")
