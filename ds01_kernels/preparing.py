"""What agents are told before kernels start: where ipykernel is, and what a zygote gets."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from . import elsewhere, ipykernel_store
from .agent.kernel import Preparation, is_start_bound
from .containers import IPYKERNEL, NOTHING_KNOWN
from .engine import Engine
from .projects import Project
from .station import Station
from .variables import select


class Preparations:
    """Those of all projects' containers."""

    def __init__(self, engine: Engine) -> None:
        #: Kernels that each container is to have begun before anybody wants them.
        self.spare_kernels = 0
        self._engine = engine
        #: By the project's path, what the agent of its last container was told.
        self._told: dict[Path, Preparation] = {}

    def guess(self, project: Project) -> Preparation:
        """What the agent of the project's next container will likely be told."""
        return self._told.get(project.path, NOTHING_KNOWN._replace(env=_of_zygotes()))

    async def make(self, project: Project, station: Station, *, curve: bool) -> None:
        """Have an ipykernel in place, with `curve` one that can encrypt, and the agent's zygote warming."""
        if station.is_prepared(curve=curve):
            return
        survey = station.agent.survey
        found = survey["ipykernel"]
        path: list[str] = []
        if found is None or not ipykernel_store.is_sufficient(found, curve=curve):
            name = await ipykernel_store.provide(ipykernel_store.Target.of(survey), curve=curve)
            if station.running.is_foreign:
                store = await asyncio.to_thread(ipykernel_store.store_root)
                await elsewhere.bring_ipykernel(self._engine, station.agent, store, name)
            path = [str(IPYKERNEL / name)]
        told = Preparation(path, bool(path) and found is not None, _of_zygotes())
        station.agent.prepare(*told, spares=self.spare_kernels)
        station.prepared = curve
        self._told[project.path] = told


def _of_zygotes() -> dict[str, str]:
    return {name: value for name, value in select(os.environ).plain.items() if is_start_bound(name)}
