"""Print the oldest versions that pyproject.toml allows, as constraints for pip.

python -m tools.oldest > oldest.txt
"""

import tomllib

from packaging.requirements import Requirement

from tools import notebooks


def constraints() -> list[str]:
    """Return ``name==version`` for the lower bound of every dependency, the extras' included."""
    text = (notebooks.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    lines = set()
    for line in sum(project["optional-dependencies"].values(), project["dependencies"]):
        requirement = Requirement(line)
        [bound] = [each.version for each in requirement.specifier if each.operator == ">="]
        lines.add(f"{requirement.name}=={bound}")
    return sorted(lines)


if __name__ == "__main__":
    print("\n".join(constraints()))
