"""The connection to Airflow survives what passes, says what does not, and shows no secret."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fake_airflow import FakeAirflow

from airflow_ml_provider.cli.airflow_answers import Refused, Unreachable
from airflow_ml_provider.cli.airflow_auth import Nobody, Password, Token, TokenCommand, auth_from_environment
from airflow_ml_provider.cli.airflow_client import AirflowClient, path
from airflow_ml_provider.contract.errors import ConfigError

CI = Password("ci", "s3cret-word")


@pytest.fixture
def client(airflow: FakeAirflow) -> Iterator[AirflowClient]:
    said: list[str] = []
    client = AirflowClient(airflow.url, CI, patience=20, say=said.append)
    yield client
    client._session.close()


def details(client: AirflowClient) -> object:
    return client.call("GET", "/dags/train/details")["dag_id"]


def test_a_call_that_reads_survives_errors_and_dropped_connections(
    airflow: FakeAirflow, client: AirflowClient
) -> None:
    airflow.fail("GET", "/details", 500, "drop", "lose")
    assert details(client) == "train"
    assert airflow.count("GET", "/details") == 4


def test_a_call_survives_a_restart_and_says_what_it_waits_for(airflow: FakeAirflow) -> None:
    said: list[str] = []
    client = AirflowClient(airflow.url, CI, patience=30, say=said.append)
    assert details(client) == "train"
    airflow.restart(after=3)
    assert details(client) == "train"
    assert "trying again" in said[0]
    assert said[-1] == "Airflow answers again"


def test_an_airflow_that_stays_away_is_unreachable_and_worth_a_retry(airflow: FakeAirflow) -> None:
    airflow.stop()
    with pytest.raises(Unreachable) as caught:
        details(AirflowClient(airflow.url, CI, patience=0.5))
    airflow.start()
    assert caught.value.exit_code == 75
    assert "refuses connections" in str(caught.value)


def test_a_trigger_whose_answer_was_lost_starts_one_run(airflow: FakeAirflow, client: AirflowClient) -> None:
    airflow.fail("POST", "/dagRuns", "lose", 503)
    run, _ = client.trigger("train", "once", {"seed": 1})
    assert run["conf"] == {"seed": 1}
    assert list(airflow.runs) == [("train", "once")]
    assert client.trigger("train", "once")[1] is False


def test_a_call_that_must_not_happen_twice_is_not_repeated_when_its_answer_is_lost(
    airflow: FakeAirflow, client: AirflowClient
) -> None:
    client.trigger("train", "once")
    airflow.fail("POST", "/clear", "lose")
    with pytest.raises(Unreachable) as caught:
        client.call("POST", "/dags/train/dagRuns/once/clear", json={})
    assert "unknown whether the call arrived" in str(caught.value)
    assert airflow.count("POST", "/clear") == 1


def test_a_call_that_was_refused_for_load_is_repeated_even_if_it_must_not_happen_twice(
    airflow: FakeAirflow, client: AirflowClient
) -> None:
    client.trigger("train", "once")
    airflow.fail("POST", "/clear", 503, 429)
    client.call("POST", "/dags/train/dagRuns/once/clear", json={})
    assert airflow.count("POST", "/clear") == 3


def test_an_expired_token_is_renewed_where_there_is_a_password(
    airflow: FakeAirflow, client: AirflowClient
) -> None:
    assert details(client) == "train"
    airflow.tokens.clear()
    assert details(client) == "train"
    assert airflow.count("POST", "/auth/token") == 2


def test_an_expired_token_is_renewed_by_its_command_without_a_shell(
    airflow: FakeAirflow, tmp_path: Path
) -> None:
    kept = tmp_path / "token; touch trap"
    kept.write_text("first")
    airflow.tokens.add("first")
    command = f"{sys.executable} -c 'import sys; print(open(sys.argv[1]).read())' '{kept}'"
    client = AirflowClient(airflow.url, TokenCommand(command))
    assert details(client) == "train"
    airflow.tokens.clear()
    airflow.tokens.add("second")
    kept.write_text("second")
    assert details(client) == "train"
    assert not Path("trap").exists()


@pytest.mark.parametrize(
    ("command", "said"),
    [("false", "ended with exit code 1"), ("echo s3cret-a s3cret-b", "did not print one token"),
     ("/no/such/command", "cannot be run"), ("true", "did not print one token")],
)  # fmt: skip
def test_a_token_command_that_fails_is_told_without_its_output(
    airflow: FakeAirflow, command: str, said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        details(AirflowClient(airflow.url, TokenCommand(command)))
    assert said in str(caught.value)
    assert "s3cret-b" not in str(caught.value)


@pytest.mark.parametrize(
    ("auth", "todo"),
    [(Token("s3cret"), "the token has expired or is wrong"), (Password("ci", "s3cret"), "check user and password"),
     (Nobody(), "set AIRFLOW_ML_TOKEN")],
)  # fmt: skip
def test_refused_credentials_say_what_to_do_and_do_not_show_the_secret(
    airflow: FakeAirflow, auth: Token | Password | Nobody, todo: str
) -> None:
    with pytest.raises(Refused) as caught:
        details(AirflowClient(airflow.url, auth))
    assert todo in caught.value.todo
    assert "s3cret" not in str(caught.value) + repr(auth)
    assert airflow.count("GET", "/details") <= 1


def test_credentials_come_from_the_environment() -> None:
    assert auth_from_environment("", {"AIRFLOW_ML_TOKEN": " t\n"}) == Token("t")
    assert auth_from_environment("", {"AIRFLOW_ML_USER": "u", "AIRFLOW_ML_PASSWORD": "p"}) == Password(
        "u", "p"
    )
    assert auth_from_environment("show it", {"AIRFLOW_ML_TOKEN": "t"}) == TokenCommand("show it")
    assert auth_from_environment("", {}) == Nobody()
    with pytest.raises(ConfigError, match="AIRFLOW_ML_USER is set and the other is not"):
        auth_from_environment("", {"AIRFLOW_ML_USER": "u"})


@pytest.mark.parametrize("token", ["s3c\nret", "s3c ret", "s3crét", "s3c\x7fret"])
def test_a_token_that_no_header_can_hold_is_refused_and_not_shown(airflow: FakeAirflow, token: str) -> None:
    with pytest.raises(ConfigError, match="AIRFLOW_ML_TOKEN is no token") as caught:
        auth_from_environment("", {"AIRFLOW_ML_TOKEN": token})
    with pytest.raises(ConfigError) as printed:
        details(AirflowClient(airflow.url, TokenCommand(shlex.join(["printf", token]))))
    assert not any("s3c" in str(error.value).replace("printf", "") for error in (caught, printed))


def test_a_token_command_with_an_open_quote_is_refused(airflow: FakeAirflow) -> None:
    with pytest.raises(ConfigError, match="No closing quotation"):
        details(AirflowClient(airflow.url, TokenCommand("echo 'x")))


def test_a_netrc_of_the_machine_does_not_replace_the_token(
    airflow: FakeAirflow, client: AirflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert details(client) == "train"
    assert airflow.headers[-1]["Authorization"].startswith("Bearer ")


def test_a_status_names_what_to_check(airflow: FakeAirflow, client: AirflowClient) -> None:
    for status, todo in ((403, "the right"), (404, "the DAG's id"), (422, "what Airflow names")):
        airflow.fail("GET", "/details", status)
        with pytest.raises(Refused) as caught:
            details(client)
        assert caught.value.status == status
        assert todo in caught.value.todo
        assert "a fault" in str(caught.value)


def test_a_redirect_is_not_followed(airflow: FakeAirflow, client: AirflowClient) -> None:
    airflow.fail("GET", "/details", 302)
    with pytest.raises(Refused, match="302"):
        details(client)


def test_a_self_made_certificate_is_trusted_only_if_given(certificate: Path) -> None:
    airflow = FakeAirflow(certificate=certificate)
    with closing(_Stopping(airflow)):
        with pytest.raises(ConfigError) as caught:
            details(AirflowClient(airflow.url, CI))
        assert "cannot be trusted: self" in str(caught.value)
        assert "--ca FILE" in caught.value.todo
        assert details(AirflowClient(airflow.url, CI, verify=str(certificate))) == "train"


def test_a_certificate_of_another_host_is_not_trusted(certificate: Path) -> None:
    airflow = FakeAirflow(certificate=certificate)
    with closing(_Stopping(airflow)):
        url = airflow.url.replace("127.0.0.1", "localhost")
        with pytest.raises(ConfigError, match=r"cannot be trusted: .*localhost"):
            details(AirflowClient(url, CI, verify=str(certificate)))


def test_https_where_there_is_none_says_so(airflow: FakeAirflow) -> None:
    with pytest.raises(ConfigError, match="does not speak TLS"):
        details(AirflowClient(airflow.url.replace("http:", "https:"), CI))


def test_an_airflow_below_a_path_is_reached_and_one_missing_its_path_is_not() -> None:
    airflow = FakeAirflow(prefix="/team/airflow")
    with closing(_Stopping(airflow)):
        for url in (airflow.url, airflow.url + "/", airflow.url + "/api/v2"):
            assert details(AirflowClient(url, CI)) == "train"
        with pytest.raises(Refused) as caught:
            details(AirflowClient(airflow.url.removesuffix("/team/airflow"), CI))
        assert "path prefix" in caught.value.todo


def test_a_url_that_is_none_or_shows_a_password_is_refused() -> None:
    for url in ("airflow.example", "ftp://airflow.example", "http://[", ""):
        with pytest.raises(ConfigError, match="is not a URL"):
            AirflowClient(url)
    with pytest.raises(ConfigError) as caught:
        AirflowClient("https://ci:s3cret@airflow.example")
    assert "s3cret" not in str(caught.value)


def test_all_pages_of_a_collection_are_read(airflow: FakeAirflow, client: AirflowClient) -> None:
    airflow.script = [("running", {f"part#{number}": "running" for number in range(250)})]
    client.trigger("train", "a/b+c:d")
    found = client.pages(path("dags", "train", "dagRuns", "a/b+c:d", "taskInstances"), "task_instances")
    assert sorted(task["map_index"] for task in found) == list(range(250))


class _Stopping:
    def __init__(self, airflow: FakeAirflow) -> None:
        self.close = airflow.stop
