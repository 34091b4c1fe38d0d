"""Every option of the admin's, as traits: what ``docs/configuration.md`` is made from."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from traitlets import Bool, Dict, Float, Integer, List, Unicode
from traitlets.config import Config, SingletonConfigurable

from .configuration import Source
from .ds01_host import Commands, find_commands
from .engine.swarm_options import GPU_KIND, SwarmOptions
from .errors import SettingError
from .names import CONTAINER, IMAGE, Names, parse_container_name, parse_image_name
from .setting_values import (
    MOST_CPUS,
    MOST_PIDS,
    MOST_SECONDS,
    parse_addresses,
    parse_constraints,
    parse_cpus,
    parse_engine,
    parse_engines,
    parse_folder,
    parse_gpus,
    parse_memory,
    parse_mounts,
    parse_network,
    parse_pids,
    parse_python,
    parse_registry,
    parse_resource,
    parse_secrets,
    parse_size,
    parse_variables,
    shown,
)
from .settings import KEYS, PROJECT_KEYS, Ceiling, Settings


class Options(SingletonConfigurable):
    """The options of a `Workbench`, and what they say together.

    What could not be used is in `problems`, by the option's name: such an option has its default, and
    whatever rests on it must be refused.
    """

    workspaces = List(
        Unicode(),
        ["~/workspace"],
        help="The folders whose sub-folders with a Dockerfile are projects. The variable DS01_WORKSPACE "
        "(several separated by ':') overrides this.",
    ).tag(config=True)
    image_name = Unicode(
        IMAGE,
        help="What a project's image is called; {project} is the project's name in lower case, {uid} the "
        "user's number. It must have both.",
    ).tag(config=True)
    container_name = Unicode(
        CONTAINER,
        help="What a project's container is called; likewise, but only {project} must be in it: without "
        "{uid}, of two users of one engine who have projects of one name only the first gets a container. "
        "Containers that were made with another name are not found any more: retire them first.",
    ).tag(config=True)
    allow_host_kernels = Bool(
        True, help="Whether the plain python3 kernel may run on the host for notebooks outside all projects."
    ).tag(config=True)
    orphan_grace = Float(
        30.0,
        min=0,
        max=MOST_SECONDS,
        help="Seconds that kernels live on after their server or client was lost, for it to come back.",
    ).tag(config=True)
    idle_stop = Float(
        0.0,
        min=0,
        max=MOST_SECONDS,
        help="Seconds after the end of its last kernel, of whatever server or client, until a container is "
        "stopped, so that it holds no GPUs; it is never removed, and the next kernel starts it again. What "
        "else runs in it ends, but an open `jupyter ds01 shell` keeps it. It is a running server that stops "
        "containers. 0: they run on.",
    ).tag(config=True)
    spare_kernels = Integer(
        1,
        min=0,
        max=16,
        help="Kernels that are begun in each container before anybody wants them, and that the next starts "
        "and restarts get at once. Each takes about 12 MB; they are made while a core is free, and end when "
        "memory is short. None where IPython has configuration files. 0: none.",
    ).tag(config=True)
    pass_variables = List(
        Unicode(), help="Further variables of the server that kernels get; shell patterns such as 'WANDB_*'."
    ).tag(config=True)
    variables = Dict(
        value_trait=Unicode(), key_trait=Unicode(), help="Variables that are set in every container."
    ).tag(config=True)
    memory = Unicode("", help="Memory of a container, for example '16g'. Empty: no limit.").tag(config=True)
    max_memory = Unicode("", help="The most that a project may set. Empty: what `memory` says.").tag(
        config=True
    )
    cpus = Float(
        0.0, min=0, max=MOST_CPUS, help="CPUs that a container may use, for example 1.5. 0: all."
    ).tag(config=True)
    max_cpus = Float(
        0.0, min=0, max=MOST_CPUS, help="The most that a project may set. 0: what `cpus` says."
    ).tag(config=True)
    shm_size = Unicode(
        "1g",
        help="Size of /dev/shm in a container, where PyTorch's data loaders share batches. "
        "Empty: the engine's default.",
    ).tag(config=True)
    max_shm_size = Unicode("", help="The most that a project may set. Empty: any size.").tag(config=True)
    gpus = Unicode(
        "",
        help="GPUs of a container: 'all', a count, or UUIDs (MIG too) separated by commas. Empty: none, but "
        "one where DS01 makes the containers; '0': none anywhere.",
    ).tag(config=True)
    max_gpus = Integer(
        -1,
        min=-1,
        help="The most GPUs that a project may set; -1: any number. What `gpus` says is always given.",
    ).tag(config=True)
    pids_limit = Integer(
        0, min=0, max=MOST_PIDS, help="Processes and threads that a container may have. 0: no limit."
    ).tag(config=True)
    mounts = List(
        Unicode(), help="Further folders of the host in every container, as in '/data:/data:ro'."
    ).tag(config=True)
    network = Unicode("", help="Docker network of the containers. Empty: the engine's default.").tag(
        config=True
    )
    python = Unicode(
        "",
        help="Path of the interpreter inside images. Empty: /usr/bin/python, or what `python` means there.",
    ).tag(config=True)
    build_args = Dict(
        value_trait=Unicode(),
        key_trait=Unicode(),
        help="Build arguments, given to Dockerfiles that declare them.",
    ).tag(config=True)
    build_secrets = Dict(
        value_trait=Unicode(),
        key_trait=Unicode(),
        help="Files that builds may read but never keep, by the id under which a Dockerfile asks for one "
        "(`RUN --mount=type=secret,id=...`): a pip.conf with a package index's credentials, for example.",
    ).tag(config=True)
    project_settings = List(
        Unicode(), list(PROJECT_KEYS), help="What a project may set in [tool.ds01] of its pyproject.toml."
    ).tag(config=True)
    exclusive_gpus = Bool(
        False,
        help="Whether a GPU can be in one container only: a rebuild then stops the old container, with its "
        "kernels, before it starts the new one.",
    ).tag(config=True)
    deploy_command = Unicode(
        "container-deploy",
        help="DS01's command that makes containers, where there is one: a name (on the PATH of the server) "
        "or a path. Where it and `retire_command` are found, they make and remove the projects' containers, "
        "DS01's `docker` is used for everything else that it wraps, and DS01 decides on memory, CPUs, mounts "
        "and network. Empty: containers are made without DS01.",
    ).tag(config=True)
    retire_command = Unicode("container-retire", help="Its command that removes one; likewise.").tag(
        config=True
    )
    deploy_timeout = Float(
        600.0, min=1, max=MOST_SECONDS, help="Seconds until a command of DS01 is given up."
    ).tag(config=True)
    deploy_events = Unicode(
        "/var/log/ds01/events.jsonl",
        help="Where DS01 logs that it has stopped a container for idleness or age: notebooks say so. Empty: "
        "nowhere.",
    ).tag(config=True)
    build_timeout = Float(3600.0, min=1, max=MOST_SECONDS, help="Seconds until a build is given up.").tag(
        config=True
    )
    engine = Unicode(
        "auto",
        help="What runs the containers: 'docker' (the one that DOCKER_HOST, DOCKER_CONTEXT or the current "
        "docker context names), 'podman' (root's for root, rootless for everybody else, or the one that "
        "CONTAINER_HOST names; its service is started when none answers), 'swarm' (Docker Swarm, of which "
        "the same docker is a manager), or 'auto': Docker where one of these names it or its socket answers, "
        "else Podman. Images and containers of one are not seen by the others.",
    ).tag(config=True)
    swarm_registry = Unicode(
        "",
        help="Where the nodes of a swarm get images from: a registry as HOST:PORT, with a path perhaps. "
        "Images are pushed there when they are built. Empty: nowhere, and containers run on that node.",
    ).tag(config=True)
    swarm_nodes = Dict(
        value_trait=Unicode(),
        key_trait=Unicode(),
        help="Where the Docker of each node of a swarm is, by the node's name: tcp://HOST:2376, "
        "ssh://USER@HOST or unix:///PATH. For others the node's label ds01-kernels.docker says it.",
    ).tag(config=True)
    swarm_gpu = Unicode(
        GPU_KIND,
        help="The kind of generic resource of a swarm that a GPU is (dockerd --node-generic-resource).",
    ).tag(config=True)
    swarm_certificates = Unicode(
        "",
        help="The folder of ca.pem, cert.pem and key.pem with which nodes of a swarm are reached by tcp://. "
        "Empty: there is none, and tcp:// is refused.",
    ).tag(config=True)
    engines_allowed = List(
        Unicode(),
        help="Engines that a project may choose by `engine` in its [tool.ds01] ('docker', 'podman', 'swarm') "
        "beside the one that `engine` stands for, which needs no mention. The images, containers and limits "
        "of each are its own.",
    ).tag(config=True)
    room_timeout = Float(
        3600.0,
        min=0,
        max=MOST_SECONDS,
        help="Seconds that a kernel waits for room (for a free GPU, say, on a node of Docker Swarm) where "
        "nobody has a cell to look at, as with nbclient and papermill; then each cell answers with the "
        "reason. In JupyterLab and VS Code the first cell says what is waited for, until it is interrupted.",
    ).tag(config=True)
    swarm_constraints = List(
        Unicode(),
        help="Where containers may run on Docker Swarm, as in 'node.labels.room==2': what has to be true of "
        "a node. A project's own `node` and `constraints` can only leave fewer.",
    ).tag(config=True)
    engine_timeout = Float(
        60.0, min=1, max=MOST_SECONDS, help="Seconds until a call to the engine is given up."
    ).tag(config=True)

    source: Source = Source()
    problems: Mapping[str, SettingError] = {}

    #: Without these it is not known what the projects are.
    FOUNDATIONS: ClassVar[tuple[str, ...]] = ("", "workspaces")

    def check(self) -> None:
        """Raise the `SettingError` of the first option that cannot be used."""
        for problem in self.problems.values():
            raise problem
        for folder in self.workspaces:
            if "\0" in folder:
                raise SettingError(
                    f"{self._where('workspaces')} has {shown(folder)}, which is not a path.",
                    remedy="Correct it.",
                )
        self._names()
        parse_engine(self._where("engine"), self.engine)
        parse_engines(self._where("engines_allowed"), self.engines_allowed)
        self.swarm_options()
        self._ceiling(self._admin_settings())
        self.ds01_commands()

    def ds01_commands(self) -> Commands | None:
        """DS01's commands, which make the containers where they are there. Raises `SettingError`."""
        if "\0" in self.deploy_events:
            raise SettingError(
                f"{self._where('deploy_events')} is {shown(self.deploy_events)}, which is not a path.",
                remedy="Correct it.",
            )
        return find_commands(self.deploy_command, self.retire_command, self._where)

    def swarm_options(self) -> SwarmOptions:
        """Raises `SettingError`."""
        return SwarmOptions(
            registry=parse_registry(self._where("swarm_registry"), self.swarm_registry),
            nodes=parse_addresses(self._where("swarm_nodes"), self.swarm_nodes),
            gpu=parse_resource(self._where("swarm_gpu"), self.swarm_gpu),
            certificates=parse_folder(self._where("swarm_certificates"), self.swarm_certificates),
        )

    @property
    def names(self) -> Names:
        """The patterns; the default ones while those that are set cannot be used: `check` says why."""
        try:
            return self._names()
        except SettingError:
            return Names()

    def _names(self) -> Names:
        return Names(
            parse_image_name(self._where("image_name"), self.image_name),
            parse_container_name(self._where("container_name"), self.container_name),
        )

    def _admin_settings(self) -> Settings:
        return Settings(
            memory=parse_memory(self._where("memory"), self.memory),
            cpus=parse_cpus(self._where("cpus"), self.cpus),
            shm_size=parse_size(self._where("shm_size"), self.shm_size),
            pids_limit=parse_pids(self._where("pids_limit"), self.pids_limit),
            gpus=parse_gpus(self._where("gpus"), self.gpus),
            network=parse_network(self._where("network"), self.network),
            python=parse_python(self._where("python"), self.python),
            mounts=parse_mounts(self._where("mounts"), self.mounts),
            env=parse_variables(self._where("variables"), self.variables),
            build_args=parse_variables(self._where("build_args"), self.build_args),
            build_secrets=parse_secrets(self._where("build_secrets"), self.build_secrets),
            swarm_constraints=parse_constraints(self._where("swarm_constraints"), self.swarm_constraints),
        )

    def _ceiling(self, admin: Settings) -> Ceiling:
        for name in self.project_settings:
            if name not in KEYS:
                raise SettingError(
                    f"{self._where('project_settings')} has {shown(name)}, which no project can set.",
                    remedy=f"There are: {', '.join(KEYS)}.",
                )
        return Ceiling(
            memory=parse_memory(self._where("max_memory"), self.max_memory) or admin.memory,
            cpus=parse_cpus(self._where("max_cpus"), self.max_cpus) or admin.cpus,
            shm_size=parse_size(self._where("max_shm_size"), self.max_shm_size),
            gpus=None if self.max_gpus < 0 else self.max_gpus,
            pids_limit=admin.pids_limit,
            keys=tuple(self.project_settings),
        )

    def _where(self, name: str) -> str:
        return self.source.where(name)


