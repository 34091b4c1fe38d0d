from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from jupyter_server.gateway.managers import GatewayKernelSpecManager
from jupyter_server.services.kernelspecs.handlers import kernelspec_model
from traitlets.config import Config

from ds01_kernels.errors import BadProjectNameError, ConflictError, NotFoundError, SettingError
from ds01_kernels.kernelspecs import (
    RESOURCES,
    install,
    installed,
    project_spec,
    remove,
    spec_json,
    with_projects,
)
from ds01_kernels.projects import Project, Projects, discover


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    folder = tmp_path.resolve() / "workspace"
    for name in ("alpha", "Beta"):
        make(folder / name)
    return folder


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    """A directory of installed kernels, with one for R."""
    folder = tmp_path / "kernels"
    write_spec(folder / "ir", argv=["R"], display_name="R", language="R")
    return folder


def make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "Dockerfile").write_text("FROM ds01/base\n")
    return folder


def write_spec(folder: Path, **spec: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(spec))
    return folder


class Looks:
    """Discovers, and counts how often it was asked to."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.count = 0

    def __call__(self) -> Projects:
        self.count += 1
        return discover([self.workspace])


def specs_of(
    kernels: Path,
    find: Callable[[], Projects],
    parent: type[KernelSpecManager] = KernelSpecManager,
    **traits: Any,
) -> KernelSpecManager:
    return with_projects(parent, find)(kernel_dirs=[str(kernels)], **traits)


def test_every_project_has_a_kernel_beside_the_others(workspace: Path, kernels: Path) -> None:
    specs = specs_of(kernels, Looks(workspace))
    plain = KernelSpecManager(kernel_dirs=[str(kernels)])
    assert specs.find_kernel_specs() == {
        **plain.find_kernel_specs(),
        "ds01-alpha": str(RESOURCES),
        "ds01-beta": str(RESOURCES),
    }
    listed = specs.get_all_specs()
    assert set(listed) == {"python3", "ir", "ds01-alpha", "ds01-beta"}
    assert {name: listed[name] for name in ("python3", "ir")} == plain.get_all_specs()
    assert listed["ds01-beta"] == {
        "resource_dir": str(RESOURCES),
        "spec": specs.get_kernel_spec("ds01-beta").to_dict(),
    }


def test_a_live_spec_says_what_jupyter_and_the_provisioner_need(workspace: Path, kernels: Path) -> None:
    spec = specs_of(kernels, Looks(workspace)).get_kernel_spec("DS01-Beta")
    assert spec.argv[0] == "/usr/bin/python"
    assert "{connection_file}" in spec.argv
    assert spec.display_name == "Beta (container)"
    assert (spec.name, spec.language, spec.interrupt_mode) == ("ds01-beta", "python", "signal")
    assert spec.metadata["kernel_provisioner"] == {
        "provisioner_name": "ds01-provisioner",
        "config": {"project": "Beta"},
    }
    assert spec.metadata["ds01"] == {"project": "Beta", "path": str(workspace / "Beta")}
    assert (spec.metadata["debugger"], spec.metadata["supported_encryption"]) == (True, ["curve"])
    json.dumps(spec.to_dict())


def test_a_listing_looks_once_however_many_projects(workspace: Path, kernels: Path) -> None:
    for number in range(298):
        make(workspace / f"project-{number}")
    find = Looks(workspace)
    assert len(specs_of(kernels, find).get_all_specs()) == 302
    assert find.count == 1


def test_projects_come_and_go_between_two_questions(workspace: Path, kernels: Path) -> None:
    specs = specs_of(kernels, Looks(workspace))
    assert "ds01-new" not in specs.get_all_specs()
    make(workspace / "new")
    assert "ds01-new" in specs.get_all_specs()
    assert specs.get_kernel_spec("ds01-new").display_name == "new (container)"
    shutil.rmtree(workspace / "new")
    with pytest.raises(NoSuchKernel):
        specs.get_kernel_spec("ds01-new")
    assert "ds01-new" not in specs.find_kernel_specs()


def test_kernels_of_others_are_found_without_a_look(workspace: Path, kernels: Path) -> None:
    find = Looks(workspace)
    specs = specs_of(kernels, find)
    assert specs.get_kernel_spec("ir").argv == ["R"]
    assert specs.get_kernel_spec("python3").language == "python"
    with pytest.raises(NoSuchKernel):
        specs.get_kernel_spec("julia")
    assert find.count == 0


def test_a_live_spec_hides_an_installed_one(workspace: Path, kernels: Path) -> None:
    write_spec(kernels / "ds01-Alpha", argv=["old"], display_name="old", language="python")
    specs = specs_of(kernels, Looks(workspace))
    assert specs.find_kernel_specs()["ds01-alpha"] == str(RESOURCES)
    assert specs.get_all_specs()["ds01-alpha"]["spec"]["display_name"] == "alpha (container)"
    assert specs.get_kernel_spec("ds01-alpha").display_name == "alpha (container)"
    assert [name.lower() for name in specs.get_all_specs()].count("ds01-alpha") == 1


def test_an_installed_spec_without_a_project_stays(workspace: Path, kernels: Path) -> None:
    place = write_spec(kernels / "ds01-gone", argv=["x"], display_name="gone", language="python")
    specs = specs_of(kernels, Looks(workspace))
    assert specs.find_kernel_specs()["ds01-gone"] == str(place)
    assert specs.get_all_specs()["ds01-gone"]["spec"]["display_name"] == "gone"
    assert specs.get_kernel_spec("ds01-gone").display_name == "gone"


def test_the_list_of_allowed_kernels_holds_for_projects(workspace: Path, kernels: Path) -> None:
    specs = specs_of(kernels, Looks(workspace), allowed_kernelspecs={"ir", "ds01-beta"})
    assert set(specs.find_kernel_specs()) == set(specs.get_all_specs()) == {"ir", "ds01-beta"}
    specs.get_kernel_spec("ds01-beta")
    with pytest.raises(NoSuchKernel):
        specs.get_kernel_spec("ds01-alpha")


def test_configuration_of_the_parent_class_still_counts(workspace: Path, kernels: Path) -> None:
    class Configured(KernelSpecManager):
        pass

    config = Config()
    config.KernelSpecManager.ensure_native_kernel = False
    config.Configured.allowed_kernelspecs = {"ds01-alpha"}
    specs = with_projects(Configured, Looks(workspace))(config=config, kernel_dirs=[str(kernels)])
    assert isinstance(specs, Configured)
    assert set(specs.get_all_specs()) == {"ds01-alpha"}


def test_a_parent_that_finds_kernels_its_own_way_keeps_them(workspace: Path, kernels: Path) -> None:
    class Elsewhere(KernelSpecManager):
        def find_kernel_specs(self) -> dict[str, str]:
            return {"far": "/far", "ds01-alpha": "/stale"}

        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            if kernel_name not in self.find_kernel_specs():
                raise NoSuchKernel(kernel_name)
            return KernelSpec(display_name=f"far {kernel_name}")

        def get_all_specs(self) -> dict[str, Any]:
            found = {name: self.get_kernel_spec(name) for name in self.find_kernel_specs()}
            return {name: {"resource_dir": "/far", "spec": spec.to_dict()} for name, spec in found.items()}

    find = Looks(workspace)
    specs = specs_of(kernels, find, parent=Elsewhere)
    listed = {name: found["spec"]["display_name"] for name, found in specs.get_all_specs().items()}
    assert listed == {
        "far": "far far",
        "ds01-alpha": "alpha (container)",
        "ds01-beta": "Beta (container)",
    }
    assert find.count == 1
    assert specs.get_kernel_spec("far").display_name == "far far"


def test_a_failing_listing_leaves_no_trace(workspace: Path, kernels: Path) -> None:
    class Failing(KernelSpecManager):
        def get_all_specs(self) -> dict[str, Any]:
            raise OSError("the disk is gone")

    specs = specs_of(kernels, Looks(workspace), parent=Failing)
    with pytest.raises(OSError, match="disk"):
        specs.get_all_specs()
    assert "ds01-alpha" in specs.find_kernel_specs()


def test_a_second_wrapping_replaces_the_look_and_nests_nothing(workspace: Path, kernels: Path) -> None:
    once = with_projects(KernelSpecManager, Looks(workspace / "nowhere"))
    specs = specs_of(kernels, Looks(workspace), parent=once)
    assert {"ds01-alpha", "ds01-beta"} <= set(specs.get_all_specs())


def test_a_class_that_asks_another_server_is_refused() -> None:
    with pytest.raises(SettingError, match="another server"):
        with_projects(GatewayKernelSpecManager, lambda: discover([]))


def test_a_wrong_setting_does_not_take_the_other_kernels_away(
    kernels: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def find() -> Projects:
        raise SettingError("The workspace is not a path.", remedy="Correct it.")

    specs = specs_of(kernels, find)
    specs.log.propagate = True
    assert "ir" in specs.get_all_specs()
    assert "The workspace is not a path. Correct it." in caplog.text


def test_a_rejected_project_says_why_in_the_log(
    workspace: Path, kernels: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(workspace / "beta")
    specs = specs_of(kernels, Looks(workspace))
    specs.log.propagate = True
    assert "ds01-beta" not in specs.get_all_specs()
    with pytest.raises(NoSuchKernel):
        specs.get_kernel_spec("ds01-beta")
    assert "share its image and its kernel" in caplog.text


def test_a_live_spec_cannot_be_removed_but_an_installed_one_can(workspace: Path, kernels: Path) -> None:
    place = write_spec(kernels / "ds01-gone", argv=["x"], display_name="gone", language="python")
    specs = specs_of(kernels, Looks(workspace))
    with pytest.raises(ConflictError, match=str(workspace / "alpha")):
        specs.remove_kernel_spec("ds01-alpha")
    assert (RESOURCES / "logo-svg.svg").is_file()
    assert specs.remove_kernel_spec("ds01-gone") == str(place)
    assert not place.exists()


def test_jupyter_server_finds_the_icons(workspace: Path, kernels: Path) -> None:
    class Handler:
        base_url = "/user/"

    found = specs_of(kernels, Looks(workspace)).get_all_specs()["ds01-alpha"]
    model = kernelspec_model(Handler(), "ds01-alpha", found["spec"], found["resource_dir"])
    icons = {"logo-32x32": "png", "logo-64x64": "png", "logo-svg": "svg"}
    assert model["resources"] == {
        name: f"/user/kernelspecs/ds01-alpha/{name}.{kind}" for name, kind in icons.items()
    }
    assert (RESOURCES / "logo-32x32.png").read_bytes().startswith(b"\x89PNG")


class TestInstalled:
    @pytest.fixture
    def alpha(self, workspace: Path) -> Project:
        return discover([workspace]).get("alpha")

    def test_an_installed_spec_is_the_live_one(self, alpha: Project, kernels: Path) -> None:
        place = install(alpha, kernels_dir=kernels)
        assert place == kernels / "ds01-alpha"
        read = KernelSpec.from_resource_dir(str(place))
        assert read.to_dict() == project_spec(alpha).to_dict() == KernelSpec(**spec_json(alpha)).to_dict()
        assert sorted(os.listdir(place)) == [
            "kernel.json",
            "logo-32x32.png",
            "logo-64x64.png",
            "logo-svg.svg",
        ]
        assert KernelSpecManager(kernel_dirs=[str(kernels)]).find_kernel_specs()["ds01-alpha"] == str(place)

    def test_others_may_read_it(self, alpha: Project, kernels: Path) -> None:
        before = os.umask(0o022)
        try:
            place = install(alpha, kernels_dir=kernels / "system" / "kernels")
        finally:
            os.umask(before)
        assert place.stat().st_mode & 0o777 == 0o755
        assert (place / "kernel.json").stat().st_mode & 0o777 == 0o644

    def test_installing_twice_renews_and_leaves_nothing_else(self, alpha: Project, kernels: Path) -> None:
        place = install(alpha, kernels_dir=kernels)
        spec = json.loads((place / "kernel.json").read_text())
        (place / "kernel.json").write_text(json.dumps({**spec, "display_name": "outdated"}))
        install(alpha, kernels_dir=kernels)
        assert json.loads((place / "kernel.json").read_text()) == spec
        assert sorted(os.listdir(kernels)) == ["ds01-alpha", "ir"]
        assert installed(kernels) == ("ds01-alpha",)

    def test_installing_at_the_same_time(self, alpha: Project, kernels: Path) -> None:
        failures: list[BaseException] = []

        def work() -> None:
            try:
                for _ in range(10):
                    install(alpha, kernels_dir=kernels)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert sorted(os.listdir(kernels)) == ["ds01-alpha", "ir"]

    def test_removing(self, alpha: Project, kernels: Path) -> None:
        place = install(alpha, kernels_dir=kernels)
        assert remove("Alpha", kernels_dir=kernels) == place
        assert os.listdir(kernels) == ["ir"]
        assert installed(kernels) == ()
        with pytest.raises(NotFoundError, match="'alpha'"):
            remove("alpha", kernels_dir=kernels)

    @pytest.mark.parametrize(
        "text",
        [
            None,
            "",
            "not json",
            "[]",
            '{"metadata": 1}',
            '{"metadata": {"kernel_provisioner": "ds01-provisioner"}}',
            '{"metadata": {"kernel_provisioner": {"provisioner_name": "local-provisioner"}}}',
            "[" * 100_000,
        ],
    )
    def test_what_is_not_ours_is_left_alone(self, alpha: Project, kernels: Path, text: str | None) -> None:
        place = kernels / "ds01-alpha"
        place.mkdir()
        if text is not None:
            (place / "kernel.json").write_text(text)
        for work in (
            lambda: install(alpha, kernels_dir=kernels),
            lambda: remove("alpha", kernels_dir=kernels),
        ):
            with pytest.raises(ConflictError, match="left alone"):
                work()
        assert (place / "kernel.json").exists() is (text is not None)
        assert sorted(os.listdir(kernels)) == ["ds01-alpha", "ir"]
        assert installed(kernels) == ()

    def test_no_link_is_followed(self, alpha: Project, kernels: Path, tmp_path: Path) -> None:
        elsewhere = install(alpha, kernels_dir=tmp_path / "elsewhere")
        (kernels / "ds01-alpha").symlink_to(elsewhere)
        (kernels / "ds01-beta").mkdir()
        (kernels / "ds01-beta" / "kernel.json").symlink_to(elsewhere / "kernel.json")
        os.makedirs(kernels / "ds01-pipe")
        os.mkfifo(kernels / "ds01-pipe" / "kernel.json")
        for name in ("alpha", "beta", "pipe"):
            with pytest.raises(ConflictError):
                remove(name, kernels_dir=kernels)
        with pytest.raises(ConflictError):
            install(alpha, kernels_dir=kernels)
        assert (elsewhere / "kernel.json").is_file()
        assert installed(kernels) == ()

    def test_a_link_inside_a_spec_of_ours_is_removed_and_not_followed(
        self, alpha: Project, kernels: Path, tmp_path: Path
    ) -> None:
        precious = tmp_path / "precious"
        precious.mkdir()
        (precious / "data").write_text("")
        (install(alpha, kernels_dir=kernels) / "link").symlink_to(precious)
        remove("alpha", kernels_dir=kernels)
        assert (precious / "data").is_file()

    @pytest.mark.parametrize("name", ["", "..", "../ir", "a/b", "a\0b"])
    def test_a_name_cannot_lead_elsewhere(self, kernels: Path, name: str) -> None:
        with pytest.raises(BadProjectNameError):
            remove(name, kernels_dir=kernels)
        assert os.listdir(kernels) == ["ir"]

    def test_a_missing_directory_holds_nothing(self, tmp_path: Path) -> None:
        assert installed(tmp_path / "nowhere") == ()
