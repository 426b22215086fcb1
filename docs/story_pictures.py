"""Make the pictures of docs/story.md: the end-to-end test takes them on its way.

    PYTHONPATH=. .venv/bin/python docs/story_pictures.py

Needs Chromium (CHROMIUM names another than /usr/bin/chromium). If the test fails, the pictures stay as they
were.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
PAGE = ROOT / "docs" / "story.md"


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        own = {"LOCKGATE_STORY_PICTURES": folder, "LOCKGATE_REQUIRE_BROWSER": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "tests/story/test_story.py"]
        code = subprocess.run(command, cwd=ROOT, env={**os.environ, **own}, check=False).returncode
        if code == 0:
            for name in set(re.findall(r"images/(story-[\w-]+\.png)", PAGE.read_text())):
                (IMAGES / name).write_bytes((Path(folder) / name).read_bytes())
        return code


if __name__ == "__main__":
    sys.exit(main())
