"""MkDocs: pages link to files that lie beside docs/; the site gets copies of them under the same names."""

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

FOLDERS = ("configs", "deploy")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that pages may link to."""
    root = Path(config.config_file_path).parent
    for path in sorted(path for folder in FOLDERS for path in (root / folder).rglob("*") if path.is_file()):
        files.append(File.generated(config, str(path.relative_to(root)), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **event: Any) -> str:
    """Point the links at the copies."""
    return re.sub(rf"\]\(\.\./(?=(?:{'|'.join(FOLDERS)})/)", "](", markdown)
