"""A real browser on a real JupyterLab: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest
from servers import LIMIT, TOKEN, House, Server
from still_network import a_still_network

ROOT = Path(__file__).parent.parent
BUILT = ROOT / "ds01_kernels" / "labextension"
AXE = ROOT / "labextension" / "node_modules" / "axe-core" / "axe.min.js"
IMAGES = ROOT / "docs" / "images"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--force-prefers-reduced-motion"]

#: Milliseconds, as Playwright counts.
WAIT = LIMIT * 1000

THEMES = ("JupyterLab Light", "JupyterLab Dark", "JupyterLab Dark High Contrast")

#: With this, pages have `jupyterapp`; nothing asks for news.
SETTINGS = "c.LabApp.expose_app_in_browser = True\n"
QUIET = {"fetchNews": "false", "checkForUpdates": False}


def missing() -> str:
    """What these tests lack on this machine; empty for nothing."""
    if not any(map(shutil.which, CHROMIUM)):
        return "No Chromium is installed (on Debian: apt-get install chromium)."
    if not (BUILT / "package.json").is_file():
        return "The JupyterLab extension is not built: run ./scripts/setup."
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "Playwright is not installed: python -m pip install playwright."
    return ""


def require() -> None:
    """Skips where something is missing; with the variable CI set, fails instead."""
    if reason := missing():
        if os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


def link_extension(folder: Path) -> None:
    """Make `folder` one for ``JUPYTER_PATH`` in which the extension is found as it was built last."""
    place = folder / "labextensions" / "@ds01"
    place.mkdir(parents=True)
    (place / "kernels").symlink_to(BUILT)


def silence(house: House) -> None:
    """No notification asks whether there may be news."""
    settings = house.root / "config" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(QUIET))


def write_notebook(path: Path, cells: Sequence[str]) -> None:
    kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made = [nbformat.v4.new_code_cell(source) for source in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata={"kernelspec": kernelspec}), path)


@contextmanager
def a_browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, CHROMIUM)))
    with (
        tempfile.TemporaryDirectory() as folder,
        a_still_network() as network,
        sync_playwright() as playwright,
    ):
        flags = FLAGS
        if network:
            program, inside = Path(folder, "chromium"), f"nsenter --net={network.path} {program}"
            program.write_text(f'#!/bin/sh\nexec {inside} "$@"\n')
            program.chmod(0o700)
            # Without the last it would look for 127.0.0.1 itself.
            flags = [*FLAGS, f"--proxy-server={network.proxy}", "--proxy-bypass-list=<-loopback>"]
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        try:
            yield browser
        finally:
            browser.close()


class Lab:
    """One page of JupyterLab."""

    def __init__(self, server: Server, page: Any) -> None:
        self.server = server
        self.page = page
        #: The paths below ``ds01/`` that the page has asked for.
        self.asked: list[str] = []
        page.on("request", self._note)
        page.set_default_timeout(WAIT)

    def open(self, path: str = "", *, reset: bool = True) -> None:
        where = f"lab/tree/{path}" if path else "lab"
        self.page.goto(f"{self.server.url}{where}?token={TOKEN}{'&reset' if reset else ''}")
        self.page.wait_for_function("window.jupyterapp !== undefined")
        self.page.evaluate("jupyterapp.restored.then(() => true)")
        self.page.wait_for_selector("#jupyterlab-splash", state="detached")
        if path.endswith(".ipynb"):
            self.page.wait_for_selector(".jp-Notebook .jp-Cell")
        elif not path and reset:
            # When it comes it takes the focus, and what is typed.
            self.page.wait_for_selector(".jp-Launcher .jp-LauncherCard")

    def run_cell(self, number: int) -> None:
        """Run that cell, from 0, and wait until it is done and the kernel idle."""
        self.page.locator(".jp-Notebook .jp-Cell").nth(number).locator(".jp-InputPrompt").click()
        self.execute("notebook:run-cell")
        done = f"""() => {{
            const cell = document.querySelectorAll('.jp-Notebook .jp-Cell')[{number}];
            return /[0-9]/.test(cell.querySelector('.jp-InputPrompt').textContent)
                && document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status !== 'busy';
        }}"""
        self.page.wait_for_function(done)

    def output(self, number: int) -> str:
        return str(
            self.page.locator(".jp-Notebook .jp-Cell").nth(number).locator(".jp-OutputArea").inner_text()
        )

    def execute(self, command: str, **args: Any) -> None:
        self.page.evaluate("([id, args]) => void jupyterapp.commands.execute(id, args)", [command, args])

    def refresh(self) -> None:
        """Have all that is known of the projects read anew, and wait for that."""
        self.page.evaluate("jupyterapp.commands.execute('ds01-kernels:refresh')")

    def use_theme(self, theme: str) -> None:
        self.execute("apputils:change-theme", theme=theme)
        self.page.wait_for_selector(f"body[data-jp-theme-name='{theme}']", state="attached")

    def see(self, text: str) -> None:
        """Wait until that text can be seen."""
        self.page.get_by_text(text).first.wait_for()

    def toast(self, *texts: str) -> Any:
        """The newest notification with these texts."""
        found = self.page.locator(".Toastify__toast")
        for text in texts:
            found = found.filter(has_text=text)
        return found.last

    def shoot(self, name: str) -> None:
        """A picture for the documentation, when it is being written."""
        if os.environ.get("DS01_WRITE_DOCS"):
            self.page.screenshot(path=IMAGES / f"{name}.png")

    def serious(self, *selectors: str) -> list[str]:
        """What axe finds serious or worse in these parts of the page."""
        self.page.add_script_tag(path=AXE)
        found = self.page.evaluate("include => axe.run({include})", [[one] for one in selectors])
        return [
            f"{violation['id']}: {node['html']} {node['failureSummary']}"
            for violation in found["violations"]
            if violation["impact"] in ("serious", "critical")
            for node in violation["nodes"]
        ]

    def _note(self, request: Any) -> None:
        _, found, path = request.url.partition("/ds01/")
        if found:
            self.asked.append(path)
