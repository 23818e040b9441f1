"""Rehearse Colab: a fresh environment with its packages, the notebooks as they are.

    python -m tools.colab

The setup cell of the first notebook installs the library as in Colab, from the tag of the release;
git is told to find that tag in a copy of this repository. Everything runs outside the repository,
with the smoke profile. What Colab had installed must be the same afterwards.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tools import notebooks
from tools.copies import copied

PACKAGES = notebooks.ROOT / "tools" / "colab.txt"
RELEASED = ("cifar_utils", "pyproject.toml", "README.md", "LICENSE")


def call(*command: str | Path, folder: Path, environment: Mapping[str, str] | None = None) -> str:
    """Run a command in a folder and return its output; where it fails, exit with all it printed."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def release(folder: Path) -> dict[str, str]:
    """Make a repository with the release's tag; return the variables that make git use it."""
    folder.mkdir()
    copied(RELEASED, folder)
    project = notebooks.project()
    who = ("-c", "user.name=Release", "-c", "user.email=release@example.org")
    for arguments in (
        ("init", "--quiet"),
        ("add", "--all"),
        (*who, "commit", "--quiet", "--message", "Release"),
        ("tag", f"v{project['version']}"),
    ):
        call("git", *arguments, folder=folder)
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{folder.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": project["urls"]["Repository"],
    }


def environment(folder: Path) -> Path:
    """Make an environment with the packages of Colab and return its folder of commands."""
    call(notebooks.ROOT / "tools" / "venv.sh", folder, folder=notebooks.ROOT)
    python = folder / "bin" / "python"
    install = (sys.executable, "-m", "uv", "pip", "install", "--system-certs", "--quiet")
    call(*install, "--python", python, "--requirement", PACKAGES, folder=folder)
    # By this module, which Colab imports into every kernel, a notebook knows where it is.
    site = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(call(python, "-c", site, folder=folder).strip())
    (packages / "google" / "colab").mkdir(parents=True)
    (packages / "google" / "colab" / "__init__.py").touch()
    (packages / "colab.pth").write_text("import google.colab\n", encoding="utf-8")
    return folder / "bin"


def installed(commands: Path) -> dict[str, str]:
    """Return the versions of all packages in an environment, by name."""
    lines = call(
        commands / "python", "-m", "pip", "list", "--format=freeze", folder=commands
    ).split()
    return dict(line.split("==") for line in lines)


def main() -> int:
    """Run every notebook as in Colab; return 1 if that changed a package of Colab."""
    folder = notebooks.ROOT / "build" / "colab"
    shutil.rmtree(folder, ignore_errors=True)
    content = folder / "content"
    content.mkdir(parents=True)
    started = time.perf_counter()
    git = release(folder / "release")
    commands = environment(folder / "environment")
    before = installed(commands)
    print(f"{len(before)} packages, {time.perf_counter() - started:.0f} s")
    variables = os.environ | notebooks.smoke_environment(folder) | git
    for path in notebooks.course():
        started = time.perf_counter()
        shutil.copy(path, content)
        call(commands / "jupyter-execute", path.name, folder=content, environment=variables)
        print(f"{path.name}: {time.perf_counter() - started:.0f} s", flush=True)
    after = installed(commands)
    print(f"installed: {', '.join(sorted(set(after) - set(before)))}")
    for name, version in before.items():
        if after.get(name) != version:
            print(f"REPLACED: {name} {version} by {after.get(name, 'nothing')}")
    kept = "keras", "tensorflow_cpu", "numpy"
    print(f"as before: {', '.join(f'{name} {after[name]}' for name in kept)}")
    return int(any(after.get(name) != version for name, version in before.items()))


if __name__ == "__main__":
    sys.exit(main())
