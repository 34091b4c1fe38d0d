"""Kernels of jupyter_client's that need more than a kernel class, for the container's working folder."""

import os
import time

from tests.problemkernel import ProblemTestKernel


class ProblemKernel(ProblemTestKernel):
    """Ends with an error right after it was started, where the original does so while it starts."""

    def start(self):
        if os.environ.get("FAIL_ON_START") == "1":
            time.sleep(float(os.environ.get("STARTUP_DELAY", "0")))
            raise RuntimeError("Failed for testing purposes")
        super().start()
