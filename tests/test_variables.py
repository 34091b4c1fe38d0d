"""What a kernel gets of the server's variables."""

from __future__ import annotations

from pathlib import Path

from ds01_kernels.variables import NEVER, select, without_credentials


def test_nothing_that_is_not_listed_passes() -> None:
    offered = {"SECRET_TOKEN": "x", "AWS_SECRET_ACCESS_KEY": "x", "JUPYTER_TOKEN": "x", "LANG": "de_DE.UTF-8"}
    assert select(offered).plain == {"LANG": "de_DE.UTF-8"}


def test_tokens_of_jupyter_pass_only_when_named() -> None:
    offered = {"JPY_API_TOKEN": "x", "JPY_SESSION_NAME": "/n.ipynb"}
    assert select(offered).plain == {"JPY_SESSION_NAME": "/n.ipynb"}
    assert select(offered, named=["JPY_API_TOKEN"]).plain == offered


def test_the_default_list() -> None:
    offered = {
        "LC_ALL": "C",
        "TZ": "UTC",
        "TERM": "xterm",
        "HTTPS_PROXY": "http://p:1",
        "no_proxy": "localhost",
    }
    assert select(offered).plain == offered


def test_what_describes_the_host_never_passes_even_when_named() -> None:
    offered = dict.fromkeys(NEVER, "x")
    assert select(offered, named=["*"]).plain == {}


def test_patterns_of_the_settings_and_names_of_the_kernelspec_pass() -> None:
    offered = {"WANDB_MODE": "offline", "WANDBX": "no", "MINE": "1"}
    assert select(offered, named=["WANDB_*", "MINE"]).plain == {"WANDB_MODE": "offline", "MINE": "1"}


def test_the_index_loses_its_credentials() -> None:
    found = select({"PIP_INDEX_URL": "https://user:pa%40ss@index.example/simple"})
    assert found.plain == {"PIP_INDEX_URL": "https://index.example/simple"}
    assert without_credentials("https://index.example:8443/a?b#c") == "https://index.example:8443/a?b#c"


def test_certificates_are_offered_apart() -> None:
    found = select({"SSL_CERT_FILE": "/etc/ca.pem", "PIP_CERT": "/etc/ca.pem"})
    assert found.plain == {}
    assert found.files == {"SSL_CERT_FILE": "/etc/ca.pem", "PIP_CERT": "/etc/ca.pem"}


def test_the_notebooks_name_is_a_path_of_the_container() -> None:
    project = Path("/home/me/workspace/thesis")
    inside = select({"JPY_SESSION_NAME": "/home/me/workspace/thesis/a b/n.ipynb"}, project=project)
    assert inside.plain == {"JPY_SESSION_NAME": "/workspace/a b/n.ipynb"}
    outside = select({"JPY_SESSION_NAME": "/home/me/n.ipynb"}, project=project)
    assert outside.plain == {"JPY_SESSION_NAME": "/home/me/n.ipynb"}
