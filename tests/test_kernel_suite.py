"""Jupyter's own test suite for kernels, against kernels in containers; and what else ipykernel does."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from jupyter_kernel_test import IopubWelcomeTests, KernelTests
from jupyter_kernel_test.msgspec_v5 import validate_message
from live import LIMIT, LiveKernel, Site, a_site, until
from unshared import make_container

pytestmark = pytest.mark.engine

#: Two projects: one whose image brings no ipykernel, so that the store serves; and one whose image does, and
#: whose container shares no directory with this machine, so that its channels are byte streams.
PLAIN, APART = (f"{name}-{secrets.token_hex(4)}" for name in ("plain", "apart"))


@pytest.fixture(scope="module", autouse=True)
def site(engine_available: None, ipykernel_image: str) -> Iterator[Site]:
    with a_site() as site:
        site.project(PLAIN, unique=False)
        make_container(site, site.project(APART, dockerfile=f"FROM {ipykernel_image}\n", unique=False))
        yield site


class TestWithTheStoresIpykernel(KernelTests):
    kernel_name = f"ds01-{PLAIN}"
    language_name = "python"
    file_extension = ".py"
    ipykernel_folder = "/opt/ds01/ipykernel/"

    code_hello_world = "print('hello, world')"
    code_stderr = "import sys; print('oops', file=sys.stderr)"
    completion_samples: ClassVar = [
        {"text": "zi", "matches": {"zip"}},
        {"text": "import os; os.getcw", "matches": {"getcwd", "getcwdb"}},
    ]
    complete_code_samples: ClassVar = ["1", "print('hello, world')", "def f(x):\n  return x*2\n\n\n", "%pwd"]
    incomplete_code_samples: ClassVar = ["print('''hello", "def f(x):\n  x*2", "for i in range(3):"]
    invalid_code_samples: ClassVar = ["import = 7q", "1 = 2"]
    code_page_something = "zip?"
    code_generate_error = "raise ValueError('on purpose')"
    code_execute_result: ClassVar = [
        {"code": "1+2+3", "result": "6"},
        {"code": "[n*n for n in range(1, 4)]", "result": "[1, 4, 9]"},
        {"code": "from IPython.display import HTML; HTML('<b>bold</b>')", "mime": "text/html"},
    ]
    code_display_data: ClassVar = [
        {"code": "from IPython.display import HTML, display; display(HTML('<b/>'))", "mime": "text/html"},
        {"code": "from IPython.display import Math, display; display(Math('1/2'))", "mime": "text/latex"},
    ]
    code_history_pattern = "1?2*"
    # In a range IPython calls the session that runs 0; the suite wants its number. See `test_history_range`.
    # https://github.com/ipython/ipython/blob/main/IPython/core/history.py, `_get_range_session`
    supported_history_operations = ("tail", "search")
    code_inspect_sample = "zip"
    code_clear_output = "from IPython.display import clear_output; clear_output()"

    def execute_helper(
        self,
        code: str,
        timeout: float = LIMIT,
        silent: bool = False,
        store_history: bool = True,
        stop_on_error: bool = True,
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """As the suite has it, with the same checks, but patient: it allows 0.1 s for an output."""
        request = self.kc.execute(
            code, silent=silent, store_history=store_history, stop_on_error=stop_on_error
        )
        reply = self.get_non_kernel_info_reply(timeout=timeout)
        assert reply is not None
        validate_message(reply, "execute_reply", request)
        busy = self.kc.get_iopub_msg(timeout=timeout)
        validate_message(busy, "status", request)
        assert busy["content"]["execution_state"] == "busy"
        outputs = []
        while True:
            message = self.kc.get_iopub_msg(timeout=timeout)
            validate_message(message, message["msg_type"], request)
            if message["msg_type"] == "status":
                assert message["content"]["execution_state"] == "idle"
                return reply, outputs
            if message["msg_type"] == "execute_input":
                assert message["content"]["code"] == code
                continue
            outputs.append(message)

    @property
    def live(self) -> LiveKernel:
        self.flush_channels()
        return LiveKernel(self.km, self.kc)

    def test_runs_at_the_containers_python_with_the_expected_ipykernel(self) -> None:
        executable, module = self.live.run(
            "import sys, ipykernel; print(sys.executable, ipykernel.__file__)"
        ).split()
        assert executable == "/usr/bin/python"
        assert module.startswith(self.ipykernel_folder)

    def test_interrupt(self) -> None:
        live = self.live
        request = live.started("import time\nprint('begun', flush=True)\nwhile True: time.sleep(0.01)")
        self.km.interrupt_kernel()
        assert "KeyboardInterrupt" in live.outcome(request)[1]
        assert live.run("print('still here')") == "still here\n"

    def test_interrupt_ends_what_a_cell_waits_for(self) -> None:
        live = self.live
        request = live.started(
            "import subprocess; print('begun', flush=True); subprocess.run(['sleep', '1000'])"
        )
        self.km.interrupt_kernel()
        assert "KeyboardInterrupt" in live.outcome(request)[1]

    def test_stdin(self) -> None:
        live = self.live
        request = self.kc.execute("name = input('Your name? '); print(name[::-1])", allow_stdin=True)
        asked = self.kc.get_stdin_msg(timeout=LIMIT)
        assert (asked["msg_type"], asked["parent_header"]["msg_id"]) == ("input_request", request)
        assert asked["content"] == {"prompt": "Your name? ", "password": False}
        self.kc.input("Ada")
        assert live.outcome(request) == ("adA\n", "")

    def test_password(self) -> None:
        live = self.live
        request = self.kc.execute("import getpass; print(len(getpass.getpass('Key: ')))", allow_stdin=True)
        assert self.kc.get_stdin_msg(timeout=LIMIT)["content"] == {"prompt": "Key: ", "password": True}
        self.kc.input("secret")
        assert live.outcome(request) == ("6\n", "")

    def test_stdin_that_the_client_does_not_offer(self) -> None:
        live = self.live
        assert "StdinNotImplementedError" in live.outcome(self.kc.execute("input()", allow_stdin=False))[1]

    def test_history_range(self) -> None:
        self.flush_channels()
        first = self.execute_helper("6 * 7")[0]["content"]["execution_count"]
        reply = self.history_helper(
            ["7 * 6"], output=True, raw=True, hist_access_type="range", session=0, start=first, stop=first + 2
        )
        assert reply["content"]["history"] == [
            [0, first, ["6 * 7", "42"]],
            [0, first + 1, ["7 * 6", "42"]],
        ]

    def test_comm_info(self) -> None:
        self.flush_channels()
        request = self.kc.comm_info()
        reply = self.get_non_kernel_info_reply(timeout=LIMIT)
        assert reply is not None
        validate_message(reply, "comm_info_reply", request)

    def test_heartbeat(self) -> None:
        # Unpaused, it takes its own second or so to look for the first time.
        until(self.kc.hb_channel.is_beating)

    def test_control_is_answered_while_a_cell_runs(self) -> None:
        live = self.live
        request = live.started("import time\nprint('begun', flush=True)\nwhile True: time.sleep(0.01)")
        asked = self.kc.session.msg("kernel_info_request", {})
        self.kc.control_channel.send(asked)
        reply = self.kc.get_control_msg(timeout=LIMIT)
        validate_message(reply, "kernel_info_reply", asked["header"]["msg_id"])
        self.km.interrupt_kernel()
        live.outcome(request)

    def test_the_debugger_answers(self) -> None:
        self.flush_channels()
        arguments = {"type": "request", "command": "debugInfo", "seq": 1, "arguments": {}}
        self.kc.control_channel.send(self.kc.session.msg("debug_request", arguments))
        reply = self.kc.get_control_msg(timeout=LIMIT)
        assert reply["msg_type"] == "debug_reply"
        assert reply["content"]["success"]

    def test_shutdown_request(self) -> None:
        # A kernel whose cells have started processes gives them up to half a minute to end.
        self.km.restart_kernel(now=True)
        self.kc.wait_for_ready(timeout=LIMIT)
        self.kc.shutdown()
        reply = self.kc.get_control_msg(timeout=LIMIT)
        assert reply["msg_type"] == "shutdown_reply"
        assert reply["content"]["status"] == "ok"
        until(lambda: not self.km.is_alive())
        assert LiveKernel(self.km, self.kc).code == 0
        self.km.restart_kernel(now=True)
        self.kc.wait_for_ready(timeout=LIMIT)


class TestWithTheImagesIpykernelByStreams(TestWithTheStoresIpykernel):
    kernel_name = f"ds01-{APART}"
    ipykernel_folder = "/usr/local/lib/python3"

    def test_it_shares_no_directory(self) -> None:
        assert self.live.run("import os; print(os.path.exists('/run/ds01'))") == "False\n"


class TestIopubWelcome(IopubWelcomeTests):
    kernel_name = f"ds01-{PLAIN}"
    support_iopub_welcome = True


class TestIopubWelcomeByStreams(TestIopubWelcome):
    kernel_name = f"ds01-{APART}"


# The suite's own classes were imported, and pytest would collect them as tests of a kernel on the host.
del IopubWelcomeTests, KernelTests
