"""The admin's options: what cannot be used is a sentence wherever somebody asks; the page that lists them.

``DS01_WRITE_DOCS=1 pytest tests/test_options.py`` writes ``docs/configuration.md``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from traitlets.config import Config

from ds01_kernels.configuration import Source
from ds01_kernels.errors import SettingError
from ds01_kernels.names import CONTAINER, IMAGE, Names, parse_container_name, parse_image_name
from ds01_kernels.options import Options, described, usable
from ds01_kernels.projects import Project, discover
from ds01_kernels.setting_values import shown
from ds01_kernels.settings import KEYS
from ds01_kernels.workbench import Workbench

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "configuration.md"


# Names


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        (IMAGE, "ds01-7/thesis:latest"),
        ("ds01-{uid}/{project}", "ds01-7/thesis:latest"),
        ("lab/{project}-{uid}:v1", "lab/thesis-7:v1"),
        ("registry.lab:5000/{uid}/{project}", "registry.lab:5000/7/thesis:latest"),
        ("{project}:{uid}", "thesis:7"),
    ],
)
def test_image_names(pattern: str, name: str) -> None:
    parsed = parse_image_name("k", pattern)
    assert Names(image=parsed).of_image("Thesis", 7) == name
    assert Project("Thesis", Path("/w/Thesis"), Path("/w"), Names(image=parsed)).image_name(7) == name


@pytest.mark.parametrize("pattern", [CONTAINER, "x{project}", "lab.{project}-{uid}", "{uid}_{project}_"])
def test_container_names(pattern: str) -> None:
    name = Names(container=parse_container_name("k", pattern)).of_container("Thesis", 7)
    assert name == pattern.replace("{project}", "thesis").replace("{uid}", "7")


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("ds01/latest", "lacks {project}"),
        ("", "lacks {project}"),
        ("ds01/{project}", "lacks {uid}"),
        ("ds01-{uid}:{project}", "in its tag only"),
        ("ds01-{uid}/{project}@sha256:abc", "does not take"),
        ("DS01-{uid}/{project}", "does not take"),
        ("ds01-{uid}/ {project}", "does not take"),
        ("-{uid}/{project}", "does not take"),
        ("ds01-{uid}//{project}", "does not take"),
        ("../{uid}/{project}", "does not take"),
        ("ds01-{uid}/{project}:", "does not take"),
        ("ds01-{uid}/{project}:a b", "does not take"),
        ("ds01-{uid}/{project}\n", "does not take"),
        ("ds01-{uid}/{project", "lacks {project}"),
        ("ds01-{uid}/{project}}", "does not take"),
        ("ds01-{uid}/{project.__class__}/{project}", "{project.__class__} is none of"),
        ("ds01-{uid}/{project}/{user}", "{user} is none of"),
        ("Ünï-{uid}/{project}", "does not take"),
        ("\x1b[31m{uid}/{project}", "does not take"),
        ("x" * 1_000_000 + "{project}", "characters; 120 is the most"),
    ],
    ids=lambda text: text[:30],
)
def test_image_names_that_cannot_be_used(pattern: str, said: str) -> None:
    refused(parse_image_name, pattern, said)


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("{uid}", "lacks {project}"),
        # Docker wants two characters, and a project's name may have one.
        ("{project}", "does not take"),
        ("-{project}", "does not take"),
        ("._.{project}", "does not take"),
        ("a/{project}", "does not take"),
        ("{project} {uid}", "does not take"),
        ("{project}\n", "does not take"),
        ("{project}{uid!r}", "{uid!r} is none of"),
        ("{}{project}", "{} is none of"),
        ("{project}ü", "does not take"),
    ],
)
def test_container_names_that_cannot_be_used(pattern: str, said: str) -> None:
    refused(parse_container_name, pattern, said)


def refused(parse: Any, pattern: str, said: str) -> None:
    with pytest.raises(SettingError) as refusal:
        parse("Workbench.x in /etc/c.py", pattern)
    assert str(refusal.value).startswith("Workbench.x in /etc/c.py ")
    assert said in str(refusal.value)
    assert refusal.value.remedy
    assert refusal.value.sentence.isprintable()
    assert len(refusal.value.sentence) < 500


def test_projects_are_called_by_the_patterns(tmp_path: Path) -> None:
    for name in ("Alpha", "beta"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "Dockerfile").write_text("FROM x")
    found = discover([tmp_path], Names("lab-{uid}/{project}:dev", "{project}-{uid}"))
    assert [(one.image_name(7), one.container_name(7)) for one in found.projects] == [
        ("lab-7/alpha:dev", "alpha-7"),
        ("lab-7/beta:dev", "beta-7"),
    ]


# Values


#: Of every option, values that it cannot have. Each is what a configuration file could hold.
BAD: dict[str, tuple[Any, ...]] = {
    "workspaces": (3, [3], ["a\0b"]),
    "image_name": (3, "", "x", "{project}"),
    "container_name": (None, "", "x", "a b{project}"),
    "allow_host_kernels": ("maybe", 2, None),
    "orphan_grace": (-1, float("nan"), float("inf"), 1e300, 10**400, "30", True, None),
    "idle_stop": (-0.1, float("nan"), float("inf"), 1e300, "x", True),
    "spare_kernels": (-1, 17, 1.5, "2", True),
    "exclusive_gpus": ("maybe", 2, None),
    "deploy_command": (3, None, "no-such-command", "/etc/passwd", "a\0b", "x" * 100_000),
    "retire_command": (3, None, "no-such-command", "/etc", "\0"),
    "deploy_timeout": (float("nan"), float("inf"), 0, "x"),
    "deploy_events": (3, None, "/var/\0"),
    "build_timeout": (float("nan"), float("inf"), -1, "x"),
    "engine": (3, "", "kubernetes", "Docker", None),
    "room_timeout": (float("nan"), float("inf"), -1, "x"),
    "engines_allowed": (3, ["kubernetes"], [3]),
    "swarm_constraints": (3, ["room==2"], ["node.labels.room"], ["node.room==2"], ["node.id==a b"], [3]),
    "swarm_registry": (3, None, "http://a:5000", "a b", "registry.lab:5000/", "x@sha256:1", "a/B"),
    "swarm_nodes": (
        *([1], {"n2": 1}, {"n2": "n2"}, {"n2": "tcp://n2"}, {"n2": "http://n2:2375"}, {"n2": "ssh://-oX=1"}),
        *({"n2": "unix://a"}, {"n2": "ssh://n2/a b"}, {"n2": "tcp://n2:2376\n"}, {"n2": ""}),
    ),
    "swarm_gpu": (3, "", "a b", "x" * 200, "GPU=1"),
    "swarm_certificates": (3, None, "certs", "/a\0b"),
    "engine_timeout": (0, float("nan"), float("inf"), -1, "x"),
    "pass_variables": (3, [3], [None]),
    "variables": ([1], {"A": 1}, {1: "A"}, {"A=B": "x"}, {"A": "\0"}),
    "memory": (3, "much", "-1g", "1m", "9" * 100_000 + "g"),
    "max_memory": (3, "much", "1"),
    "cpus": (-1, float("nan"), float("inf"), 1e-9, 1e300, "x", True),
    "max_cpus": (-1, float("nan"), 1e-9, 10**400),
    "shm_size": (3, "much"),
    "max_shm_size": (3, "much"),
    "gpus": (3, "some", "GPU-x;y"),
    "max_gpus": (-2, 1.5, "x", True),
    "pids_limit": (-1, 1.5, 10**5000, True),
    "mounts": (3, ["x"], [3], ["/a:/workspace"], ["/a:/b", "/c:/b"]),
    "network": (3, "container:x", "a b", "-x"),
    "python": (3, "python", "/a/../b", "/a b"),
    "build_args": ([1], {"A": 1}, {"A B": "x"}),
    "build_secrets": ([1], {"pip": 1}, {"a b": "/x"}, {"pip": "x"}, {"pip": "/a,b"}),
    "project_settings": (3, [3], ["no-such"], ["image_name"], ["idle_stop"]),
}


def test_every_option_is_tried() -> None:
    assert set(BAD) == set(Options.class_trait_names(config=True)), "a new option needs bad values here"


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in BAD for value in BAD[name]], ids=shown)
def test_a_bad_value_is_a_sentence_with_key_and_file(name: str, value: Any, tmp_path: Path) -> None:
    file = tmp_path / "jupyter_ds01_config.py"
    file.write_text(f"c.Workbench.{name} = ...\n")
    with pytest.raises(SettingError) as refusal:
        loaded({name: value}, Source((str(file),))).check()
    assert str(refusal.value).startswith(f"Workbench.{name} in {file} ")
    assert refusal.value.remedy
    assert refusal.value.sentence.isprintable()
    assert len(refusal.value.sentence) < 500


def loaded(values: dict[str, Any], source: Source) -> Options:
    config = Config()
    for name, value in values.items():
        config.Workbench[name] = value
    kept, problems = usable(config, source)
    options = Options(config=Config(Options=kept.Workbench))
    options.source, options.problems = source, problems
    return options


def test_good_values_are_kept_beside_a_bad_one() -> None:
    options = loaded({"cpus": "x", "memory": "2g", "idle_stop": 60}, Source())
    assert (options.cpus, options.memory, options.idle_stop) == (0.0, "2g", 60.0)
    assert list(options.problems) == ["cpus"]


def test_the_defaults_can_be_used() -> None:
    options = Options()
    options.check()
    assert options.names == Names()


def test_an_unknown_option_is_no_option() -> None:
    """A limit with a typing error in its name would be no limit."""
    with pytest.raises(SettingError, match=r"^Workbench\.max_memroy is not a setting\. *") as refusal:
        loaded({"max_memroy": "2g"}, Source()).check()
    assert refusal.value.remedy == "Did you mean Workbench.max_memory?"


def test_the_file_that_counts_is_named(tmp_path: Path) -> None:
    first, second, gone = tmp_path / "first.py", tmp_path / "second.json", tmp_path / "gone.py"
    first.write_text("c.Workbench.memory_of_mine = 1\nc.ServerApp.cpus = 3\n")
    second.write_text('{"Workbench": {"cpus": "x", "memory": 3}}')
    source = Source((str(gone), str(first), str(second)))
    assert source.where("cpus") == f"Workbench.cpus in {first}"
    assert source.where("memory") == f"Workbench.memory in {second}"
    assert source.where("gpus") == "Workbench.gpus"


# The workbench


@pytest.fixture
def configuration(workspace: Path) -> Any:
    """Writes ``jupyter_ds01_config.py`` and opens a workbench with it."""

    def write(text: str) -> Workbench:
        file = Path(os.environ["JUPYTER_CONFIG_DIR"]) / "jupyter_ds01_config.py"
        file.write_text(f"c = get_config()\n{text}\n")
        Workbench.clear_instance()
        return Workbench.open()

    yield write
    if Workbench.initialized():
        Workbench.instance().close()
    Workbench.clear_instance()


def test_a_workbench_opens_with_any_configuration_and_starts_nothing(
    configuration: Any, workspace: Path
) -> None:
    (workspace / "p").mkdir()
    (workspace / "p" / "Dockerfile").write_text("FROM x")
    workbench = configuration("c.Workbench.cpus = 'x'")
    project = workbench.projects().get("p")
    with pytest.raises(SettingError, match=r"^Workbench\.cpus in .*/jupyter_ds01_config\.py is 'x'"):
        workbench.settings(project)

    workbench = configuration("c.Workbench.workspaces = 7")
    with pytest.raises(SettingError, match=r"^Workbench\.workspaces in "):
        workbench.projects()
    workbench = configuration("c.Workbench.cpus = = 1")
    with pytest.raises(SettingError, match=r"jupyter_ds01_config\.py"):
        workbench.projects()

    workbench = configuration("c.Workbench.container_name = 'x'")
    assert workbench.projects().get("p").container_name(7) == "p._.7"
    with pytest.raises(SettingError, match=r"^Workbench\.container_name in .* lacks \{project\}"):
        workbench.settings(project)

    workbench = configuration(
        "c.Workbench.container_name = 'x-{project}'\nc.Workbench.mounts.append('/a:/b')"
    )
    assert workbench.projects().get("p").container_name(7) == "x-p"
    assert [str(mount.target) for mount in workbench.settings(project).mounts] == ["/b"]


# The page


def page() -> str:
    options = sorted(described(), key=lambda one: ORDER.index(one[0]) if one[0] in ORDER else 99)
    rows = [f"| `{name}` | {kind} | `{default!r}` | {text} |" for name, kind, default, text in options]
    keys = [
        f"| `{name}` | {key.kind} | {'yes' if key.open else 'if listed'} | {key.help} |"
        for name, key in KEYS.items()
    ]
    return TEMPLATE.format(options="\n".join(rows), keys="\n".join(keys))


#: As a reader looks for them; others come last.
ORDER = (
    *("workspaces", "allow_host_kernels", "orphan_grace", "idle_stop", "pass_variables"),
    *(
        "memory",
        "max_memory",
        "cpus",
        "max_cpus",
        "shm_size",
        "max_shm_size",
        "gpus",
        "max_gpus",
        "exclusive_gpus",
    ),
    *("pids_limit", "mounts", "variables", "network", "python", "build_args", "build_secrets"),
    "project_settings",
    *("image_name", "container_name", "engine", "engines_allowed"),
    *("engine_timeout", "build_timeout", "room_timeout"),
    *("swarm_registry", "swarm_nodes", "swarm_certificates", "swarm_gpu", "swarm_constraints"),
)

TEMPLATE = """\
# Configuration

