"""Writes artifacts.toml anew: resolves the roots with jgo, downloads every file once and pins its sha256.

Run `python -m deploy.local.pin` after a change of roots or leave_out. Nothing else uses it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deploy.local.artifacts import PINS, Artifact, Pinned, pinned, sha256_of
from downriver.output import say


def coordinates_of(group: Pinned) -> list[str]:
    """Return the coordinates, with classifier and packaging, of all files that the roots of `group` need.

    Each root is resolved by itself, and the first to bring a library says its version: resolved together, jgo would
    let the BOM of a later root (log4j's) change the versions that the first (Kafka) was tested with.
    """
    from jgo.maven import MavenContext

    context = MavenContext()
    found: dict[tuple[str, str], str] = {}
    for root in group.roots:
        group_id, name = root.split(":")[:2]
        if root.count(":") > 2:
            found[group_id, name] = root
            continue
        inputs, others = context.resolver.resolve([context.create_dependency(root)])
        for one in (*inputs, *others):
            if f"{one.groupId}:{one.artifactId}" not in group.leave_out:
                coordinates = f"{one.groupId}:{one.artifactId}:{one.version}:{one.classifier}:{one.type}"
                found.setdefault((one.groupId, one.artifactId), coordinates)
    return sorted(found.values())


def pin(coordinates: str) -> Artifact:
    """Download one file into the Maven cache, trusting what the repository serves today, and hash it."""
    from jgo.maven import MavenContext

    wanted = Artifact.parse(coordinates, "")
    component = MavenContext().project(wanted.group, wanted.name).at_version(wanted.version)
    path = Path(component.artifact(classifier=wanted.classifier, packaging=wanted.packaging).resolve())
    return Artifact.parse(coordinates, sha256_of(path))


def written(groups: dict[str, Pinned], header: str) -> str:
    """Return the text of artifacts.toml."""
    parts = [header]
    for name, group in groups.items():
        parts.append(f"[{name}]\nroots = [\n" + "".join(f'    "{root}",\n' for root in group.roots) + "]\n")
        parts[-1] += "leave_out = [" + ", ".join(f'"{item}"' for item in sorted(group.leave_out)) + "]\nfiles = [\n"
        parts[-1] += "".join(
            f'    {{ maven = "{file.coordinates}", sha256 = "{file.sha256}" }},\n' for file in group.files
        )
        parts[-1] += "]\n"
    return "\n".join(parts)


def main() -> None:
    """Resolve, download, hash, write."""
    groups: dict[str, Pinned] = {}
    with ThreadPoolExecutor(8) as pool:
        for name, group in pinned().items():
            groups[name] = Pinned(group.roots, group.leave_out, tuple(pool.map(pin, coordinates_of(group))))
            say(f"{name} {group.version}: {len(groups[name].files)} files")
    text = PINS.read_text(encoding="utf-8")
    header = "".join(line + "\n" for line in text.splitlines() if line.startswith("#"))
    PINS.write_text(written(groups, header), encoding="utf-8")


if __name__ == "__main__":
    main()