def usable(config: Config, source: Source) -> tuple[Config, dict[str, SettingError]]:
    """The options in the section ``Workbench`` that have values of their type, and why others have not."""
    kept, problems = Config(), {}
    for name, value in config.Workbench.items() if "Workbench" in config else ():
        problem = _problem(name, value, source)
        if problem is None:
            kept.Workbench[name] = value
        else:
            problems[name] = problem
    return kept, problems


def _problem(name: str, value: Any, source: Source) -> SettingError | None:
    trait = Options.class_traits(config=True).get(name)
    if trait is None:
        near = difflib.get_close_matches(name, Options.class_trait_names(config=True), n=1)
        return SettingError(
            f"{source.where(name)} is not a setting.",
            remedy=f"Did you mean Workbench.{near[0]}?" if near else "docs/configuration.md lists them.",
        )
    try:
        # Python takes True for a number, and nobody who writes it means one.
        is_right = not (isinstance(value, bool) and isinstance(trait, Float | Integer))
        given = getattr(Options(config=Config(Options={name: value})), name)
        # Neither above nor below a limit: nan is not equal to itself.
        is_right = is_right and given == given
    except Exception:  # noqa: BLE001 - a value may be any object
        is_right = False
    if is_right:
        return None
    return SettingError(
        f"{source.where(name)} is {shown(value)}, which is not a {_kind(trait)}{_limits(trait)}.",
        remedy="Correct it; docs/configuration.md says what may stand there.",
    )


def described() -> Iterator[tuple[str, str, Any, str]]:
    """Name, type in words, default and help of every option."""
    for name, trait in Options.class_own_traits(config=True).items():
        yield name, _kind(trait), trait.default(), str(trait.help)


def _kind(trait: Any) -> str:
    kinds = {
        List: "list of texts",
        Dict: "dictionary of texts",
        Bool: "switch (True or False)",
        Integer: "whole number",
        Float: "number",
        Unicode: "text",
    }
    return next(words for kind, words in kinds.items() if isinstance(trait, kind))


def _limits(trait: Any) -> str:
    low, high = getattr(trait, "min", None), getattr(trait, "max", None)
    if low is None:
        return ""
    return f" of at least {low}" if high is None else f" from {low} to {high}"
