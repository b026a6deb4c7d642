"""The project's Markdown documents: their code blocks, shell commands, inline commands and links."""

import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^][]*\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    document: str
    language: str
    text: str  # without the indentation that all its lines share


def documents():
    """The paths of all Markdown files, relative to the project, the README first."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return sorted(listed, key=lambda path: (path != "README.md", path))


def blocks_of(document):
    text = (ROOT / document).read_text()
    return [Block(document, language, re.sub(f"^{indent}", "", body, flags=re.MULTILINE))
            for indent, language, body in FENCE.findall(text)]


def shell_commands_of(document):
    """The commands of its sh blocks, one a line, continued lines joined."""
    shell = [block.text.replace("\\\n", " ") for block in blocks_of(document) if block.language == "sh"]
    return [line.strip() for text in shell for line in text.splitlines() if shlex.split(line, comments=True)]


def prose_of(document):
    return FENCE.sub("", (ROOT / document).read_text())


def inline_code_of(document):
    return INLINE.findall(prose_of(document))


def broken_links_of(document):
    """Relative links to a file, folder or heading that is not there."""
    broken = []
    for link in LINK.findall(prose_of(document)):
        path, _, anchor = link.partition("#")
        target = (ROOT / document).parent / path if path else ROOT / document
        if "://" in link:
            continue
        if not target.exists() or (anchor and anchor not in _anchors_of(target)):
            broken.append(link)
    return broken


def _anchors_of(path):
    """GitHub's names of the headings."""
    headings = HEADING.findall(FENCE.sub("", path.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
