"""The services of ours, as a manager of the swarm lists, makes and changes them."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import docker.errors
from docker.auth import get_config_header, resolve_repository_name

from ds01_kernels.engine import NodeInfo
from ds01_kernels.engine.swarm_spec import can_forbid_privileges
from ds01_kernels.engine.swarm_values import (
    LABEL_IMAGE,
    LABEL_KEY,
    LABEL_NAME,
    LABEL_UID,
    Answer,
    Found,
    former,
    newest,
    node_info,
)
from ds01_kernels.errors import EngineError

#: docker-py's `APIClient`, whose methods for swarms have no types.
Api = Any

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_ID = re.compile(r"[0-9a-z]{25}")
#: What a manager says when somebody else has changed the service since it was read.
_CHANGED = "out of sequence"
#: How often a service may change, or go, between what is asked of it and what is asked next.
_TRIES = 10


class Services:
    """Those of the user `uid` are found by name and id; whoever's, by labels. Each call blocks.

    Raises what docker-py does, and `EngineError` where no swarm is managed.
    """

    def __init__(self, uid: int) -> None:
        self._uid = str(uid)
        self._own_node = ""

    def own_node(self, client: Api) -> str:
        """The id of the node that `client` leads to."""
        if not self._own_node:
            self._own_node = own_node(client.info())
        return self._own_node

    def node_infos(self, client: Api, gpu: str) -> list[NodeInfo]:
        self.own_node(client)
        tasks = client.tasks(filters={"desired-state": "running"})
        return [node_info(node, tasks, gpu) for node in client.nodes()]

    def all(self, client: Api, labels: Mapping[str, str]) -> list[Found]:
        """Those that carry every one of `labels`, of whatever user."""
        return _settled(lambda: self._all(client, labels))

    def find(self, client: Api, name: str) -> Found | None:
        """By its name or id, or by the id of one in whose place it is."""
        return _settled(lambda: self._find(client, name))

    def _all(self, client: Api, labels: Mapping[str, str]) -> list[Found]:
        wanted = [LABEL_NAME, *(f"{name}={value}" for name, value in labels.items())]
        services = [
            service
            for service in client.services(filters={"label": wanted})
            # To Swarm an empty value is any.
            if labels.items() <= _labels(service).items() and LABEL_NAME in _labels(service)
        ]
        if not services:
            return []
        tasks = client.tasks(filters={"service": [service["ID"] for service in services]})
        nodes = {node["ID"]: node for node in client.nodes()}
        # Of those that are one container, the one that took the others' place.
        last = {_whose(one): one["ID"] for one in sorted(services, key=_generation)}
        return [
            _found(service, tasks, nodes) for service in services if last[_whose(service)] == service["ID"]
        ]

    def _find(self, client: Api, name: str) -> Found | None:
        if not _NAME.fullmatch(name):
            return None
        named = self._named(client, name)
        if not named and _ID.fullmatch(name):
            own = client.services(filters={"label": [f"{LABEL_UID}={self._uid}", LABEL_NAME]})
            named = [one for one in own if one["ID"] == name] or [
                one for one in own if name in former(_labels(one))
            ]
        if not named:
            return None
        # While one takes the place of another, both have the name for a moment.
        service = min(named, key=lambda one: (-_generation(one), _age(one)))
        return self._with_task(client, service)

    def _named(self, client: Api, name: str) -> list[dict[str, Any]]:
        filters = {"label": [f"{LABEL_NAME}={name}", f"{LABEL_UID}={self._uid}"]}
        found: list[dict[str, Any]] = client.services(filters=filters)
        return found

    def seen(self, client: Api, service: str, besides: Collection[str] = ()) -> Found:
        """With its task other than those."""
        return self._with_task(client, client.inspect_service(service), besides)

    def tasks(self, client: Api, service: str) -> frozenset[str]:
        """The ids of its tasks, of which some are still on their way out."""
        return frozenset(str(task["ID"]) for task in client.tasks(filters={"service": [service]}))

    def _with_task(self, client: Api, service: Answer, besides: Collection[str] = ()) -> Found:
        found = client.tasks(filters={"service": [service["ID"]]})
        tasks = [one for one in found if one["ID"] not in besides]
        task = newest(tasks)
        nodes = {}
        if task is not None and (node := str(task.get("NodeID") or "")):
            with suppress(docker.errors.NotFound):
                nodes[node] = client.inspect_node(node)
        return _found(service, tasks, nodes)

    def create(self, client: Api, spec: Mapping[str, Any]) -> Found:
        # docker-py's own method would hand the nodes an account of Docker Hub's for an image known by its id.
        headers, image = {}, str(spec["TaskTemplate"]["ContainerSpec"]["Image"])
        if "@" in image:
            registry = resolve_repository_name(image)[0]
            if account := get_config_header(client, registry):
                headers["X-Registry-Auth"] = account
        answer = client._post_json(client._url("/services/create"), data=dict(spec), headers=headers)
        return Found(client.inspect_service(client._result(answer, True)["ID"]))

    def has_rival(self, client: Api, made: Found) -> bool:
        """Whether another one of its name was there before it."""
        named = self._named(client, made.labels[LABEL_NAME])
        return any(_age(one) < _age(made.service) for one in named)

    def succeed(self, client: Api, found: Found, spec: Mapping[str, Any]) -> Found:
        """Create the one that is to take that one's place; remove what a process that is gone has begun."""
        for other in self._of_key(client, found.key):
            if LABEL_NAME not in _labels(other):
                self.remove(client, other["ID"])
        return self.create(client, spec)

    def update(self, client: Api, service: str, change: Callable[[dict[str, Any]], None]) -> None:
        for left in reversed(range(_TRIES)):
            now = client.inspect_service(service)
            spec = copy.deepcopy(now["Spec"])
            change(spec)
            url, version = client._url("/services/{0}/update", service), now["Version"]["Index"]
            # docker-py's own method loses what it does not know of a service.
            answer = client._post_json(url, data=spec, params={"version": version})
            if answer.ok or not left or _CHANGED not in answer.text:
                client._raise_for_status(answer)
                break

    def remove(self, client: Api, service: str) -> None:
        with suppress(docker.errors.NotFound):
            client.remove_service(service)

    def remove_rest(self, client: Api, key: str, drop: Callable[[Api, str], None]) -> None:
        """Whatever else has that key: what was to take its place, and its files by `drop`."""
        if not key:
            return
        for other in self._of_key(client, key):
            self.remove(client, other["ID"])
        drop(client, key)

    def _of_key(self, client: Api, key: str) -> list[dict[str, Any]]:
        filters = {"label": [f"{LABEL_KEY}={key}", f"{LABEL_UID}={self._uid}"]}
        found: list[dict[str, Any]] = client.services(filters=filters)
        return found

    def keys(self, client: Api) -> set[str]:
        """Of all this user's, those on their way to take another one's place too."""
        own = client.services(filters={"label": [f"{LABEL_UID}={self._uid}"]})
        return {_labels(one).get(LABEL_KEY, "") for one in own}

    def uses(self, client: Api, image_id: str) -> bool:
        """Whether a service of whatever user is made of that image."""
        return bool(client.services(filters={"label": [f"{LABEL_IMAGE}={image_id}"]}))


