"""Uploads a model's folder to the Hugging Face hub."""

from typing import Any

from upath import UPath

from cluster.storage import local_copy


def upload_folder(
    folder: UPath,
    repo_id: str,
    *,
    message: str,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> str:
    """Uploads all files of a folder, and returns the address of the commit.

    Args:
      folder: Local or remote.
      repo_id: `owner/name`, or `name` for the account of the token; made where it does not exist.
      message: Of the commit.
      private: Whether a new repository is private; None asks the account's settings.
      revision: Branch to upload to; None is the default branch.
      token: Of the hub; None takes HF_TOKEN's or the one that was logged in with.

    Raises:
      ConnectionError: The hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    # What is raised where nobody answers: of httpx or httpx2, as the hub's library has it.
    unreachable: Any = HfHubHTTPError.__mro__[1]
    api = HfApi(token=token)
    try:
        made = api.create_repo(repo_id, private=private, exist_ok=True)
        with local_copy(folder) as local:
            commit = api.upload_folder(
                repo_id=made.repo_id, folder_path=local, revision=revision, commit_message=message
            )
    except (unreachable, OSError) as error:
        raise ConnectionError(
            f"{folder} cannot be uploaded to {repo_id} of the Hugging Face hub: {error}\n"
            "Check the name and the token (HF_TOKEN, or `hf auth login`), then run the same command again."
        ) from error
    return str(commit.commit_url)
