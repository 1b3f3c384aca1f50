"""Brings Apache Kafka's jars into a per-user cache, through Maven, once per version."""

import hashlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from infra.guard import guarded
from schemas.errors import ServerStartError

POM = Path(__file__).with_name("pom.xml")
KAFKA_VERSION = "4.4.0"
OLDEST_JAVA = 17
DOWNLOAD_TIMEOUT_S = 300

WAYS_TO_A_BROKER = (
    "there are three ways to a broker: set RENTROLL_KAFKA_BOOTSTRAP=host:port to use one that"
    " runs; start a container engine (Docker) and Rentroll uses Docker Compose; or install"
    f" Java {OLDEST_JAVA}+ and Maven (Debian: apt install openjdk-17-jre-headless maven,"
    " macOS: brew install openjdk maven)"
)


def default_cache() -> Path:
    """Where the jars are kept, named by what they were made from."""
    digest = hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    return Path.home() / ".cache" / "rentroll" / f"kafka-{KAFKA_VERSION}-{digest}"


def find_java() -> str:
    """The `java` command.

    Raises:
        ServerStartError: If there is none of version 17 or newer; names the ways to a broker.
    """
    java = shutil.which("java")
    if java is None:
        raise ServerStartError(f"a local Kafka needs Java, and there is none; {WAYS_TO_A_BROKER}")
    version = java_version(java)
    if version < OLDEST_JAVA:
        raise ServerStartError(
            f"a local Kafka needs Java {OLDEST_JAVA} or newer, {java} is {version or 'unknown'};"
            f" {WAYS_TO_A_BROKER}"
        )
    return java


def java_version(java: str) -> int:
    """Major version of a `java` command, 0 where it does not say."""
    try:
        said = subprocess.run(  # noqa: S603 - a path that `which` found
            [java, "-version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return parse_java_version(said.stderr + said.stdout)


def parse_java_version(text: str) -> int:
    """Major version out of `java -version`, 0 where there is none: `1.8.0_392` is 8."""
    found = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(found.group(1)) if found else 0


def fetch_jars(cache: Path | None = None) -> Path:
    """The folder with the jars, filled first where it is missing.

    The download goes to a folder of its own that is renamed into place: whoever sees the cache
    sees all of it, and of two that fetch at once one wins and both use its copy.

    Raises:
        ServerStartError: If Maven is missing or cannot fetch them.
    """
    home = cache or default_cache()
    if home.is_dir():
        return home
    maven = shutil.which("mvn")
    if maven is None:
        raise ServerStartError(
            f"a local Kafka needs Maven to fetch its jars, once, and there is no mvn;"
            f" {WAYS_TO_A_BROKER}"
        )
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix="fetching-") as folder:
        fetched = Path(folder) / "jars"
        _run_maven(maven, fetched)
        try:
            fetched.rename(home)
        except OSError:
            # Renaming onto a filled folder fails: another process was faster. Its copy is as good.
            if not home.is_dir():
                raise
    return home


def _run_maven(maven: str, folder: Path) -> None:
    """Copy the runtime jars into `folder`, in a copy of the pom so that nothing lands beside it."""
    pom = folder.with_name("pom.xml")
    pom.write_bytes(POM.read_bytes())
    command = [maven, "-q", "-B", "-f", str(pom), "dependency:copy-dependencies"]
    command += ["-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
    try:
        done = subprocess.run(  # noqa: S603 - a path that `which` found
            guarded(command),
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise ServerStartError(
            f"Maven did not fetch Kafka's jars in {DOWNLOAD_TIMEOUT_S} s; {WAYS_TO_A_BROKER}"
        ) from late
    if done.returncode != 0:
        lines = "\n".join(f"  {line}" for line in (done.stdout + done.stderr).splitlines()[-15:])
        raise ServerStartError(
            f"Maven could not fetch Kafka's jars ({WAYS_TO_A_BROKER}); it said:\n{lines}"
        )
