"""What is left of locations and messages that hold a password, a token or a signature."""

import io
import logging

import pytest

from cluster.credentials import keep_out_of_logs, redact

SIGNED = "https://bucket.s3.amazonaws.com/x.txt?X-Amz-Algorithm=A&X-Amz-Credential=C&X-Amz-Date=D&X-Amz-Signature=S"
AZURE = "https://a.blob.core.windows.net/c/x.txt?sv=2024-11-04&se=2026-01-01&sp=r&sr=b&sig=abc%3D"


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("https://user:password@host/x.txt", "https://host/x.txt"),
        ("https://token@host:8080/x.txt", "https://host:8080/x.txt"),
        ("https://user:p@ss@host/x.txt", "https://host/x.txt"),
        ("https://host/x.txt?token=T", "https://host/x.txt"),
        ("https://host/get?file=x.txt&access_token=T&part=2#top", "https://host/get?file=x.txt&part=2#top"),
        (SIGNED, "https://bucket.s3.amazonaws.com/x.txt"),
        (AZURE, "https://a.blob.core.windows.net/c/x.txt"),
        ("https://s.googleapis.com/b/x?GoogleAccessId=G&Expires=1&Signature=S", "https://s.googleapis.com/b/x"),
        (
            "postgresql+psycopg2://me:pw@host/mlflow?sslmode=require",
            "postgresql+psycopg2://host/mlflow?sslmode=require",
        ),
        ("simplecache::https://me:pw@host/x", "simplecache::https://host/x"),
        ("['https://me:pw@host/a', \"https://me:pw@host/b\"]", "['https://host/a', \"https://host/b\"]"),
        ("(see https://host/x.txt?token=T).", "(see https://host/x.txt)."),
        (
            "Max retries exceeded with url: /x.txt?a=1&token=T (Caused by …)",
            "Max retries exceeded with url: /x.txt?a=1& (Caused by …)",
        ),
    ],
)
def test_a_location_is_bare(text, bare):
    assert redact(text) == bare
    assert redact(bare) == bare


@pytest.mark.parametrize(
    "text",
    [
        "https://host/x.txt?file=1&version=2&author=me&tokenizer=bert&se=north&key=part-1",
        "s3://bucket/data/part?.txt",
        "abfs://container@account.dfs.core.windows.net/x",
        "sftp://me@host/x",
        "hf://datasets/me/corpus@main/x.txt",
        "mail me@host: it's at http://host/~me",
        "data/what?token",
        "a plain = text",
    ],
)
def test_what_selects_a_file_stays(text):
    assert redact(text) == text


def test_nothing_that_is_logged_holds_a_credential_tracebacks_included():
    before, stream = logging.getLogRecordFactory(), io.StringIO()
    logger, handler = logging.getLogger("test of credentials"), logging.StreamHandler(stream)
    logger.addHandler(handler)
    try:
        keep_out_of_logs()
        logger.warning("reading %s", "https://me:hunter2@host/x?token=sesame")
        try:
            raise OSError("cannot open https://me:hunter2@host/x?token=sesame")
        except OSError:
            logger.exception("failed")
    finally:
        logging.setLogRecordFactory(before)
        logger.removeHandler(handler)
    text = stream.getvalue()
    assert "reading https://host/x" in text
    assert "OSError: cannot open https://host/x" in text
    assert "hunter2" not in text
    assert "sesame" not in text
