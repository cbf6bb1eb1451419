"""`python -m benchmarks.peers`: puts the other systems from PyPI into environments of their own.

Those from Debian's packages are looked for, and how they are installed is said.
"""

from __future__ import annotations

import shutil
import subprocess
import sys

from benchmarks.peers.catalog import ENVIRONMENTS, PEERS, Peer


def install(peer: Peer) -> str:
    """Makes its environment if there is none; what went wrong, or nothing."""
    if peer.python.exists():
        return ""
    directory = ENVIRONMENTS / peer.key
    pip = [str(peer.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in ([sys.executable, "-m", "venv", str(directory)], [*pip, peer.requirement]):
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            shutil.rmtree(directory, ignore_errors=True)  # half an environment is none
            return (done.stderr.strip() or "nothing said").splitlines()[-1]
    return ""


def main() -> int:
    """Returns the exit code: 0 if all are there."""
    lacking = sorted({peer.package for peer in PEERS if peer.lacks_program})
    failed = False
    for peer in PEERS:
        wrong = install(peer) if peer.requirement else ""
        failed = failed or bool(wrong)
        state = f"could not be installed: {wrong}" if wrong else "there" if not peer.missing else "not there"
        print(f"{peer.name}: {state}", flush=True)
    if lacking:
        print(f"On Debian: apt-get install {' '.join(lacking)}")
    return 1 if failed or lacking else 0


if __name__ == "__main__":
    sys.exit(main())
