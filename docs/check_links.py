"""Checks that every relative link and image in the Markdown files leads somewhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path

LINK = re.compile(r"!?\[[^\]]*\]\(([^)#\s]+)[^)]*\)")


def main() -> int:
    """Print links that lead nowhere; return 1 when there are any."""
    root = Path(__file__).parents[1]
    broken = [
        f"{page.relative_to(root)}: {target} does not exist"
        for page in sorted([*root.glob("*.md"), *root.glob("docs/*.md")])
        for target in LINK.findall(page.read_text("utf-8"))
        if "://" not in target and not target.startswith("mailto:") and not (page.parent / target).exists()
    ]
    sys.stdout.writelines(f"{line}\n" for line in broken)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
