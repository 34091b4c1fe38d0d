"""The JupyterLab extension, as a user meets it: a real browser, a real server, real containers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import browser
import pytest
from browser import Lab, a_browser, link_extension, silence, write_notebook
from conftest import ProjectFolder, build_project, with_engine
from servers import House, Server, a_house

pytestmark = pytest.mark.engine

PLACE = ".jp-ds01-Place"
BUTTON = ".jp-ds01-RebuildButton jp-button"
BADGE = ".jp-ds01-Badge"
ACCEPT = ".jp-Dialog-footer .jp-mod-accept"


@dataclass(frozen=True)
class Site:
    """What the tests of this module share."""

    house: House
    server: Server
    chromium: Any
    thesis: ProjectFolder

    def page(self) -> Lab:
        return Lab(self.server, self.chromium.new_page(viewport={"width": 1280, "height": 760}))


@pytest.fixture(scope="module")
def site(ipykernel_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    browser.require()
    share = tmp_path_factory.mktemp("share")
    link_extension(share)
    with a_house(env={"JUPYTER_PATH": str(share)}) as house:
        silence(house)
        # Pictures show a name that people would give; it may be another run's, so tests never use it.
        thesis = house.folder(
            "thesis", f"FROM {ipykernel_image}\n", unique="DS01_WRITE_DOCS" not in os.environ
        )
        with_engine(lambda engine: build_project(engine, thesis))
        cells = ["%pip install six", "import sys, six; mark = 1; print(sys.executable, six.__version__)"]
        write_notebook(
            thesis.path / "analysis.ipynb", [*cells, "print('mark' in globals(), six.__version__)"]
        )
        write_notebook(house.workspace / "loose.ipynb", ["1"])
        with house.server(lab=True, settings=browser.SETTINGS) as server, a_browser() as chromium:
            yield Site(house, server, chromium, thesis)


@pytest.fixture
def lab(site: Site) -> Iterator[Lab]:
    made = site.page()
    yield made
    made.page.close()


def test_two_clicks_make_a_package_permanent(site: Site, lab: Lab) -> None:
    name, dockerfile = site.thesis.name, site.thesis.path / "Dockerfile"
    lab.open(f"{name}/analysis.ipynb")
    lab.page.locator(f"{PLACE} >> text={site.thesis.container}").wait_for()
    lab.page.locator(PLACE, has_text="/usr/bin/python").wait_for()
    lab.run_cell(0)
    lab.run_cell(1)
    assert "/usr/bin/python" in lab.output(1)
    lab.page.locator(BADGE, has_text="1").wait_for()
    lab.shoot("toolbar")
    assert_told_where_the_pointer_rests(site, lab)

    lab.page.click(BUTTON)
    lab.page.locator(".jp-ds01-Diff", has_text="six==").wait_for()
    assert "six" not in dockerfile.read_text()
    assert lab.serious(".jp-Dialog-content") == []
    lab.shoot("rebuild")
    lab.page.click(ACCEPT)

    lab.page.wait_for_selector(BADGE, state="detached")
    lab.see(f"Rebuild: {name}: done")
    lab.shoot("done")
    assert '"six==' in dockerfile.read_text()
    lab.execute("ds01-kernels:open-dockerfile", project=name)
    lab.page.locator(".cm-line.jp-ds01-Managed", has_text="six==").wait_for()
    lab.shoot("dockerfile")
    lab.execute("docmanager:open", path=f"{name}/analysis.ipynb")
    # Nobody has touched the kernel: it is a new one, in the new container.
    lab.page.locator(f"{PLACE} >> text=running").wait_for()
    lab.page.wait_for_function(
        "jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'"
    )
    lab.run_cell(2)
    assert "NameError" in lab.output(2)
    lab.run_cell(1)
    assert "/usr/bin/python" in lab.output(1)


def assert_told_where_the_pointer_rests(site: Site, lab: Lab) -> None:
    """Image, age, memory and so on, asked for when it is wanted, and once."""
    lab.asked.clear()
    lab.page.hover(f"{PLACE} button")
    card = lab.page.locator(".jp-ds01-Card")
    card.filter(has_text="in use").wait_for()
    assert [path.partition("?")[0] for path in lab.asked] == [f"projects/{site.thesis.name}"]
    told = dict(zip(card.locator("dt").all_inner_texts(), card.locator("dd").all_inner_texts(), strict=True))
    assert told["Image"] == site.thesis.image
    assert {"Age", "Up for", "Memory", "Kernels"} <= set(told)
    assert "GPUs" not in told, "the container has none"
    assert lab.serious(".jp-ds01-Card") == []
    lab.shoot("where")
    lab.page.keyboard.press("Escape")
    card.wait_for(state="detached")


def test_a_failure_is_told_and_found_again_after_a_reload(site: Site, lab: Lab) -> None:
    dockerfile = site.thesis.path / "Dockerfile"
    before = dockerfile.read_text()
    lines = before.count("\n") + 2
    other = site.page()
    dockerfile.write_text(f"{before}RUN sleep 8\nRUN echo the-reason && exit 3\n")
    try:
        lab.open(f"{site.thesis.name}/analysis.ipynb")
        other.open()
        lab.page.click(BUTTON)
        lab.see("Nothing to save")
        lab.page.click(ACCEPT)
        lab.toast("Rebuild", "building").get_by_role("button", name="Show Log").click()
        lab.page.locator(".jp-ds01-LogText", has_text="sleep 8").wait_for()
        lab.shoot("progress")

        lab.open(f"{site.thesis.name}/analysis.ipynb", reset=False)
        # However long that took: it is going on, or has just ended.
        lab.toast("Rebuild", "failed").get_by_role("button", name="Show Log").click()
        lab.page.locator(".jp-ds01-LogText", has_text="sleep 8").wait_for()
        lab.page.locator(".jp-ds01-LogHead .jp-ds01-error", has_text=f"line {lines}").wait_for()
        failed = lab.toast("Rebuild", "failed")
        failed.get_by_role("button", name=f"Open Dockerfile at Line {lines}").wait_for()
        lab.see("Everything is as it was.")
        lab.page.locator(".jp-ds01-LogText", has_text="the-reason").wait_for()
        assert lab.serious(".jp-ds01-LogWidget") == []
        lab.shoot("failure")
        other.toast("Rebuild", "failed").wait_for()
        lab.page.locator(".jp-ds01-LogHead").get_by_role("button", name=f"at Line {lines}").click()
        cursor = "jupyterapp.shell.currentWidget.content.editor?.getCursorPosition?.().line"
        lab.page.wait_for_function(f"{cursor} === {lines - 1}")
        lab.execute("docmanager:open", path=f"{site.thesis.name}/analysis.ipynb")
    finally:
        other.page.close()
        dockerfile.write_text(before)
    lab.page.locator(f"{PLACE} >> text=running").wait_for()


def test_a_missing_module_is_installed_by_its_button(site: Site, lab: Lab) -> None:
    write_notebook(site.thesis.path / "missing.ipynb", ["import toml; print(toml.__version__)"])
    lab.open(f"{site.thesis.name}/missing.ipynb")
    lab.page.locator(f"{PLACE} >> text=running").wait_for()
    lab.run_cell(0)
    lab.page.get_by_role("button", name="Install toml in the container").click()
    lab.see("Run the cell again")
    lab.shoot("missing")
    lab.run_cell(0)
    assert "Error" not in lab.output(0)


def test_a_host_kernel_is_marked(lab: Lab) -> None:
    lab.open("loose.ipynb")
    lab.page.locator(PLACE, has_text="host").wait_for()
    assert lab.page.locator(BUTTON).count() == 0
    lab.shoot("host")


def test_the_panel_stands_where_the_settings_say(site: Site, lab: Lab) -> None:
    settings = "lab/api/settings/@ds01/kernels:panel"
    assert site.server.request("PUT", settings, {"raw": '{"area": "right"}'}).status_code == 204
    try:
        lab.open()
        panel = "[...jupyterapp.shell.widgets('right')].some(one => one.id === 'ds01-kernels-panel')"
        lab.page.wait_for_function(panel)
    finally:
        assert site.server.request("PUT", settings, {"raw": "{}"}).status_code == 204


def test_a_new_notebook_gets_its_projects_kernel_without_a_question(site: Site, lab: Lab) -> None:
    lab.open()
    lab.page.wait_for_function("jupyterapp.serviceManager.kernelspecs.specs !== null")
    lab.execute("filebrowser:go-to-path", path=site.thesis.name)
    first = "document.querySelector('.jp-LauncherCard[data-category=Notebook]')?.title"
    lab.page.wait_for_function(f"{first}?.startsWith('{site.thesis.name} ')")
    # What the tests before this one have caused is told here too.
    lab.page.add_style_tag(content=".Toastify { display: none }")
    lab.shoot("launcher")
    lab.execute("notebook:create-new", cwd=site.thesis.name)
    lab.page.locator(f"{PLACE} >> text={site.thesis.container}").wait_for()
    assert lab.page.locator(".jp-Dialog").count() == 0


def test_the_panel_in_both_themes(site: Site, lab: Lab) -> None:
    lab.open()
    lab.execute("ds01-kernels:show-panel")
    lab.page.click(f".jp-ds01-Project >> text={site.thesis.name}")
    # Seen as it comes up, if it has not been there before.
    assert site.server.request("POST", f"ds01/projects/{site.thesis.name}/deploy").status_code == 202
    lab.page.locator(".jp-ds01-Packages", has_text="ipykernel").wait_for()
    for theme in ("JupyterLab Light", "JupyterLab Dark", "JupyterLab Dark High Contrast"):
        lab.execute("apputils:change-theme", theme=theme)
        lab.page.wait_for_selector(f"body[data-jp-theme-name='{theme}']", state="attached")
        assert lab.serious(".jp-ds01-Panel") == [], theme
        lab.shoot(f"panel-{theme.removeprefix('JupyterLab ').lower().replace(' ', '-')}")
    lab.execute("apputils:change-theme", theme="JupyterLab Light")
    lab.page.wait_for_selector("body[data-jp-theme-name='JupyterLab Light']", state="attached")


def test_every_command_is_in_the_palette_and_a_rebuild_needs_no_mouse(site: Site, lab: Lab) -> None:
    lab.open(f"{site.thesis.name}/analysis.ipynb")
    lab.page.locator(f"{PLACE} >> text=running").wait_for()
    lab.page.keyboard.press("Control+Shift+c")
    lab.page.locator(".jp-ModalCommandPalette .lm-CommandPalette-input:focus").wait_for()
    lab.page.keyboard.type("Containers")
    item = ".jp-ModalCommandPalette .lm-CommandPalette-item"
    lab.page.locator(f"{item} >> text=Refresh Projects").wait_for()
    shown = lab.page.evaluate(f"[...document.querySelectorAll('{item}')].map(one => one.dataset.command)")
    commands = set(lab.page.evaluate("jupyterapp.commands.listCommands()"))
    ours = {command for command in commands if command.startswith("ds01-kernels:")}
    assert len(ours) > 15
    assert ours <= set(shown)
    lab.page.keyboard.type(" Rebuild")
    lab.page.locator(".lm-CommandPalette-item.lm-mod-active", has_text="Rebuild…").wait_for()
    lab.page.keyboard.press("Enter")
    lab.page.wait_for_selector(".jp-Dialog")
    inside = "document.activeElement.closest('.jp-Dialog') !== null"
    lab.page.wait_for_function(inside)
    reached = set()
    for _ in range(8):
        assert lab.page.evaluate(inside)
        reached.add(lab.page.evaluate("document.activeElement.outerHTML.slice(0, 200)"))
        lab.page.keyboard.press("Tab")
    assert len(reached) >= 3, reached
    lab.page.keyboard.press("Escape")
    lab.page.wait_for_selector(".jp-Dialog", state="detached")
