"""Artifacts are made by builds, also by those of strangers' pull requests: nothing in a zip file may hurt the reader."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest

from isolation_monitor.cli.ci_import import archive as archives
from isolation_monitor.cli.ci_import.archive import Found, read_artifact
from isolation_monitor.cli.junit import files_of, read_reports
from tests.cli.forge_servers import junit, zipped


def read(content: bytes, folder: Path, name: str = "junit") -> Found:
    archive, inside = folder / "artifact", folder / "files"
    archive.write_bytes(content)
    inside.mkdir()
    return read_artifact(archive, name, inside)


def test_files_of_an_artifact_are_one_report_with_the_digest_of_the_folder_that_was_uploaded(tmp_path: Path) -> None:
    """The digest is a part of the id: a job that reports the folder itself makes the same one."""
    files = {"b/junit.xml": junit("test_b"), "a.xml": junit("test_a"), "b.xml": junit("test_c"), "b-2/junit.xml": junit("test_d")}
    for name, content in files.items():
        path = tmp_path / "build" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    found = read(zipped(files), tmp_path)

    assert found.report is not None
    assert found.report.digest == read_reports(files_of(["build"], tmp_path), tmp_path).digest
    assert len(found.report.tests) == 4
    assert found.troubles == []


def test_files_of_other_kinds_are_no_trouble(tmp_path: Path) -> None:
    jacoco = '<?xml version="1.0"?><!DOCTYPE report PUBLIC "-//JACOCO//DTD Report 1.1//EN" "report.dtd"><report name="shop"/>'
    files = {"coverage.xml": "<coverage/>", "jacoco.xml": jacoco, "16.xml": jacoco.encode("utf-16")}

    found = read(zipped(files | {"log.txt": "hello", "image.png": b"\x89PNG"}), tmp_path)

    assert found == Found(None, [])


def test_a_file_that_inflates_to_gigabytes_is_refused_and_the_others_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 1_000_000)
    bomb = zipped({"bomb.xml": b" " * 50_000_000, "junit.xml": junit("test_adds")})

    found = read(bomb, tmp_path)

    assert len(bomb) < 100_000
    assert found.report is not None
    assert [one.partition(":")[0] for one in found.troubles] == ["bomb.xml"]
    assert "1000000 bytes" in found.troubles[0]


def test_a_zip_file_that_lies_of_its_sizes_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 1_000_000)
    told, real = struct.pack("<I", 10), struct.pack("<I", 3_000_000)
    lying = zipped({"bomb.xml": b" " * 3_000_000, "junit.xml": junit("test_adds")}).replace(real, told)

    found = read(lying, tmp_path)

    assert found.report is not None
    assert len(found.troubles) == 1
    assert not (tmp_path / "files" / "bomb.xml").exists()


def test_many_files_together_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_INFLATED_BYTES", 2_500)
    files = {f"{number}.xml": f"<testsuite><!--{'x' * 1_000}--></testsuite>" for number in range(4)}

    found = read(zipped(files), tmp_path)

    assert [one.partition(":")[0] for one in found.troubles] == ["2.xml", "3.xml"]


def test_files_that_break_off_count_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a small artifact of ten thousand members with wrong checksums would be inflated for hours."""
    monkeypatch.setattr(archives, "MAX_INFLATED_BYTES", 2_500_000)
    names = [f"{number}.xml" for number in range(4)]
    content = zipped(dict.fromkeys(names, b" " * 1_000_000))
    with zipfile.ZipFile(io.BytesIO(content)) as made:
        right = struct.pack("<I", made.getinfo(names[0]).CRC)

    found = read(content.replace(right, b"\0\0\0\0"), tmp_path)

    assert [one.partition(":")[0] for one in found.troubles] == names
    assert ["of the artifact" in one for one in found.troubles] == [False, False, True, True]