Made from the options themselves by `DS01_WRITE_DOCS=1 pytest tests/test_options.py`: change them in
`ds01_kernels/options.py` and `ds01_kernels/settings.py`, not here.

## The administrator's options

In `jupyter_config.py` or `jupyter_ds01_config.py`, in any of Jupyter's configuration directories
(`jupyter --paths`), as in `c.Workbench.memory = "16g"`. The server, the command line and headless clients all
read them; the command line also takes `--Workbench.memory=16g`. While one of them cannot be used, or has a
name that is none of these, no kernel of a project starts, and its notebook says which one and in which file.

| option | type | default | |
| --- | --- | --- | --- |
{options}

Sizes are written as in `'512m'` or `'1.5g'`. Options of containers that are changed hold from the next
container on: one that runs is replaced when no kernel runs in it.

## What a project may set

In the table `[tool.ds01]` of `pyproject.toml` in the project's folder, as in

```toml
[tool.ds01]
memory = "8g"
gpus = 1
```

It can be written from inside the container, so a project never gets more than `max_memory`, `max_cpus`,
`max_shm_size`, `max_gpus` and `pids_limit` allow, and may set only what `project_settings` lists.

| key | type | may be set | |
| --- | --- | --- | --- |
{keys}

This guards against a project that nobody has read, not against its user: whoever may talk to the Docker
daemon can do anything on the machine.
"""


def test_the_page_says_what_the_options_say() -> None:
    if os.environ.get("DS01_WRITE_DOCS"):
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page(), (
        "DS01_WRITE_DOCS=1 pytest tests/test_options.py brings the page up to date"
    )
    assert "(docs/configuration.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
