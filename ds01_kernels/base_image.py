"""The local base image: a Debian that is built here, for machines that reach no image registry.

In it apt works, ``/usr/bin/python`` and pip are there, and the CA certificates of this host are trusted, so
that ``RUN pip install`` and ``RUN apt-get install`` work behind a proxy that re-signs TLS too.

`build_base_image` is the flow: a root file system from mmdebstrap (where that is missing: from an image
registry), made an image, and a small build on top of it with the host's certificates.
"""

from __future__ import annotations

import argparse
import asyncio
import binascii
import hashlib
import os
import platform
import re
import secrets
import shutil
import signal
import ssl
import subprocess
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from ds01_kernels.engine import BuildRequest, ContainerSpec, Engine, ImageInfo
from ds01_kernels.errors import BadInputError, Ds01Error, EngineError, EngineTimeoutError

REFERENCE = "ds01/base:latest"
LABEL = "ds01-kernels.base"

Report = Callable[[str], None]

_PACKAGES = ("python3", "python3-pip", "python-is-python3", "ca-certificates", "libstdc++6")
_DEFAULT_SUITE = "bookworm"
_BUNDLE_IN_IMAGE = PurePosixPath("/etc/ssl/certs/ca-certificates.crt")
_BUNDLES_ON_HOST = (
    Path("/etc/ssl/certs/ca-certificates.crt"),  # Debian, Ubuntu, Arch
    Path("/etc/pki/tls/certs/ca-bundle.crt"),  # Fedora, RHEL
    Path("/etc/ssl/ca-bundle.pem"),  # openSUSE
    Path("/etc/ssl/cert.pem"),  # Alpine, macOS
)
_DEBOOTSTRAP_LIMIT = 1800.0
_BUILD_LIMIT = 1200.0


async def build_base_image(
    engine: Engine, reference: str = REFERENCE, *, suite: str | None = None, report: Report
) -> ImageInfo:
    """Build the base image under `reference` and return it; `report` is called with each line of progress.

    `suite` is Debian's name of a release; by default this host's own where it is Debian. Takes about a minute
    and 600 MB of temporary files, which are removed however it ends. Raises `BadInputError` for a bad suite
    or an unreadable ``SSL_CERT_FILE``, `Ds01Error` when no root file system can be made here, and what the
    engine raises.
    """
    suite = _checked_suite(suite or _host_suite())
    wanted = await asyncio.to_thread(host_certificates)
    bootstrap = f"ds01/base-bootstrap:{secrets.token_hex(6)}"
    with TemporaryDirectory(prefix="ds01-base-") as name:
        directory = Path(name)
        try:
            if shutil.which("mmdebstrap"):
                await _from_mmdebstrap(engine, bootstrap, suite, directory, report)
            else:
                await _from_registry(engine, bootstrap, suite, directory, report)
            extra = wanted - await _certificates_in(engine, bootstrap)
            report(f"Adding {len(extra)} CA certificate(s) of this host that Debian does not carry.")
            context = _write_context(directory / "context", extra)
            request = BuildRequest(context, _dockerfile(bootstrap), reference, labels={LABEL: "1"})
            await _build(engine, request, report)
        finally:
            await engine.remove_image(bootstrap)
    image = await engine.image(reference)
    if image is None:
        raise EngineError(f"The engine built {reference} and does not have it.", remedy="Try again.")
    return image


def _dockerfile(bootstrap: str) -> str:
    # As files of /usr/local/share/ca-certificates they survive the next upgrade of Debian's ca-certificates.
    return f"""\
FROM {bootstrap}
COPY certificates/ /usr/local/share/ca-certificates/
RUN update-ca-certificates
ENV LANG=C.UTF-8 \\
    PIP_CERT={_BUNDLE_IN_IMAGE} \\
    REQUESTS_CA_BUNDLE={_BUNDLE_IN_IMAGE} \\
    SSL_CERT_FILE={_BUNDLE_IN_IMAGE}
CMD ["bash"]
"""


# --- the root file system -------------------------------------------------------------------------


