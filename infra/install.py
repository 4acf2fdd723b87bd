"""Installs the pinned packages into a virtual environment, for `make install`. Needs the standard library only.

    python infra/install.py --environment .venv requirements.lock [requirements-dev.lock]

The interpreter that runs this file makes the environment. If all went well, `--stamp` names a file that gets the
closing line: interpreter, build of torch, number of packages.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# Settings of pip that say where packages come from, or how that place is reached. uv reads none of them.
PLACES = re.compile(r"(index-url|index|find-links|constraint|cert|proxy|proxies|trusted-host)=")
CUDA_PACKAGES = ("nvidia-", "cuda-", "triton")
LOOK = """
import json, sys
from importlib.metadata import PackageNotFoundError, distribution, distributions
try:
    torch = distribution("torch")
except PackageNotFoundError:
    torch = None
print(json.dumps({
    "python": ".".join(map(str, sys.version_info[:3])),
    "base": sys._base_executable,
    "packages": len({found.metadata["Name"] for found in distributions()}),
    "torch": torch and torch.version,
    "needs": [need for need in (torch and torch.requires) or [] if "extra" not in need],
}))
"""


class InstallError(Exception):
    """What went wrong and what to do."""


class Environment:
    """A virtual environment, and the program that installs into it."""

    def __init__(self, folder: Path, installer: str):
        self.folder = folder
        self.python = folder / "bin/python"
        if not self.python.exists():
            print(f"Python {sys.version.split()[0]} ({sys.executable}) makes the environment {folder}", flush=True)
            run([sys.executable, "-m", "venv", str(folder)])
        self.uv, self.may_fall_back = self._uv(installer)

    def look(self) -> dict:
        """What is installed: versions of Python and torch, what torch needs, the number of packages."""
        done = subprocess.run([self.python, "-c", LOOK], check=True, capture_output=True, text=True)
        return json.loads(done.stdout)

    def install(self, *arguments: str) -> None:
        """Install by `pip install` or `uv pip install` with these arguments. Raises InstallError."""
        if self.uv:
            try:
                return run([self.uv, "pip", "install", "--quiet", "--python", str(self.python), *arguments])
            except InstallError:
                if not self.may_fall_back:
                    raise
                print("uv failed; pip goes on", flush=True)
                self.uv = ""
        return run([str(self.python), "-m", "pip", "install", "--quiet", *arguments])

    def _uv(self, installer: str) -> tuple[str, bool]:
        """The path of uv, empty for pip; and whether pip takes over if it fails.

        Unless asked for, uv is taken only where pip has no settings that uv would have to know too.
        """
        found = shutil.which("uv") or ""
        if installer == "uv" and not found:
            raise InstallError("INSTALLER=uv: there is no uv on PATH; install it, or leave INSTALLER out")
        if installer != "auto" or not found:
            return (found if installer == "uv" else ""), False
        settings = subprocess.run([self.python, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
        if PLACES.search(settings):
            print(
                "uv is there, but pip has settings of its own (pip config list), which uv does not read: pip installs"
            )
            return "", False
        return found, True


def run(command: list[str]) -> None:
    """Run a command whose output is shown. Raises InstallError."""
    if code := subprocess.run(command).returncode:
        raise InstallError(f"{' '.join(command)} ended with exit code {code}")


def has_cuda(found: dict) -> bool:
    """Whether torch's build needs CUDA's packages on this kind of machine."""
    linux = sys.platform == "linux"
    return linux and any(need.lower().startswith(CUDA_PACKAGES) for need in found["needs"])


def pinned_torch(locks: list[Path]) -> str:
    """The line of torch in the lock files, such as "torch==2.13.0"; empty if none has one."""
    lines = (line.strip() for lock in locks for line in lock.read_text(encoding="utf-8").splitlines())
    return next((line for line in lines if line.startswith("torch==")), "")


def install_torch(environment: Environment, pin: str, build: str, index: str) -> None:
    """Install torch before the rest: a looser requirement of another package could select a different build.

    build: "cpu" takes it from `index`, an address or a folder of wheels without CUDA; "" takes what pip finds.
    """
    found = environment.look()
    if build not in ("", "cpu"):
        raise InstallError(f"TORCH={build}: only cpu is known; leave TORCH out for the build that PyPI has")
    if build == "cpu" and found["torch"]:
        if has_cuda(found):
            raise InstallError(
                f"TORCH=cpu: {environment.folder} has a build of torch with CUDA already; remove it first: "
                f"rm -r {environment.folder}"
            )
    elif build == "cpu":
        try:
            place = ("--no-index", "--find-links", index) if Path(index).is_dir() else ("--index-url", index)
            environment.install("--no-deps", *place, pin)
        except InstallError as error:
            raise InstallError(
                f"TORCH=cpu: no {pin} from {index} ({error}); another place that has it: "
                "TORCH_INDEX=address, or TORCH_INDEX=folder of wheels"
            ) from None
        if has_cuda(environment.look()):
            raise InstallError(f"TORCH=cpu: {index} gave a build with CUDA; name one without it: TORCH_INDEX=address")
    else:
        if not found["torch"] and sys.platform == "linux" and not Path("/proc/driver/nvidia").exists():
            print(
                "No NVIDIA GPU found. Without one, TORCH=cpu (make run TORCH=cpu) spares CUDA's gigabytes", flush=True
            )
        environment.install(pin)


def main() -> int:
    """Returns 0, or 2 if something could not be installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("locks", nargs="+", type=Path)
    parser.add_argument("--environment", type=Path, required=True)
    parser.add_argument("--torch", default="", help="cpu: the build without CUDA, from --torch-index")
    parser.add_argument("--torch-index", default=CPU_INDEX)
    parser.add_argument("--installer", choices=("auto", "pip", "uv"), default="auto")
    parser.add_argument("--stamp", type=Path)
    options = parser.parse_args()
    try:
        environment = Environment(options.environment, options.installer)
        found = environment.look()
        asked = ".".join(map(str, sys.version_info[:2]))
        if not found["python"].startswith(f"{asked}."):
            raise InstallError(
                f"{environment.folder} is of Python {found['python']}, not {asked}; to change it, remove it first: "
                f"rm -r {environment.folder}"
            )
        names = " ".join(map(str, options.locks))
        program = "uv" if environment.uv else "pip"
        print(f"Installing {names} into {environment.folder} with {program} (minutes the first time)", flush=True)
        if pin := pinned_torch(options.locks):
            install_torch(environment, pin, options.torch, options.torch_index)
        environment.install(*(part for lock in options.locks for part in ("--requirement", str(lock))))
        # setuptools is pinned like the rest: nothing is fetched to build the project itself.
        environment.install("--no-deps", "--no-build-isolation", "--editable", ".")
    except InstallError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = environment.look()
    line = f"Python {found['python']} ({found['base']}), torch {found['torch']}, {found['packages']} packages"
    print(line)
    if options.stamp:
        options.stamp.write_text(f"{line}\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
