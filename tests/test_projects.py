from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ds01_kernels.errors import BadInputError, BadProjectNameError, NoSuchProjectError
from ds01_kernels.projects import Project, RejectedProject, discover, suggested_name, valid_name

# Docker's rule for a reference without a host: https://github.com/distribution/reference/blob/main/regexp.go
IMAGE = re.compile(
    r"(?P<name>[a-z0-9]+(?:(?:[._]|__|-*)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-*)[a-z0-9]+)*)*):\w[\w.-]{0,127}",
    re.ASCII,
)
# https://github.com/moby/moby/blob/master/daemon/names/names.go
CONTAINER = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
# jupyter_client.kernelspec, here without its re.IGNORECASE.
KERNEL = re.compile(r"[a-z0-9._\-]+")


def reads_everything() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        closed = Path(folder) / "closed"
        closed.touch(mode=0o000)
        return os.access(closed, os.R_OK)


needs_permissions = pytest.mark.skipif(reads_everything(), reason="root may read everything")


def make(folder: Path, text: str = "FROM ds01/base\n") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Dockerfile").write_text(text)
    return folder


def names(found: tuple[Project, ...] | tuple[RejectedProject, ...]) -> list[str]:
    return [one.name for one in found]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace below a folder of its own, so that there is an outside to lead to."""
    folder = tmp_path.resolve() / "workspace"
    folder.mkdir()
    return folder


class TestNames:
    @given(st.one_of(st.text(max_size=120), st.from_regex(r"[A-Za-z0-9._ -]{1,110}", fullmatch=True)))
    @example("Thesis")
    @example("a" * 100)
    @example("a__b---c.d_e")
    def test_an_accepted_name_satisfies_docker_and_jupyter(self, name: str) -> None:
        try:
            valid_name(name)
        except BadProjectNameError:
            return
        project = Project(name, Path("/w") / name, Path("/w"))
        image = project.image_name(4294967294)
        match = IMAGE.fullmatch(image)
        assert match
        assert len(match["name"]) <= 255
        assert CONTAINER.fullmatch(project.container_name(4294967294))
        assert KERNEL.fullmatch(project.kernel_name)
        assert project.container_name(7).split("._.") == [name.lower(), "7"]

    @given(st.text(st.characters(codec=None, categories=["Lu", "Nd", "Zs", "Cc", "Cf", "Cs", "Pd"])))
    def test_a_refusal_can_be_shown_anywhere(self, name: str) -> None:
        with pytest.raises(BadProjectNameError) as refusal:
            valid_name(f"{name} ")
        assert refusal.value.sentence.isprintable()
        assert refusal.value.sentence.endswith(".")

    @pytest.mark.parametrize(
        "name",
        ["thesis", "Thesis", "7", "a.b", "a_b", "a__b", "a-b", "a-----b", "my.data-set_2__x", "a" * 100],
    )
    def test_what_docker_takes_is_accepted(self, name: str) -> None:
        valid_name(name)

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("", "empty"),
            ("a" * 101, "101 characters"),
            ("my thesis", "' '"),
            ("thèse", "beyond a to z"),
            ("\u212aelvin", "beyond a to z"),
            ("-a", "begin and end"),
            (".a", "begin and end"),
            ("a-", "begin and end"),
            ("a.", "begin and end"),
            ("a_", "begin and end"),
            ("a..b", "in a row"),
            ("a___b", "in a row"),
            ("a._b", "in a row"),
            ("a-_b", "in a row"),
            ("../etc", "'/'"),
            ("a\n", r"'\n'"),
            ("a\x1b[31m", r"'\x1b'"),
            ("a:b", "':'"),
        ],
    )
    def test_what_docker_refuses_is_refused_with_the_reason(self, name: str, says: str) -> None:
        with pytest.raises(BadProjectNameError) as refusal:
            valid_name(name)
        assert says in str(refusal.value)
        assert refusal.value.sentence.isprintable()

    @given(st.text(max_size=150))
    @example("My Thèsis (2024)")
    def test_a_suggestion_is_a_valid_name(self, name: str) -> None:
        if suggestion := suggested_name(name):
            valid_name(suggestion)

    def test_a_refusal_suggests_a_name(self) -> None:
        with pytest.raises(BadProjectNameError) as refusal:
            valid_name("My Thèsis (2024)")
        assert "'My-Thesis-2024'" in refusal.value.remedy

    def test_names_of_one_project(self) -> None:
        project = Project("Thesis", Path("/w/Thesis"), Path("/w"))
        assert project.kernel_name == "ds01-thesis"
        assert project.image_name(1000) == "ds01-1000/thesis:latest"
        assert project.container_name(1000) == "thesis._.1000"
        assert project.dockerfile == Path("/w/Thesis/Dockerfile")


class TestDiscovery:
    def test_folders_with_a_dockerfile_are_projects(self, workspace: Path) -> None:
        make(workspace / "beta")
        make(workspace / "Alpha")
        make(workspace / ".hidden")
        make(workspace / "beta" / "nested")
        (workspace / "notes").mkdir()
        (workspace / "Dockerfile").write_text("FROM x")
        found = discover([workspace])
        assert found.projects == (
            Project("Alpha", workspace / "Alpha", workspace),
            Project("beta", workspace / "beta", workspace),
        )
        assert (found.rejected, found.notices) == ((), ())

    def test_three_hundred_projects(self, workspace: Path) -> None:
        for number in range(300):
            make(workspace / f"project-{number:03}")
        found = discover([workspace])
        assert names(found.projects) == [f"project-{number:03}" for number in range(300)]
        with pytest.raises(NoSuchProjectError) as missing:
            found.get("proyect-217")
        assert "300 projects" in missing.value.remedy
        assert "project-217" in missing.value.remedy
        assert len(missing.value.sentence) < 500

    def test_a_workspace_that_does_not_exist_is_empty(self, tmp_path: Path) -> None:
        found = discover([tmp_path / "nowhere"])
        assert (found.projects, found.rejected, found.notices) == ((), (), ())

    def test_a_workspace_that_is_no_folder_is_noticed(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        (tmp_path / "loop").symlink_to("loop")
        found = discover([tmp_path / "file", tmp_path / "loop"])
        assert found.projects == ()
        assert [str(tmp_path / "file") in found.notices[0], str(tmp_path / "loop") in found.notices[1]] == [
            True
        ] * 2

    @needs_permissions
    def test_an_unreadable_workspace_is_noticed_and_hides_no_other(
        self, tmp_path: Path, workspace: Path
    ) -> None:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o000)
        make(workspace / "alpha")
        found = discover([closed, workspace])
        assert names(found.projects) == ["alpha"]
        assert "Permission denied" in found.notices[0]

    @needs_permissions
    def test_a_folder_that_may_not_be_entered_is_passed_over_and_explained(self, workspace: Path) -> None:
        make(workspace / "closed").chmod(0o000)
        make(workspace / "alpha")
        found = discover([workspace])
        (workspace / "closed").chmod(0o700)
        assert (names(found.projects), found.rejected) == (["alpha"], ())

    def test_one_workspace_named_twice_counts_once(self, tmp_path: Path, workspace: Path) -> None:
        make(workspace / "alpha")
        (tmp_path / "same").symlink_to(workspace)
        found = discover([workspace, tmp_path / "same", f"{workspace}/../workspace/"])
        assert found.workspaces == (workspace,)
        assert names(found.projects) == ["alpha"]
        assert found.rejected == ()

    def test_the_home_directory_is_understood(self, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        make(workspace / "alpha")
        monkeypatch.setenv("HOME", str(workspace.parent))
        assert names(discover([Path("~/workspace")]).projects) == ["alpha"]

    @pytest.mark.parametrize("name", ["my thesis", "thèse", "-x", "a" * 101, "a..b", "bell\a"])
    def test_a_bad_name_is_reported(self, workspace: Path, name: str) -> None:
        make(workspace / name)
        found = discover([workspace])
        assert found.projects == ()
        (rejected,) = found.rejected
        assert rejected.path == workspace / name
        assert rejected.name.isprintable()
        assert isinstance(rejected.error, BadProjectNameError)
        assert rejected.error.sentence.isprintable()
        assert "Rename" in rejected.error.remedy
        with pytest.raises(BadProjectNameError):
            found.get(name)

    def test_a_name_that_is_no_text_is_reported(self, workspace: Path) -> None:
        os.mkdir(os.fsencode(workspace) + b"/\xff\xfe")
        Path(os.fsdecode(os.fsencode(workspace) + b"/\xff\xfe/Dockerfile")).write_text("")
        (rejected,) = discover([workspace]).rejected
        assert rejected.error.sentence.encode()

    def test_names_that_differ_in_capital_letters_are_reported_each(self, workspace: Path) -> None:
        make(workspace / "Thesis")
        make(workspace / "thesis")
        make(workspace / "other")
        (workspace / "THESIS").mkdir()
        found = discover([workspace])
        assert names(found.projects) == ["other"]
        assert names(found.rejected) == ["Thesis", "thesis"]
        assert str(workspace / "thesis") in str(found.rejected[0].error)
        assert str(workspace / "Thesis") in str(found.rejected[1].error)
        assert found.by_kernel_name("ds01-thesis") is None
        with pytest.raises(BadProjectNameError):
            found.get("thesis")

    def test_equal_names_in_three_workspaces_are_reported_each(self, tmp_path: Path) -> None:
        places = [make(tmp_path.resolve() / root / "alpha") for root in ("one", "two", "three")]
        found = discover([place.parent for place in places])
        assert found.projects == ()
        assert sorted(rejected.path for rejected in found.rejected) == sorted(places)
        for rejected in found.rejected:
            assert all(str(place) in str(rejected.error) for place in places)

    def test_a_rejected_folder_takes_no_name_from_a_good_one(self, tmp_path: Path) -> None:
        good = make(tmp_path.resolve() / "one" / "alpha")
        (tmp_path / "two" / "alpha" / "Dockerfile").mkdir(parents=True)
        found = discover([tmp_path / "one", tmp_path / "two"])
        assert found.get("alpha").path == good
        assert names(found.rejected) == ["alpha"]

    def test_a_workspace_inside_a_workspace_is_no_project(self, workspace: Path) -> None:
        make(make(workspace / "team") / "alpha")
        found = discover([workspace, workspace / "team"])
        assert names(found.projects) == ["alpha"]
        assert "itself a workspace" in str(found.rejected[0].error)


class TestSymlinks:
    def test_a_folder_that_leads_out_is_rejected(self, workspace: Path) -> None:
        outside = make(workspace.parent / "outside")
        (workspace / "sneaky").symlink_to(outside)
        found = discover([workspace])
        assert found.projects == ()
        assert found.rejected[0].path == workspace / "sneaky"
        assert "leads out of its workspace" in str(found.rejected[0].error)
        assert not isinstance(found.rejected[0].error, BadProjectNameError)

    def test_a_workspace_whose_name_begins_alike_is_outside(self, workspace: Path) -> None:
        make(workspace.parent / "workspace2" / "alpha")
        (workspace / "alpha").symlink_to("../workspace2/alpha")
        found = discover([workspace, workspace.parent / "workspace2"])
        assert "leads out" in str(found.rejected[0].error)
        assert found.get("alpha").workspace == workspace.parent / "workspace2"

    def test_a_second_name_for_a_project_is_rejected_and_the_project_is_not(self, workspace: Path) -> None:
        alpha = make(workspace / "alpha")
        (workspace / "alias").symlink_to("alpha")
        found = discover([workspace])
        assert names(found.projects) == ["alpha"]
        assert str(alpha) in str(found.rejected[0].error)

    def test_links_without_a_dockerfile_or_a_target_are_nothing(self, workspace: Path) -> None:
        (workspace.parent / "data").mkdir()
        (workspace / "data").symlink_to("../data")
        (workspace / "dangling").symlink_to("nowhere")
        (workspace / "loop").symlink_to("loop")
        (workspace / "file").symlink_to("/etc/passwd")
        found = discover([workspace])
        assert (found.projects, found.rejected, found.notices) == ((), (), ())

    def test_a_dockerfile_may_be_a_link_inside_the_project(self, workspace: Path) -> None:
        make(workspace / "alpha" / "docker")
        (workspace / "alpha" / "Dockerfile").symlink_to("docker/Dockerfile")
        assert names(discover([workspace]).projects) == ["alpha"]

    @pytest.mark.parametrize(
        ("target", "says"),
        [
            ("/etc/passwd", "leads out of the project"),
            ("../alpha2/Dockerfile", "leads out of the project"),
            ("nowhere", "leads nowhere"),
            ("Dockerfile", "cannot be read"),
            ("docker", "is a folder"),
        ],
    )
    def test_a_dockerfile_link_that_cannot_be_used_is_rejected(
        self, workspace: Path, target: str, says: str
    ) -> None:
        make(workspace / "alpha2")
        (workspace / "alpha" / "docker").mkdir(parents=True)
        (workspace / "alpha" / "Dockerfile").symlink_to(target)
        found = discover([workspace])
        assert names(found.projects) == ["alpha2"]
        assert says in str(found.rejected[0].error)

    def test_a_dockerfile_that_is_no_regular_file_is_rejected(self, workspace: Path) -> None:
        (workspace / "folder" / "Dockerfile").mkdir(parents=True)
        (workspace / "pipe").mkdir()
        os.mkfifo(workspace / "pipe" / "Dockerfile")
        found = discover([workspace])
        assert [str(rejected.error).split("' ")[1] for rejected in found.rejected] == [
            "is a folder.",
            "is not a regular file.",
        ]
        with pytest.raises(BadInputError, match="is a folder"):
            found.get("folder")

    @needs_permissions
    def test_an_unreadable_dockerfile_is_rejected(self, workspace: Path) -> None:
        (make(workspace / "alpha") / "Dockerfile").chmod(0o000)
        assert "permission denied" in str(discover([workspace]).rejected[0].error)


class TestLookUp:
    def test_by_name(self, workspace: Path) -> None:
        make(workspace / "Alpha")
        found = discover([workspace])
        assert found.get("Alpha").path == workspace / "Alpha"
        assert found.by_kernel_name("ds01-alpha") == found.by_kernel_name("DS01-Alpha") == found.get("Alpha")
        assert found.by_kernel_name("python3") is None
        with pytest.raises(NoSuchProjectError, match="no project 'alpha'") as missing:
            found.get("alpha")
        assert missing.value.remedy == "The projects are: Alpha."

    def test_a_folder_without_a_dockerfile_says_what_to_do(self, workspace: Path) -> None:
        (workspace / "beta").mkdir()
        with pytest.raises(NoSuchProjectError, match="it has no Dockerfile") as missing:
            discover([workspace]).get("beta")
        assert "jupyter ds01 init beta" in missing.value.remedy

    @needs_permissions
    def test_a_folder_that_may_not_be_entered_is_named(self, workspace: Path) -> None:
        make(workspace / "closed").chmod(0o000)
        with pytest.raises(NoSuchProjectError, match="permission denied"):
            discover([workspace]).get("closed")
        (workspace / "closed").chmod(0o700)

    def test_no_projects_at_all(self, workspace: Path) -> None:
        with pytest.raises(NoSuchProjectError) as missing:
            discover([workspace]).get("alpha")
        assert str(workspace) in missing.value.remedy
        assert "init" in missing.value.remedy

    @pytest.mark.parametrize("name", ["", ".", "..", "../outside", "/etc", "a\0b", "\x1b]0;x\a"])
    def test_a_name_that_is_no_folder_name_is_just_missing(self, workspace: Path, name: str) -> None:
        (workspace.parent / "outside").mkdir()
        with pytest.raises(NoSuchProjectError, match="no project") as missing:
            discover([workspace]).get(name)
        assert missing.value.sentence.isprintable()


class TestOwner:
    @pytest.fixture
    def alpha(self, workspace: Path) -> Path:
        make(workspace / "beta")
        return make(workspace / "alpha")

    @pytest.mark.parametrize("inside", [".", "sub/deeper", "not/there/yet", "nb.ipynb", "../beta/../alpha"])
    def test_what_lies_inside_belongs_to_the_project(self, workspace: Path, alpha: Path, inside: str) -> None:
        (alpha / "sub" / "deeper").mkdir(parents=True)
        owner = discover([workspace]).owner(alpha / inside)
        assert owner is not None
        assert owner.name == "alpha"

    def test_a_nested_folder_belongs_to_its_project(self, workspace: Path, alpha: Path) -> None:
        nested = make(alpha / "nested")
        owner = discover([workspace]).owner(nested)
        assert owner is not None
        assert owner.path == alpha

    @pytest.mark.parametrize("path", ["", "..", "alphabet", "plain", "alpha/../plain", "alpha/../../x"])
    def test_what_lies_elsewhere_belongs_to_none(self, workspace: Path, alpha: Path, path: str) -> None:
        (workspace / "plain").mkdir()
        assert discover([workspace]).owner(workspace / path) is None

    def test_links_count_where_they_lead_to(self, workspace: Path, alpha: Path) -> None:
        outside = workspace.parent / "outside"
        outside.mkdir()
        (alpha / "out").symlink_to(outside)
        (alpha / "across").symlink_to("../beta")
        (workspace / "alias").symlink_to("alpha")
        (outside / "back").symlink_to(alpha)
        (alpha / "loop").symlink_to("loop")
        found = discover([workspace])
        assert found.owner(alpha / "out" / "nb") is None
        assert found.owner(alpha / "across" / "nb") == found.get("beta")
        assert found.owner(workspace / "alias" / "nb") == found.get("alpha")
        assert found.owner(outside / "back") == found.get("alpha")
        assert found.owner(alpha / "out" / "..") is None
        assert found.owner(alpha / "loop" / "nb") == found.get("alpha")

    def test_a_workspace_reached_through_a_link(self, workspace: Path, alpha: Path) -> None:
        link = workspace.parent / "link"
        link.symlink_to(workspace)
        found = discover([link])
        assert found.get("alpha").path == alpha
        for path in (link / "alpha", alpha):
            assert found.owner(path) == found.get("alpha")

    def test_a_relative_path_counts_from_the_working_directory(
        self, workspace: Path, alpha: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(alpha)
        found = discover([workspace])
        assert found.owner("sub") == found.get("alpha")
        assert found.owner("../beta") == found.get("beta")

    def test_a_path_that_no_file_system_takes_belongs_to_none(self, workspace: Path, alpha: Path) -> None:
        assert discover([workspace]).owner(f"{alpha}/a\0b") is None

    def test_a_rejected_folder_owns_nothing_but_is_found(self, workspace: Path) -> None:
        folder = make(workspace / "my thesis")
        found = discover([workspace])
        assert found.owner(folder / "chapter") is None
        assert found.rejected_owner(folder / "chapter") == found.rejected[0]
        assert found.rejected_owner(workspace) is None