async def _from_mmdebstrap(
    engine: Engine, reference: str, suite: str, directory: Path, report: Report
) -> None:
    archive = directory / "root.tar"
    sources = await asyncio.to_thread(host_sources, suite)
    options = [
        "--variant=apt",
        f"--mode={'root' if os.geteuid() == 0 else 'unshare'}",
        "--format=tar",
        f"--include={','.join(_PACKAGES)}",
    ]
    try:
        await _run_mmdebstrap([*options, "--", suite, str(archive), *sources], report)
    except Ds01Error:
        # The host's own sources can be out of reach or signed with a key that Debian does not know.
        if not sources:
            raise
        report("That did not work with this host's apt sources; trying Debian's own.")
        await _run_mmdebstrap([*options, "--", suite, str(archive)], report)
    report("Importing the root file system.")
    await engine.import_image(archive, reference)


async def _from_registry(engine: Engine, reference: str, suite: str, directory: Path, report: Report) -> None:
    report("mmdebstrap is not installed; trying an image registry.")
    context = directory / "registry"
    context.mkdir()
    dockerfile = (
        f"FROM debian:{suite}-slim\n"
        f"RUN apt-get update && apt-get install -y --no-install-recommends {' '.join(_PACKAGES)}"
        " && rm -rf /var/lib/apt/lists/*\n"
    )
    try:
        await _build(engine, BuildRequest(context, dockerfile, reference, pull=True), report)
    except EngineError as error:
        raise Ds01Error(
            "There is nothing to build a base image from: mmdebstrap is not installed, and from an image "
            f"registry it failed ({error}).",
            remedy="Install mmdebstrap (on Debian and Ubuntu: `apt-get install mmdebstrap "
            "debian-archive-keyring`) and try again.",
        ) from error


async def _build(engine: Engine, request: BuildRequest, report: Report) -> None:
    steps = engine.build(request)
    try:
        async with asyncio.timeout(_BUILD_LIMIT):
            async for progress in steps:
                for line in filter(None, map(_printable, progress.log.splitlines())):
                    report(line)
    except TimeoutError:
        raise EngineTimeoutError(
            f"Building {request.tag} took longer than {_BUILD_LIMIT:.0f} s.", remedy="Try again."
        ) from None
    finally:
        if isinstance(steps, AsyncGenerator):
            await steps.aclose()


async def _run_mmdebstrap(arguments: list[str], report: Report, limit: float = _DEBOOTSTRAP_LIMIT) -> None:
    report(f"mmdebstrap {' '.join(arguments)}")
    process = await asyncio.create_subprocess_exec(
        "mmdebstrap",
        *arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        limit=2**20,
    )
    assert process.stderr is not None
    tail: deque[str] = deque(maxlen=12)
    try:
        async with asyncio.timeout(limit):
            async for raw in process.stderr:
                line = _printable(raw.decode(errors="replace"))
                tail.append(line)
                report(line)
            code = await process.wait()
    except TimeoutError:
        raise Ds01Error(
            f"mmdebstrap took longer than {limit:.0f} s.", remedy="Look at the network and try again."
        ) from None
    finally:
        if process.returncode is None:
            await _end(process)
    if code != 0:
        raise Ds01Error(
            f"mmdebstrap failed with exit code {code}: {_cause(tail)}",
            remedy="The suite must be one of Debian's, and a Debian mirror in reach.",
        )


def _cause(lines: Iterable[str]) -> str:
    """Of the last lines of a log: the first error, which those after it follow from, or the last line."""
    said = [line.strip() for line in lines if line.strip()]
    errors = [line.removeprefix("E:").strip() for line in said if line.startswith("E:")]
    return next(iter([*errors, *reversed(said)]), "it said nothing.")