def test_more_files_than_are_taken_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_FILES", 3)

    found = read(zipped({f"{number}.xml": "<testsuite/>" for number in range(4)}), tmp_path)

    assert found.report is None
    assert "more than 3 XML files" in found.troubles[0]


def test_a_table_of_contents_that_fills_the_memory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_MAX_DIRECTORY_BYTES", 1_000)
    content = zipped({f"{number}.txt": "" for number in range(100)})
    # The same as ZIP64 says it, where the older field holds a small number.
    end = content.rfind(b"PK\x05\x06")
    size, offset = struct.unpack("<II", content[end + 12 : end + 20])
    record = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 100, 100, size, offset)
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, end, 1)
    small = content[end : end + 12] + struct.pack("<I", 10) + content[end + 16 :]

    for number, one in enumerate((content, content[:end] + record + locator + small)):
        (tmp_path / str(number)).mkdir()
        assert "more files than are looked through" in read(one, tmp_path / str(number)).troubles[0]


@pytest.mark.parametrize("name", ["../../out.xml", "/tmp/out.xml", "..\\out.xml", "C:\\out.xml"])
def test_no_name_leads_out_of_the_artifact(name: str, tmp_path: Path) -> None:
    found = read(zipped({name: junit("test_adds")}), tmp_path)

    assert found.report is None
    assert "leads out" in found.troubles[0]
    assert [one.name for one in tmp_path.rglob("*.xml")] == []


def test_two_members_of_one_name_are_one_file_and_said(tmp_path: Path) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as made:
        made.writestr("junit.xml", junit("test_a"))
        with pytest.warns(UserWarning, match="Duplicate"):
            made.writestr("junit.xml", junit("test_b"))
        made.writestr("junit.xml/inner.xml", junit("test_c"))

    found = read(target.getvalue(), tmp_path)

    assert found.report is not None
    assert [test.name for test in found.report.tests] == ["test_a"]
    assert len(found.troubles) == 2


def test_a_member_with_a_password_or_broken_bytes_is_said(tmp_path: Path) -> None:
    content = bytearray(zipped({"locked.xml": junit("test_a"), "torn.xml": junit("test_b"), "good.xml": junit("test_c")}))
    with zipfile.ZipFile(io.BytesIO(bytes(content))) as made:
        torn = made.getinfo("torn.xml").header_offset + 60
    content[torn : torn + 8] = b"\xff" * 8
    for sign, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.find(sign) + place] |= 1

    found = read(bytes(content), tmp_path)

    assert found.report is not None
    assert [test.name for test in found.report.tests] == ["test_c"]
    assert sorted(one.partition(":")[0] for one in found.troubles) == ["locked.xml", "torn.xml"]


def test_what_is_no_zip_file_is_said(tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"hello", zipped({"junit.xml": junit("a")})[:-30], b"PK\x05\x06" + b"\xff" * 18)):
        (tmp_path / str(number)).mkdir()
        found = read(content, tmp_path / str(number))
        assert found.report is None
        assert "no zip file" in found.troubles[0]


@pytest.mark.parametrize("name", ["../results/junit", "..", "junit.xml", "a\0b", "\N{GRINNING FACE}" * 300])
def test_a_file_without_a_zip_file_around_it_is_read_whatever_it_is_called(name: str, tmp_path: Path) -> None:
    found = read(b"\xef\xbb\xbf" + junit("test_adds").encode(), tmp_path, name)

    assert found.report is not None
    assert [test.name for test in found.report.tests] == ["test_adds"]
    assert [one.parent.name for one in tmp_path.rglob("*.xml")] == ["files"]


@pytest.mark.parametrize(("content", "name"), [(b"{}", "coverage.json"), (b"\x1f\x8b\x08", "image.tar.gz"), (b"\x89PNG", "page.png")])
def test_a_file_of_another_kind_without_a_zip_file_around_it_is_no_trouble(content: bytes, name: str, tmp_path: Path) -> None:
    assert read(content, tmp_path, name) == Found(None, [])
