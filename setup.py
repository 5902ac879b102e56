"""What an index of packages shows of the README: without links and pictures that only lie beside it.

All else that is known of the package stands in `pyproject.toml`.
"""

import re
from pathlib import Path

from setuptools import setup

ELSEWHERE = r"\((?!https?:|#)[^()\s]+\)"  # where a link leads into the repository

text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
text = re.sub(rf"!\[[^]]*\]{ELSEWHERE}\n*", "", text)
text = re.sub(rf"(?<!!)\[([^]]*)\]{ELSEWHERE}", r"\1", text)

setup(long_description=text, long_description_content_type="text/markdown")