async def _end(process: asyncio.subprocess.Process, grace: float = 30.0) -> None:
    """End mmdebstrap and its children; on SIGTERM it unmounts and removes its own temporary directory."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), grace)
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def host_sources(suite: str) -> list[str]:
    """The lines of a ``sources.list`` for `suite`, from this host's own; empty: use Debian's own.

    Left out is what must not or could not work in an image: credentials, which every user of the engine could
    read there; mirrors on the loopback address; and third parties' archives.
    """
    form = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(SOURCESENTRY)|$(ORIGIN)"
    try:
        listed = subprocess.run(
            ["apt-get", "indextargets", "--format", form, "Created-By: Packages"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    lines = list(dict.fromkeys(filter(None, (_source_line(row, suite) for row in listed.splitlines()))))
    return lines if any(f" {suite} main" in line for line in lines) else []


def _source_line(row: str, suite: str) -> str:
    uri, _, rest = row.partition("|")
    release, component, entry, origin = (*rest.split("|"), "", "", "", "")[:4]
    where = urlsplit(uri)
    ours = (
        component == "main"
        and release in (suite, f"{suite}-updates", f"{suite}-security", f"{suite}/updates")
        and Path(entry.rpartition(":")[0]).name in ("sources.list", "debian.sources")
        # Apt knows the origin only after an `apt-get update`, and prints the field's name until then.
        and origin in ("Debian", "", "$(ORIGIN)")
    )
    host = where.hostname or ""
    reachable = (
        where.scheme in ("http", "https")
        and bool(host)
        and host not in ("localhost", "::1")
        and not host.startswith("127.")
    )
    plain = where.username is None and not where.query and not re.search(r"[\s\[\]]", uri)
    return f"deb {uri} {release} {component}" if ours and reachable and plain else ""


def _host_suite() -> str:
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return _DEFAULT_SUITE
    return (
        release.get("VERSION_CODENAME", _DEFAULT_SUITE) if release.get("ID") == "debian" else _DEFAULT_SUITE
    )


def _checked_suite(suite: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9.-]*", suite):
        raise BadInputError(f"{suite!r} is no name of a Debian release.", remedy="Use one like bookworm.")
    return suite


# --- certificates ---------------------------------------------------------------------------------


def host_certificates() -> frozenset[bytes]:
    """The CA certificates (DER) that this host trusts, from ``SSL_CERT_FILE`` or the system's bundle."""
    named = os.environ.get("SSL_CERT_FILE")
    if named:
        try:
            return certificates_of(Path(named).read_bytes())
        except OSError as error:
            raise BadInputError(
                f"SSL_CERT_FILE names {named}, which cannot be read ({error.strerror}).",
                remedy="Correct the variable or unset it.",
            ) from error
    for bundle in _BUNDLES_ON_HOST:
        try:
            return certificates_of(bundle.read_bytes())
        except OSError:
            continue
    return frozenset()


def certificates_of(bundle: bytes) -> frozenset[bytes]:
    """The certificates (DER) in PEM text. Whatever else stands there, such as a private key, is left out."""
    blocks = re.findall(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----", bundle)
    return frozenset(filter(None, (_der(block) for block in blocks)))


def _der(block: bytes) -> bytes:
    try:
        return binascii.a2b_base64(block)
    except binascii.Error:
        return b""


async def _certificates_in(engine: Engine, reference: str) -> frozenset[bytes]:
    name = f"ds01-base-{secrets.token_hex(6)}"
    container = await engine.create(ContainerSpec(name=name, image=reference, entrypoint=("true",)))
    try:
        bundle = await engine.read_file(container.id, _BUNDLE_IN_IMAGE)
    finally:
        await engine.remove(container.id)
    return certificates_of(bundle or b"")


def _write_context(directory: Path, certificates: Iterable[bytes]) -> Path:
    folder = directory / "certificates"
    folder.mkdir(parents=True)
    for der in certificates:
        # update-ca-certificates wants one certificate a file, named .crt.
        name = f"host-{hashlib.sha256(der).hexdigest()[:16]}.crt"
        (folder / name).write_text(ssl.DER_cert_to_PEM_cert(der), encoding="ascii")
    return directory


def _printable(text: str) -> str:
    without_colours = re.sub(r"\x1b\[[0-9;]*m", "", text)
    return "".join(c for c in without_colours.rstrip() if c.isprintable() or c == "\t")


# --- the thin command -----------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    """Build the local base image, with progress on standard error."""
    parser = argparse.ArgumentParser(prog="python -m ds01_kernels.base_image", description=main.__doc__)
    parser.add_argument("--reference", default=REFERENCE, help="the image's name (default: %(default)s)")
    parser.add_argument("--suite", help="Debian's release (default: this host's, or bookworm)")
    parser.add_argument("--if-missing", action="store_true", help="do nothing when the image exists")
    options = parser.parse_args(argv)
    try:
        return asyncio.run(_command(options.reference, options.suite, options.if_missing))
    except Ds01Error as error:
        _say(error.sentence)
    except (KeyboardInterrupt, asyncio.CancelledError):
        _say("Cancelled.")
    return 1


async def _command(reference: str, suite: str | None, if_missing: bool) -> int:
    from ds01_kernels.engine.docker import DockerEngine

    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    engine = DockerEngine()
    try:
        if if_missing and await engine.image(reference) is not None:
            return 0
        image = await build_base_image(engine, reference, suite=suite, report=_say)
        _say(f"{reference} is ready: {image.size / 1e6:.0f} MB, {image.id}")
    finally:
        await engine.close()
    return 0


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
