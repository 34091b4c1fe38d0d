"""Containers of this machine's engine that are made as on one elsewhere: they share no directory with it."""

from __future__ import annotations

from dataclasses import replace

from conftest import ProjectFolder, with_engine
from live import Site

from ds01_kernels import containers, ipykernel_store
from ds01_kernels.engine import Engine
from ds01_kernels.projects import discover
from ds01_kernels.workbench import Workbench


def make_container(site: Site, project: ProjectFolder) -> None:
    """The project's container, running."""

    async def create(engine: Engine) -> None:
        image = await engine.image(project.image)
        assert image is not None
        found = discover([site.workspace]).get(project.name)
        elsewhere = replace(await engine.info(), local=False)
        settings, store = Workbench.open().settings(found), ipykernel_store.store_root()
        made = await containers.create(engine, found, image, settings, store, host=elsewhere)
        await engine.start(made.name)

    with_engine(create)
