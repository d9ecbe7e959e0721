"""Settings: where they come from, what is refused, and that the table names every one."""

import pytest

from service.byte_sizes import shown_bytes
from service.settings import (
    COMPOSE_VARIABLES,
    ClientSettings,
    Settings,
    SettingsError,
    load_client_settings,
    load_settings,
    settings_table,
)


def test_defaults():
    settings = load_settings({})
    assert (settings.host, settings.port, str(settings.data_dir)) == ("127.0.0.1", 6333, "bitfold-data")
    assert settings.api_key is None
    assert settings.exact_below == 10_000
    assert 1 <= settings.search_threads <= 8


def test_environment_is_read_and_overrides_win():
    environ = {
        "BITFOLD_PORT": "7000",
        "BITFOLD_DATA_DIR": "/x",
        "BITFOLD_LOG_LEVEL": "WARNING",
        "PATH": "/bin",
    }
    settings = load_settings(environ, port=7001, host=None)
    assert settings.port == 7001
    assert settings.host == "127.0.0.1"
    assert str(settings.data_dir) == "/x"
    assert settings.log_level == "warning"


def test_process_environment_is_the_default(monkeypatch):
    monkeypatch.setenv("BITFOLD_MAX_LIMIT", "77")
    assert load_settings().max_limit == 77
    assert Settings().max_limit == 10_000, "a plain constructor must not look at the environment"


def test_empty_variable_is_not_set():
    assert load_settings({"BITFOLD_API_KEY": "", "BITFOLD_PORT": ""}).api_key is None


def test_unknown_variable_names_the_nearest():
    with pytest.raises(SettingsError, match="BITFOLD_PROT is no setting: did you mean BITFOLD_PORT"):
        load_settings({"BITFOLD_PROT": "1"})
    with pytest.raises(SettingsError, match="BITFOLD_PROT"):
        load_client_settings({"BITFOLD_PROT": "1"})


def test_variables_of_compose_and_of_the_client_are_not_errors():
    environ = {name: "1" for name in COMPOSE_VARIABLES} | {"BITFOLD_URL": "http://elsewhere:1"}
    assert load_settings(environ) == load_settings({})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BITFOLD_PORT", "65536"),
        ("BITFOLD_PORT", "x"),
        ("BITFOLD_MAX_LIMIT", "0"),
        ("BITFOLD_INDEX_THREADS", "-1"),
        ("BITFOLD_ALLOW_INSECURE", "perhaps"),
        ("BITFOLD_LOG_LEVEL", "loud"),
        ("BITFOLD_MEMORY_LIMIT", "0"),
        ("BITFOLD_MEMORY_LIMIT", "-1"),
        ("BITFOLD_MEMORY_LIMIT", "1.5"),
        ("BITFOLD_MEMORY_LIMIT", "1.5B"),
        ("BITFOLD_MEMORY_LIMIT", "2G"),
        ("BITFOLD_MEMORY_LIMIT", "GiB"),
        ("BITFOLD_MEMORY_LIMIT", "much"),
        ("BITFOLD_MEMORY_LIMIT", "9" * 30),
    ],
)
def test_bad_value_names_the_variable_and_the_value(variable, value):
    with pytest.raises(SettingsError, match=f"{variable}: .*'{value}'"):
        load_settings({variable: value})


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("1000000", 1_000_000),
        ("512MiB", 512 * 2**20),
        (" 2 gib ", 2 * 2**30),
        ("1.5GB", 1_500_000_000),
        ("0.5KiB", 512),
        ("3TB", 3 * 10**12),
        ("100B", 100),
    ],
)
def test_bytes_may_have_a_unit(value, size):
    assert load_settings({"BITFOLD_MEMORY_LIMIT": value}).memory_limit == size


def test_no_limit_is_set_by_itself():
    assert load_settings({"BITFOLD_MEMORY_LIMIT": ""}).memory_limit is None


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1536, "1.5 KiB"),
        (2**30, "1.0 GiB"),
        (3 * 2**40, "3.0 TiB"),
        (5000 * 2**40, "5000.0 TiB"),
    ],
)
def test_bytes_are_shown_with_a_unit(size, text):
    assert shown_bytes(size) == text


def test_key_is_never_shown():
    settings = load_settings({"BITFOLD_API_KEY": "sesame"})
    assert "sesame" not in repr(settings)
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "sesame"
    with pytest.raises(SettingsError, match="BITFOLD_API_KEY: .*printable") as caught:
        load_settings({"BITFOLD_API_KEY": "open sesame"})
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])
def test_reachable_host_needs_a_key_or_a_word(host):
    with pytest.raises(SettingsError, match="BITFOLD_API_KEY, or BITFOLD_ALLOW_INSECURE"):
        load_settings({"BITFOLD_HOST": host})
    assert load_settings({"BITFOLD_HOST": host, "BITFOLD_API_KEY": "k"}).host == host
    assert load_settings({"BITFOLD_HOST": host, "BITFOLD_ALLOW_INSECURE": "true"}).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_host_needs_no_key(host):
    assert load_settings({"BITFOLD_HOST": host}).host == host


def test_settings_are_frozen_and_take_no_other_fields():
    with pytest.raises(ValueError, match="frozen"):
        Settings().port = 1
    with pytest.raises(ValueError, match="Extra inputs"):
        Settings(prot=1)


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "http://127.0.0.1:6333"),
        ({"BITFOLD_HOST": "0.0.0.0", "BITFOLD_PORT": "7"}, "http://127.0.0.1:7"),
        ({"BITFOLD_HOST": "::"}, "http://[::1]:6333"),
        ({"BITFOLD_HOST": "10.0.0.2"}, "http://10.0.0.2:6333"),
        ({"BITFOLD_URL": "https://x/y", "BITFOLD_PORT": "7"}, "https://x/y"),
    ],
)
def test_client_url(environ, url):
    assert load_client_settings(environ).url == url


def test_client_url_option_wins_and_is_checked():
    assert load_client_settings({"BITFOLD_URL": "http://a"}, url="http://b").url == "http://b"
    with pytest.raises(SettingsError, match="BITFOLD_URL"):
        load_client_settings({}, url="localhost:6333")


def test_table_has_every_setting_with_a_meaning():
    rows = [row.split(" | ") for row in settings_table().splitlines()[2:]]
    names = {row[0].strip("| `") for row in rows}
    fields = {*Settings.model_fields, *ClientSettings.model_fields}
    assert names == {f"BITFOLD_{name.upper()}" for name in fields}
    assert all(len(row) == 3 and len(row[2]) > 10 for row in rows)
