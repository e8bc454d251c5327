"""The local engine: order, parallel work, death, failure."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import jobs

from isogrid.engines import Task
from isogrid.engines.graph import by_urgency
from isogrid.engines.local import run


def task(key, function, needs=(), cost=1.0, **arguments):
    return Task(key=key, label=key, function=function, arguments=arguments, needs=tuple(needs), cost=cost)


def test_needs_are_finished_before_and_both_workers_are_used(tmp_path):
    paths = {key: str(tmp_path / key) for key in "abcd"}
    tasks = [
        task("d", jobs.touch, "bc", path=paths["d"], after=[paths["b"], paths["c"]]),
        task("b", jobs.touch, "a", path=paths["b"], seconds=1.0),
        task("c", jobs.touch, "a", path=paths["c"], seconds=1.0),
        task("a", jobs.touch, path=paths["a"]),
    ]
    events = []
    assert run(tasks, workers=2, on_event=events.append) == []
    assert all(Path(p).exists() for p in paths.values())
    assert Path(paths["b"]).read_text() != Path(paths["c"]).read_text()
    assert next(e.task.key for e in events if e.kind == "finished") == "a"
    assert [e.task.key for e in events if e.kind == "finished"][-1] == "d"


def test_a_dead_worker_is_reported_and_its_task_retried_once(tmp_path):
    events = []
    failures = run(
        [task("once", jobs.die_until, path=str(tmp_path / "once"), times=1), task("ok", jobs.touch, path=str(tmp_path / "ok"))],
        workers=1,
        on_event=events.append,
    )
    assert failures == []
    assert [(e.kind, e.task.key) for e in events if e.kind == "retried"] == [("retried", "once")]
    assert "SIGKILL" in next(e.reason for e in events if e.kind == "retried")


def test_a_task_that_dies_twice_fails_with_its_dependents_and_the_rest_goes_on(tmp_path):
    tasks = [
        task("bad", jobs.die_until, path=str(tmp_path / "bad"), times=9),
        task("child", jobs.touch, ["bad"], path=str(tmp_path / "child")),
        task("grandchild", jobs.touch, ["child"], path=str(tmp_path / "grandchild")),
        task("other", jobs.touch, path=str(tmp_path / "other")),
    ]
    failures = run(tasks, workers=2)
    assert [(e.kind, e.task.key) for e in failures] == [("failed", "bad"), ("skipped", "child"), ("skipped", "grandchild")]
    assert (tmp_path / "other").exists()
    assert not (tmp_path / "child").exists()
    assert (tmp_path / "bad").read_text() == "2"


def test_an_exception_is_a_failure_with_its_place_and_is_not_retried(capfd):
    failures = run([task("x", jobs.boom, message="no luck")])
    assert "ValueError: no luck" in failures[0].reason
    assert "jobs.py" in failures[0].reason
    assert capfd.readouterr().err.count("no luck") == 1


def test_workers_are_forked_from_one_server_and_not_from_this_process(tmp_path):
    paths = [tmp_path / name for name in "ab"]
    assert run([task(path.name, jobs.parent, path=str(path)) for path in paths], workers=2) == []
    parents = {path.read_text() for path in paths}
    assert len(parents) == 1
    assert parents != {str(os.getpid())}


def test_no_worker_loads_for_itself_what_traces_networks(tmp_path):
    """1.5 s that every worker would pay; torch's own name for it may change."""
    path = tmp_path / "said"
    assert run([task("said", jobs.loaded, path=str(path), module="torch._dynamo")]) == []
    assert path.read_text() == "True"


def test_a_worker_has_the_environment_of_the_moment(tmp_path, monkeypatch):
    for value in ("one", "two"):
        monkeypatch.setenv("ISOGRID_TEST_VARIABLE", value)
        path = tmp_path / value
        assert run([task(value, jobs.environment, path=str(path), name="ISOGRID_TEST_VARIABLE")]) == []
        assert path.read_text() == value


def test_urgency_is_the_longest_chain_and_cycles_are_refused():
    tasks = [task("a", jobs.boom, cost=1), task("b", jobs.boom, "a", cost=5), task("c", jobs.boom, "a", cost=2)]
    assert by_urgency(tasks) == {"a": 6, "b": 5, "c": 2}
    with pytest.raises(ValueError, match="cycle"):
        by_urgency([task("a", jobs.boom, "b"), task("b", jobs.boom, "a")])
