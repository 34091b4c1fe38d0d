"""The configuration that every process of ours shares, and where in it a setting stands."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jupyter_core.application import JupyterApp
from traitlets.config import Config

from .errors import SettingError


@dataclass(frozen=True)
class Source:
    """The configuration files that were read, what goes before comes first."""

    files: tuple[str, ...] = ()

    def where(self, name: str) -> str:
        """Words for the setting ``Workbench.<name>`` with its file, for the beginning of a sentence."""
        for file in self.files:
            try:
                text = Path(file).read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            if "Workbench" in text and re.search(rf"\b{re.escape(name)}\b", text):
                return f"Workbench.{name} in {file}"
        return f"Workbench.{name}"


class ConfigurationFiles(JupyterApp):
    """Reads ``jupyter_config`` and ``jupyter_ds01_config``, which every process of ours shares."""

    name = "jupyter-ds01"
    # The default is to go on without: with a typing error in it, none of the admin's limits would hold.
    raise_config_file_errors = True


def shared_configuration(other_files: Sequence[str] = ()) -> tuple[Config, Source]:
    """What those files say, from all of Jupyter's configuration directories. Raises `SettingError`.

    `other_files` were read by whoever asks, the last one counting most.
    """
    application = ConfigurationFiles()
    try:
        application.load_config_file()
    except Exception as error:  # noqa: BLE001 - the files are programs
        raise SettingError(
            f"A configuration file cannot be read: {type(error).__name__}: {error}.",
            remedy="Correct jupyter_config.py or jupyter_ds01_config.py; `jupyter --paths` says where.",
        ) from None
    files = dict.fromkeys([*reversed(other_files), *reversed(application.loaded_config_files)])
    return application.config, Source(tuple(files))
