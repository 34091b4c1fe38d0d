"""A `ContainerSpec` in the words of ``docker create``, for a container beside a project's: pure but for its
file of variables.

Such a container is there to be looked into, and gone within the minute. No GPU is asked for: a second one
would count, and nothing in it needs one. Its memory is bounded, since DS01 takes a container without a limit
for one that will use all that its user may.
https://docs.docker.com/reference/cli/docker/container/create/
"""

from __future__ import annotations

import csv
import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from ds01_kernels.engine import ContainerSpec, Mount

#: Bytes; a kernel that does nothing takes a hundredth of it.
MOST_MEMORY = 4 << 30


def of(spec: ContainerSpec, variables: str) -> list[str]:
    """`variables` is the path of a file that holds the spec's."""
    first, *rest = spec.entrypoint
    memory = str(min(spec.memory or MOST_MEMORY, MOST_MEMORY))
    words = [
        *("--name", spec.name, "--init", "--security-opt", "no-new-privileges", "--stop-signal", "SIGTERM"),
        *("--memory", memory, "--memory-swap", memory, "--env-file", variables),
    ]
    options = {
        "--user": spec.user,
        "--workdir": spec.working_dir,
        "--hostname": spec.hostname,
        "--network": spec.network,
        "--shm-size": spec.shm_size,
        "--cpus": spec.cpus,
        "--pids-limit": spec.pids_limit,
    }
    for option, value in options.items():
        if value:
            words += [option, str(value)]
    for name, value in spec.labels.items():
        words += ["--label", f"{name}={value}"]
    for mount in spec.mounts:
        words += ["--mount", _mount(mount)]
    return [*words, "--entrypoint", first, spec.image, *rest]


def _mount(mount: Mount) -> str:
    # The value is a line of CSV: a folder's name may hold a comma or a quote.
    line = io.StringIO()
    fields = ["type=bind", f"source={mount.source}", f"target={mount.target}"]
    csv.writer(line, lineterminator="").writerow([*fields, *(["readonly"] if mount.read_only else [])])
    return line.getvalue()


@contextmanager
def variables_file(spec: ContainerSpec) -> Iterator[str]:
    """The spec's variables where no other user can read them, as a command line's words can be.

    Values of several lines cannot be told that way, and are left out.
    """
    lines = (f"{name}={value}\n" for name, value in spec.env.items() if "\n" not in value)
    descriptor, path = tempfile.mkstemp(prefix="ds01-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.writelines(lines)
        yield path
    finally:
        os.unlink(path)  # noqa: PTH108
