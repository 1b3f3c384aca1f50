"""Lets the broker's JVM start from an archive of its loaded classes: 3.6 s of CPU instead of 6.2.

The first broker that stops cleanly on a machine writes the archive on its way out (Java's dynamic
class data sharing); every later start of any stack maps it. Without it a start is only slower.
"""

import hashlib
import os
import subprocess
from pathlib import Path

from infra.guard import guarded

CHECK_TIMEOUT_S = 20
QUIET = ("-Xlog:disable", "-Xlog:all=error:stderr")
"""The JVM warns about each of the old classes that it leaves out of an archive."""


def archive_options(java: str, jars: Path) -> list[str]:
    """JVM options that use the archive, or else write it when the process ends.

    The process itself must become the JVM: its pid names the file that it writes.
    """
    archive = archive_of(java, jars)
    if not archive.exists():
        _adopt_a_finished_one(java, jars, archive)
    if archive.exists():
        return [f"-XX:SharedArchiveFile={archive}", *QUIET]
    return [f"-XX:ArchiveClassesAtExit={archive}.{os.getpid()}", *QUIET]


def archive_of(java: str, jars: Path) -> Path:
    """Where the archive for this very Java and these jars is kept."""
    program = Path(java).resolve()
    identity = f"{program} {program.stat().st_mtime_ns}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return jars.with_name(f"{jars.name}-{digest}.jsa")


def _adopt_a_finished_one(java: str, jars: Path, archive: Path) -> None:
    """Rename what an earlier broker wrote into place if it is whole; delete it if it is not.

    A JVM that was killed leaves half an archive, and a JVM that maps half an archive crashes:
    so it is tried by a JVM that does nothing else.
    """
    for written in archive.parent.glob(f"{archive.name}.*"):
        if _runs(int(written.suffix[1:])):
            continue  # this broker is alive, perhaps just writing it
        command = [java, f"-XX:SharedArchiveFile={written}", "-Xshare:on", "-XX:+UseSerialGC"]
        command += ["-XX:-CreateCoredumpOnCrash", "-XX:ErrorFile=/dev/null", "-cp", f"{jars}/*"]
        try:
            tried = subprocess.run(  # noqa: S603 - a path that `which` found
                guarded([*command, "-version"]),
                capture_output=True,
                timeout=CHECK_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            continue
        if tried.returncode == 0:
            written.replace(archive)
            return
        written.unlink(missing_ok=True)


def _runs(pid: int) -> bool:
    """Whether a process with this pid runs, whosever it is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