def _settled(look: Callable[[], T]) -> T:
    """What `look` finds: anew when a service goes between its listing and that of its task."""
    for _ in range(_TRIES):
        with suppress(docker.errors.NotFound):
            return look()
    return look()


def own_node(about: Answer) -> str:
    """The id of the node whose Docker says that about itself. Raises `EngineError` if it manages no swarm."""
    swarm = about.get("Swarm") or {}
    if not swarm.get("ControlAvailable"):
        raise no_swarm()
    return str(swarm.get("NodeID") or "")


def forbids_privileges(client: Api) -> bool:
    """Whether services of that swarm can be kept from gaining privileges, or all containers are."""
    is_general = "name=no-new-privileges" in (client.info().get("SecurityOptions") or ())
    return is_general or can_forbid_privileges(version_of(client))


def version_of(client: Api) -> tuple[int, ...]:
    return tuple(int(part) for part in client.api_version.split("."))


def no_swarm() -> EngineError:
    return EngineError(
        "The Docker that was reached manages no swarm.",
        remedy="Run this on a manager of the swarm (`docker node ls` works there), or have DOCKER_HOST name "
        "one; docs/swarm.md says how a swarm is made.",
    )


def _found(service: Answer, tasks: list[dict[str, Any]], nodes: Mapping[str, Answer]) -> Found:
    task = newest(one for one in tasks if one.get("ServiceID") == service["ID"])
    return Found(service, task, nodes.get(str((task or {}).get("NodeID") or "")))


def _labels(service: Answer) -> Mapping[str, str]:
    return service["Spec"].get("Labels") or {}


def _whose(service: Answer) -> tuple[str | None, str | None]:
    """What no two containers have in common."""
    return _labels(service).get(LABEL_UID), _labels(service).get(LABEL_KEY)


def _generation(service: Answer) -> int:
    return len(former(_labels(service)))


def _age(service: Answer) -> tuple[str, str]:
    return str(service.get("CreatedAt")), str(service["ID"])
