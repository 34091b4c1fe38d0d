"""Wires the rest into jupyter_server.

`link` runs before the server makes its managers, when classes can still be chosen; `load` when they exist.
https://jupyter-server.readthedocs.io/en/stable/developers/extensions.html
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, TypeVar

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.provisioning.factory import KernelProvisionerFactory
from jupyter_events import EventLogger
from jupyter_server.gateway.gateway_client import GatewayClient
from jupyter_server.serverapp import ServerApp
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from jupyter_server.services.kernels.kernelmanager import AsyncMappingKernelManager
from tornado.ioloop import IOLoop
from traitlets.config import Config
from traitlets.utils.importstring import import_item

from . import handlers, job_handlers, package_handlers
from .errors import Ds01Error
from .events import SCHEMA_FILES, Event
from .handlers import routes
from .kernelspecs import PROVISIONER, with_projects
from .server_kernels import ServerKernels, ending_started, knowing_started, undelayed
from .workbench import Workbench

#: Seconds between Jupyter's looks at a kernel. Ours answers from what the agent has told, so a look costs
#: nothing.
TIME_TO_DEAD = 0.5

_Class = TypeVar("_Class")


def link(server: ServerApp) -> None:
    """Choose the classes and defaults, leaving alone what the admin has configured."""
    if GatewayClient.instance(parent=server).gateway_enabled:
        server.log.warning(
            "ds01-kernels: kernels come from a gateway here, so projects are not offered as kernels."
        )
        return
    workbench = Workbench.open(
        _own_configuration(server.config), files=server.loaded_config_files, log=server.log
    )
    try:
        workbench.check()
    except Ds01Error as error:
        # Here for the admin; whoever starts a kernel is told in the notebook.
        server.log.error("ds01-kernels: no kernel of a project can start. %s", error.sentence)  # noqa: TRY400
    try:
        specs = with_projects(
            _class(server, "kernel_spec_manager_class", KernelSpecManager), workbench.projects
        )
        _set(server, "kernel_spec_manager_class", specs)
    except Ds01Error as error:
        server.log.error("ds01-kernels: projects are not offered as kernels. %s", error.sentence)  # noqa: TRY400
    kernels = _class(server, "kernel_manager_class", AsyncMappingKernelManager)
    _set(server, "kernel_manager_class", knowing_started(ending_started(kernels)))
    connection = _class(server, "kernel_websocket_connection_class", ZMQChannelsWebsocketConnection)
    _set(server, "kernel_websocket_connection_class", undelayed(connection))
    _default(server.config, "KernelProvisionerFactory", "default_provisioner_name", PROVISIONER)
    _default(server.config, "KernelRestarter", "time_to_dead", TIME_TO_DEAD)
    # It may have been made before us, when kernelspecs were looked at.
    factory = KernelProvisionerFactory.instance(parent=server)
    factory.default_provisioner_name = server.config.KernelProvisionerFactory.default_provisioner_name


def load(server: ServerApp) -> None:
    """Add the handlers, and take over from a server that was here before."""
    workbench = Workbench.open()
    # Another server on this machine cannot have the same address, so the next that has it is this one's
    # successor.
    address = server.sock or server.port
    if address:
        workbench.owner = f"server {socket.gethostname()}:{address}{server.base_url}"
    table = [*handlers.TABLE, *job_handlers.TABLE, *package_handlers.TABLE]
    server.web_app.add_handlers(  # type: ignore[no-untyped-call]
        ".*$", routes(server.base_url, workbench, table)
    )
    if (bus := server.event_logger) is not None:
        for file in SCHEMA_FILES:
            bus.register_event_schema(file)
        workbench.listen(_emitter(bus, IOLoop.current()))
    kernels, loop = ServerKernels(server.kernel_manager, server.session_manager), IOLoop.current()
    workbench.on_replaced = lambda processes: loop.add_callback(kernels.restart, processes)
    # Kernels that a server before us left have its grace time until they end.
    workbench.submit(workbench.begin())
    server.log.info("ds01-kernels looks for projects in %s", ", ".join(map(str, workbench.folders)))


def _emitter(bus: EventLogger, loop: IOLoop) -> Callable[[Event], None]:
    """What brings our events, from whatever thread, to Jupyter's event bus."""

    def emit(event: Event) -> None:
        loop.add_callback(bus.emit, schema_id=event.schema, data=event.as_json())

    return emit


def _class(server: ServerApp, name: str, default: type[_Class]) -> type[_Class]:
    # Not the trait's own default: that one asks for things which the server does not have yet.
    configured = server.config.ServerApp.get(name, default)
    found: type[_Class] = import_item(configured) if isinstance(configured, str) else configured
    return found


def _set(server: ServerApp, name: str, value: type[Any]) -> None:
    setattr(server, name, value)
    # Extensions linked after us may add to the configuration (JupyterLab does): all of it applies again.
    server.config.ServerApp[name] = value


def _own_configuration(config: Config) -> Config:
    own = Config()
    if "Workbench" in config:
        own.Workbench = config.Workbench
    return own


def _default(config: Any, section: str, name: str, value: object) -> None:
    if name not in config[section]:
        config[section][name] = value
