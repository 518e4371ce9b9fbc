"""A node in a container says when its data dir is on no volume that outlives it."""

from __future__ import annotations

from pathlib import Path

import pytest

from atoll.daemon import container
from atoll.daemon.alerts import Alerts
from atoll.daemon.container import in_container, lost_because
from atoll.daemon.events import Events

ROOT = "871 700 0:81 / / ro,relatime master:1 - overlay overlay rw,lowerdir=/l/A:/l/B,upperdir=/d\n"
OTHERS = (
    "873 871 0:86 / /proc rw,nosuid - proc proc rw\n"
    "880 871 8:1 /x/hosts /etc/hosts rw,relatime - ext4 /dev/sda1 rw\n"
)
VOLUME = "890 871 8:1 /docker/volumes/{}/_data /data rw,relatime master:1 - ext4 /dev/sda1 rw\n"
NAMELESS = VOLUME.format("3f" * 32)


@pytest.mark.parametrize(
    ("mounts", "said"),
    [
        (ROOT + OTHERS, "is on no volume"),
        (ROOT + OTHERS + VOLUME.format("atoll"), ""),
        (ROOT + NAMELESS, "is on a volume without a name"),
        (ROOT + NAMELESS + VOLUME.format("atoll"), ""),
        (ROOT + VOLUME.format("3f" * 16), ""),
        (
            ROOT + "891 871 0:99 / /data rw,nosuid shared:3 - tmpfs tmpfs rw,size=64k\n",
            "is in memory",
        ),
        (ROOT + "891 871 8:1 /home/anna/node /data rw - ext4 /dev/sda1 rw\n", ""),
        (ROOT + "891 871 8:1 /other /data-2 rw - ext4 /dev/sda1 rw\n", "is on no volume"),
        (ROOT + "891 871 8:1 /other /data/node rw - ext4 /dev/sda1 rw\n", "is on no volume"),
        ("", "is on no volume"),
        ("nonsense\n1 2 - \n" + ROOT, "is on no volume"),
    ],
)
def test_what_outlives_a_container(mounts: str, said: str) -> None:
    assert lost_because(Path("/data"), mounts) == said


def test_a_folder_in_a_volume_and_one_whose_path_has_spaces() -> None:
    assert lost_because(Path("/data/nodes/one"), ROOT + VOLUME.format("atoll")) == ""
    spaced = ROOT + "891 871 8:1 /v /my\\040data rw - ext4 /dev/sda1 rw\n"
    assert lost_because(Path("/my data"), spaced) == ""


def test_what_a_container_is_known_by(tmp_path: Path) -> None:
    marks = (tmp_path / "one", tmp_path / "two")
    assert not in_container({}, marks)
    assert in_container({"container": "podman"}, marks)
    marks[1].touch()
    assert in_container({}, marks)


def test_it_is_an_alert_in_a_container_and_for_what_is_to_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mountinfo").write_text(ROOT)
    monkeypatch.setattr(container, "MOUNTINFO", tmp_path / "mountinfo")
    monkeypatch.setattr(container, "MARKS", (tmp_path / "none",))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("container", raising=False)
    alerts = Alerts(Events(tmp_path / "events.jsonl", lambda: 0.0))

    container.tell_of_loss(tmp_path, alerts)
    assert alerts.all() == [], "no container"

    monkeypatch.setenv("container", "podman")
    container.tell_of_loss(tmp_path / "node", alerts)
    assert alerts.all() == [], "a folder for a while"

    container.tell_of_loss(tmp_path, alerts)
    (alert,) = alerts.all()
    assert alert["code"] == "data_not_kept" and alert["text"].endswith(f"{tmp_path} is on no volume.")

    (tmp_path / "mountinfo").unlink()
    container.tell_of_loss(tmp_path, Alerts(Events(tmp_path / "again.jsonl", lambda: 0.0)))
