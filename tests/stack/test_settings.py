"""Settings: the environment wins over the stack's file, which wins over the defaults."""

from __future__ import annotations

from pathlib import Path

from starter.stack.state import State, StateFile
from stores.settings import Settings, load_settings, stack_folder

STACK = {
    "TEMPORAL_ADDRESS": "127.0.0.1:1111",
    "DATABASE_URL": "postgresql://postgres:hidden@127.0.0.1:2222/pipelines",
    "S3_ENDPOINT_URL": "http://127.0.0.1:3333",
    "AWS_ACCESS_KEY_ID": "of-the-stack",
    "AWS_SECRET_ACCESS_KEY": "hidden",
    "NATS_URL": "nats://pipelines:hidden@127.0.0.1:4444",
}


def written(folder: Path) -> Path:
    StateFile(folder).write(State(environment=STACK))
    return folder


def test_without_a_stack_the_defaults_hold(tmp_path: Path) -> None:
    assert load_settings({}, tmp_path) == Settings()


def test_the_stack_in_stack_dir_is_found(tmp_path: Path) -> None:
    environ = {"STACK_DIR": str(written(tmp_path))}
    assert load_settings(environ).temporal_address == "127.0.0.1:1111"
    assert stack_folder(environ) == tmp_path
    assert stack_folder({}) == Path.cwd() / ".stack"


def test_the_environment_wins_and_an_empty_variable_counts_as_absent(tmp_path: Path) -> None:
    environ = {"TEMPORAL_ADDRESS": "temporal:7233", "DATABASE_URL": ""}
    settings = load_settings(environ, written(tmp_path))
    assert settings.temporal_address == "temporal:7233"
    assert settings.database_url.get_secret_value() == STACK["DATABASE_URL"]


def test_credentials_of_another_provider_are_not_sent_to_the_stacks_object_store(tmp_path: Path) -> None:
    environ = {"AWS_ACCESS_KEY_ID": "of-amazon", "AWS_SECRET_ACCESS_KEY": "x"}
    assert load_settings(environ, written(tmp_path)).aws_access_key_id == "of-the-stack"
    environ["S3_ENDPOINT_URL"] = "https://s3.eu-west-1.amazonaws.com"
    assert load_settings(environ, written(tmp_path)).aws_access_key_id == "of-amazon"


def test_addresses_and_repr_hold_no_secret(tmp_path: Path) -> None:
    settings = load_settings({"NATS_URL": "nats://user:hidden@127.0.0.1:4222"}, written(tmp_path))
    assert settings.addresses == {
        "temporal": "127.0.0.1:1111",
        "postgres": "127.0.0.1:2222",
        "objects": "127.0.0.1:3333",
        "nats": "127.0.0.1:4222",
    }
    assert "hidden" not in repr(settings)


def test_the_database_of_the_request_logs_is_named_without_its_password_if_there_is_one(tmp_path: Path) -> None:
    assert "request_log" not in load_settings({}, tmp_path).addresses
    settings = load_settings({"REQUEST_LOG_DATABASE_URL": "postgresql://me:hush@logs:5433/requests"}, tmp_path)
    assert settings.addresses["request_log"] == "logs:5433"
    assert "hush" not in repr(settings)
