#!/usr/bin/env python3
# husk: checks every include of src/ against docs/layers.txt, and every file's first line and name
"""Exits 1 and lists what is wrong. Tests may in addition include testing/ and anything below their own layer's users."""
import pathlib
import re
import sys

BANNED_NAMES = ("util", "common", "misc", "helper", "manager")


def read_layers(path):
    layers = {}
    for line in path.read_text().splitlines():
        line = line.split("#")[0].strip()
        if line:
            folder, _, allowed = line.partition(":")
            layers[folder.strip()] = set(allowed.split())
    return layers


def layer_of(relative, layers):
    """The longest listed folder that holds the file, else its first folder."""
    parts = relative.parts[:-1]
    for length in range(len(parts), 0, -1):
        name = "/".join(parts[:length])
        if name in layers:
            return name
    return parts[0] if parts else ""


def allowed(source, target, layers):
    if source == target or target.split("/")[0] == source.split("/")[0] and target not in layers:
        return True
    permitted = layers[source]
    # A folder's own line covers its sub-folders that have none.
    return target in permitted or any(target.startswith(p + "/") and target not in layers for p in permitted)


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    layers = read_layers(root / "docs/layers.txt")
    wrong = []
    for path in sorted((root / "src").rglob("*")):
        if path.suffix not in (".h", ".cpp"):
            continue
        relative = path.relative_to(root / "src")
        text = path.read_text()
        if not text.startswith("// husk: "):
            wrong.append(f"src/{relative}: the first line must be '// husk: <purpose>'")
        if any(word in path.stem.lower().split("_") for word in BANNED_NAMES):
            wrong.append(f"src/{relative}: banned name")
        source = layer_of(relative, layers)
        if source not in layers:
            wrong.append(f"src/{relative}: folder {source} is not in docs/layers.txt")
            continue
        is_test = path.stem.endswith("_test") or "fixture" in path.stem
        for number, line in enumerate(text.splitlines(), 1):
            match = re.match(r'\s*#include "([^"]+)"', line)
            if not match:
                continue
            include = pathlib.PurePosixPath(match.group(1))
            if not (root / "src" / include).exists():
                continue  # generated
            target = layer_of(include, layers)
            if is_test and target in ("testing", "host"):
                continue
            if not allowed(source, target, layers):
                wrong.append(f"src/{relative}:{number}: {source} may not include {target} ({include})")
    print("\n".join(wrong) if wrong else "layers: every include is allowed")
    return 1 if wrong else 0


sys.exit(main())
