#!/usr/bin/env python3
# husk: writes docs/map.md, the map of the source, from the first line of each file; --check only compares
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("src", "tests", "fuzz", "bench", "tools", "examples")


def purpose(path):
    for line in path.read_text(errors="replace").splitlines()[:3]:
        for mark in ("// husk: ", "# husk: ", "; husk: "):
            if line.startswith(mark):
                return line[len(mark):]
    return None


def page():
    lines = ["# Map of the source", "", "Made by `tools/source_map.py` from the first line of each file.", ""]
    for top in FOLDERS:
        folders = sorted({p.parent for p in (ROOT / top).rglob("*") if p.is_file()})
        for folder in folders:
            rows = [(p.name, purpose(p)) for p in sorted(folder.iterdir()) if p.is_file() and not p.stem.endswith("_test")]
            rows = [(name, text) for name, text in rows if text]
            if rows:
                lines += [f"## {folder.relative_to(ROOT)}", "", "| file | purpose |", "| --- | --- |"]
                lines += [f"| {name} | {text} |" for name, text in rows] + [""]
    return "\n".join(lines)


target = ROOT / "docs/map.md"
if "--check" in sys.argv:
    if not target.exists() or target.read_text() != page():
        sys.exit("docs/map.md is out of date: run tools/source_map.py")
else:
    target.write_text(page())
