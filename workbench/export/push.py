"""The upload of an adapter or of a merged model to a model hub, in one commit.

python -m workbench.export.push FOLDER OWNER/NAME [--public] [--check]

With --check nothing is sent, and the hub is not asked. The token comes from HF_TOKEN alone, the
hub's address from HF_ENDPOINT as everywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from workbench.errors import CheckpointError, UsageError, WorkbenchError
from workbench.export.child import print_report
from workbench.text import safe_line
from workbench.text.redact import has_secret, log_without_secrets

TOKEN = "HF_TOKEN"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}\Z", re.ASCII)
_TEXTS = {".json", ".jinja", ".md", ".yaml", ".txt"}
_SENT = {*_TEXTS, ".safetensors", ".model"}
"""Ends of files that belong to an adapter or a model; others stay here."""


def push_folder(folder: Path, name: str, *, public: bool) -> dict[str, Any]:
    """Create the repository unless it exists, upload the files, and return a report.

    The report holds `url`, `commit`, `private`, `files` and `bytes`. Raises what check_upload()
    does, UsageError for a public repository that `public` does not allow, and WorkbenchError where
    the hub refuses or does not answer.
    """
    token, files = check_upload(folder, name)
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    # Its client's own base error: which library that is changes between versions.
    client_error: type[Exception] = HfHubHTTPError.__bases__[0]

    api = HfApi(token=token)
    try:
        url = api.create_repo(name, private=not public, exist_ok=True)
        private = bool(api.model_info(name).private)
        if not private and not public:
            raise UsageError(
                f"{name} exists and is public", hint="add --public, or name another repository"
            )
        made = api.create_commit(
            name,
            [CommitOperationAdd(path_in_repo=one.name, path_or_fileobj=one) for one in files],
            commit_message="Upload from the workbench",
        )
    except HfHubHTTPError as refused:
        words = refused.server_message or refused
        raise WorkbenchError(
            f"the hub refused: {safe_line(words, 300)}",
            hint=f"check that the token in {TOKEN} may write to {name}",
        ) from refused
    except (client_error, OSError) as gone:
        raise WorkbenchError(
            f"the hub did not answer: {safe_line(gone, 300)}",
            hint="no file was uploaded; try again",
        ) from gone
    return {
        "url": str(url),
        "commit": made.oid,
        "private": private,
        "files": [one.name for one in files],
        "bytes": sum(one.stat().st_size for one in files),
    }


def check_upload(folder: Path, name: str) -> tuple[str, list[Path]]:
    """Return (the token, the files to send); asks no hub.

    Raises UsageError without a token and for a name that cannot be one, and CheckpointError for a
    folder that a stranger could not load or that holds a secret.
    """
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise UsageError(
            f"{TOKEN} is not set", hint=f"export {TOKEN}=… with a token that may write"
        )
    if not _NAME.match(name):
        raise UsageError(
            f"{safe_line(name, 120)} names no repository", hint="give it as OWNER/NAME"
        )
    return token, files_to_send(folder)


def files_to_send(folder: Path) -> list[Path]:
    """Return the folder's files that belong to a model, by name.

    Raises CheckpointError where a stranger could not load them, or where one holds a secret.
    """
    files = sorted(
        one
        for one in folder.iterdir()
        if one.is_file() and one.suffix in _SENT and not one.name.startswith(".")
    )
    names = {one.name for one in files}
    if not names & {"adapter_config.json", "config.json"} or not any(
        name.endswith(".safetensors") for name in names
    ):
        raise CheckpointError(
            f"{safe_line(folder)} holds neither an adapter nor a model",
            hint="name a trial, or the folder of an adapter or of a merged model",
        )
    for one in files:
        if one.suffix in _TEXTS and has_secret(one.read_text(encoding="utf-8", errors="replace")):
            raise CheckpointError(
                f"{one.name} seems to hold a secret", hint="take it out before others can read it"
            )
    if "adapter_config.json" in names:
        _check_base(folder / "adapter_config.json")
    return files


def _check_base(file: Path) -> None:
    """Raise CheckpointError for an adapter whose base is a folder of this machine."""
    try:
        base = str(json.loads(file.read_bytes())["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError) as broken:
        raise CheckpointError(
            f"{file.name} is damaged", hint="make the adapter's folder again"
        ) from broken
    if os.path.isabs(base) or base.startswith("."):
        raise CheckpointError(
            f"nobody else can load its base, {safe_line(base, 200)}",
            hint="push the merged model: workbench merge TRIAL -o DIR, then push DIR",
        )


def main() -> int:
    """Upload as the command line asks, print the report as JSON and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument("--public", action="store_true")
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    log_without_secrets("%(levelname)s %(message)s")

    def make() -> dict[str, Any]:
        if given.check:
            check_upload(given.folder, given.name)
            return {}
        return push_folder(given.folder, given.name, public=given.public)

    return print_report(make)


if __name__ == "__main__":
    sys.exit(main())
