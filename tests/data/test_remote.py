"""Photos on an S3 server of this machine (moto): the same as those of a folder, and what goes wrong on the way."""

from __future__ import annotations

import json
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image
from pyarrow import parquet

from inlier.data import images, remote
from inlier.data.images import read_image, read_mask
from inlier.data.layouts import find_photos
from inlier.data.manifest import Manifest, Photo, digest_file, read_photos
from inlier.data.remote import RemotePath, find_objects, locate, state_of
from inlier.errors import ImageReadError, ManifestError, MissingExtraError

SECRET = "not-to-be-shown"
QUICK = ("--detector", "photo-neighbors", "--size", "64", "--precision", "float32")


class Server:
    """A bucket named ``ships`` on a server of this process."""

    def __init__(self) -> None:
        self._moto = ThreadedMotoServer(port=0, verbose=False)
        self._moto.start()
        self.url = "http://{}:{}".format(*self._moto.get_host_and_port())
        self._put("ships", b"")

    def _put(self, name: str, content: bytes) -> None:
        headers = {
            "Content-Type": "application/octet-stream",  # else it is taken for a form
            "Authorization": "AWS4-HMAC-SHA256 Credential=anybody/20260101/us-east-1/s3/aws4_request",  # to write over
        }
        request = Request(f"{self.url}/{quote(name)}", data=content, headers=headers, method="PUT")
        with urlopen(request, timeout=60) as answer:
            answer.read()

    def upload(self, key: str, content: bytes) -> Path:
        """What a user would give for the object."""
        self._put(f"ships/{key}", content)
        return Path(f"s3://ships/{key}")

    def upload_folder(self, folder: Path, key: str) -> Path:
        for path in folder.rglob("*"):
            if path.is_file():
                self.upload(f"{key}/{path.relative_to(folder).as_posix()}", path.read_bytes())
        return Path(f"s3://ships/{key}")

    def stop(self) -> None:
        self._moto.stop()


@pytest.fixture(scope="module")
def environment() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "anybody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "100")
        yield patch
        remote.disconnect()


@pytest.fixture(scope="module")
def server(environment: pytest.MonkeyPatch) -> Iterator[Server]:
    started = Server()
    environment.setenv("AWS_ENDPOINT_URL", started.url)
    remote.disconnect()
    yield started
    started.stop()


def write_photos(folder: Path, *names: str) -> Path:
    """Noise, other for each name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng([*name.encode()]).integers(256, size=(40, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / name)
    return folder


def as_rows(photos: tuple[Photo, ...], root: Path) -> list[tuple[object, ...]]:
    """Photos with paths below the root, wherever that is."""
    prefix = f"{locate(root)}/"
    return [
        (str(p.path).removeprefix(prefix), p.split, p.label, p.is_anomalous, p.group,
         p.mask and str(p.mask).removeprefix(prefix))
        for p in photos
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("s3://ships/port", "s3://ships/port"),
        ("S3://ships/port/a b%20#.JPG", "s3://ships/port/a b%20#.JPG"),
        ("memory://ships", "memory://ships"),
        ("file:///data/two%20words", "/data/two words"),
        ("C:/photos", "C:/photos"),
        ("photos/s3:", "photos/s3:"),
    ],
)
def test_a_path_that_was_a_url_is_one_again(given: str, meant: str) -> None:
    assert str(locate(Path(given))) == meant


def test_a_local_folder_may_look_like_an_unknown_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run:" / "1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert locate(Path("run:/1")) == Path("run:/1")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (f"https://me:{SECRET}@host/a.jpg?key={SECRET}", "https://host cannot be read; photos are read from s3://"),
        (f"https://host?key={SECRET}", "https://host cannot be read; photos are read from s3://"),
        (f"s3://me:{SECRET}@ships/a.jpg", "The URL of s3://ships holds credentials; set them in the environment"),
        ("s3://", "s3:// names no bucket; a URL is such as s3://bucket/folder."),
    ],
)
def test_urls_that_cannot_be_used(url: str, sentence: str) -> None:
    with pytest.raises(ManifestError) as error:
        remote.parse_url(url)
    assert sentence in str(error.value) and SECRET not in str(error.value)


@pytest.mark.parametrize(("scheme", "extra"), [("s3", "'inlier[remote]'"), ("gs", "'inlier[remote]' gcsfs")])
def test_a_missing_driver_is_named_with_its_install_line(
    scheme: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as error:
        Manifest.read(Path(f"{scheme}://ships"))
    assert str(error.value).startswith(f"{scheme}:// is read by ")
    assert str(error.value).endswith(f"install it with: pip install {extra}")


def test_a_remote_path_is_no_local_one() -> None:
    path = RemotePath("s3://ships/port.d/7.JPG", size=5, version="etag 1")
    assert (path.name, path.suffix, str(path.parent)) == ("7.JPG", ".JPG", "s3://ships/port.d")
    assert path == RemotePath("s3://ships/port.d/7.JPG") and {path, RemotePath("s3://ships/port.d/7.JPG")} == {path}
    assert path.below(RemotePath("s3://ships")) == "port.d/7.JPG"
    assert str(path.parent.join("../a/./b.png")) == "s3://ships/a/b.png"
    copy = pickle.loads(pickle.dumps(path))
    assert (copy, copy.size, copy.version) == (path, 5, "etag 1")
    with pytest.raises(TypeError):
        os.fspath(path)  # type: ignore[call-overload]


def test_a_folder_is_found_like_a_local_one_over_several_pages(server: Server, tmp_path: Path) -> None:
    content = (write_photos(tmp_path, "a.png") / "a.png").read_bytes()
    names = [f"deck {n % 7}/{n}.png" for n in range(295)]
    names += ["2.png", "10.PNG", "deck 10/sub.d/1.jpeg", ".hidden/1.png", "deck 1/__MACOSX/1.png", "notes.txt"]
    for name in names:
        path = tmp_path / "many" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    root = server.upload_folder(tmp_path / "many", "many")
    server.upload("many more/1.png", content)  # begins alike, and is another folder
    expected = [path.relative_to(tmp_path / "many").as_posix() for path in find_photos([tmp_path / "many"])]
    found = find_photos([root])
    assert [str(path) for path in found] == [f"s3://ships/many/{name}" for name in expected] and len(found) == 298
    assert all(isinstance(path, RemotePath) and path.size == len(content) for path in found)
    assert len({str(path) for path in find_photos([root, root / "deck 1"])}) == 298


def test_layouts_are_read_alike(server: Server, tmp_path: Path) -> None:
    thesis = write_photos(tmp_path / "thesis", "train/Good/1.png", "dev/ok/deep/1.png", "test/crack/1.png")
    mvtec = write_photos(
        tmp_path / "mvtec", "train/good/0.png", "test/crack/0.png", "test/crack/1.png", "ground_truth/crack/0_mask.png"
    )
    for folder in (thesis, mvtec):
        root = server.upload_folder(folder, folder.name)
        assert as_rows(Manifest.read(root).photos, root) == as_rows(Manifest.read(folder).photos, folder)
        assert as_rows(read_photos(Path(f"file://{folder}")), folder) == as_rows(Manifest.read(folder).photos, folder)
    mask = next(photo.mask for photo in Manifest.read(Path("s3://ships/mvtec")).photos if photo.mask)
    local = read_mask(mvtec / "ground_truth/crack/0_mask.png", size=(20, 25))
    assert np.array_equal(read_mask(mask, size=(20, 25)), local)
    server.upload("thesis/stray.png", b"")
    with pytest.raises(ManifestError, match=r"s3://ships/thesis has folders .* photos outside them: stray.png"):
        Manifest.read(Path("s3://ships/thesis"))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_manifests_name_photos_relatively_and_by_url(server: Server, tmp_path: Path, suffix: str) -> None:
    import pyarrow as pa

    write_photos(tmp_path, "photos/1.png", "photos/2.png")
    root = server.upload_folder(tmp_path, f"with-{suffix}")
    rows = [
        {"path": "photos/1.png", "label": "good", "mask": ""},
        {"path": f"s3://ships/with-{suffix}/photos/2.png", "label": "crack", "mask": "./photos/1.png"},
        {"path": "photos/gone.png", "label": "good", "mask": ""},
    ]
    table = tmp_path / f"manifest.{suffix}"
    if suffix == "csv":
        table.write_text("path,label,mask\n" + "".join(",".join(row.values()) + "\n" for row in rows))
    else:
        parquet.write_table(pa.Table.from_pylist(rows), table)
    server.upload(f"with-{suffix}/{table.name}", table.read_bytes())
    for data in (root, root / table.name):
        manifest = Manifest.read(data)
        assert as_rows(manifest.photos, root) == [
            ("photos/1.png", "train", "good", False, "", None),
            ("photos/2.png", "train", "crack", True, "", "photos/1.png"),
            ("photos/gone.png", "train", "good", False, "", None),
        ]
        sizes = [path.size for path in (photo.path for photo in manifest.photos) if isinstance(path, RemotePath)]
        assert sizes == [(tmp_path / f"photos/{n}.png").stat().st_size for n in (1, 2)] + [None]
        assert digest_file(manifest.photos[2].path) == "unreadable"
        with pytest.raises(ImageReadError, match=r"^the file does not exist$"):
            read_image(manifest.photos[2].path)
    mixed = Manifest.read(table)  # the same on this machine: two of the paths lie here, one there
    assert [type(photo.path) is RemotePath for photo in mixed.photos] == [False, True, False]
    assert mixed.groups[:2] == ["photo 1.png", f"photo s3://ships/with-{suffix}/photos/2.png"]


@pytest.mark.parametrize("path", ["/etc/photo.png", "file:///etc/photo.png", "https://host/photo.png"])
def test_a_remote_manifest_names_no_files_of_this_machine(server: Server, path: str) -> None:
    table = server.upload("foreign/list.csv", f"path\n{path}\n".encode())
    with pytest.raises(ManifestError, match=r"must be relative to it or remote URLs|cannot be read; photos are read"):
        Manifest.read(table)


def test_what_is_no_photo_has_its_reason(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = (write_photos(tmp_path, "a.png") / "a.png").read_bytes()
    reasons = {
        server.upload("odd/text.jpg", b"no picture at all"): "not a picture in a known format",
        server.upload("odd/empty.jpg", b""): "the file is empty",
        server.upload("odd/cut.png", content[: len(content) // 2]): "truncated",
        Path("s3://ships/odd/gone.jpg"): "the file does not exist",
        Path("s3://no-such-bucket/a.jpg"): "the file does not exist",
    }
    for path, reason in zip(find_photos([*reasons]), reasons.values(), strict=True):
        with pytest.raises(ImageReadError, match=f"^{reason}"):
            read_image(path)
    monkeypatch.setattr(images, "MAX_FETCHED_BYTES", 10)
    monkeypatch.setattr(type(remote._filesystem("s3")), "cat_file", lambda *of: pytest.fail("was fetched"))
    with pytest.raises(ImageReadError, match=r"^has 17 bytes; at most 10 are fetched$"):
        read_image(find_photos([Path("s3://ships/odd/text.jpg")])[0])


@pytest.mark.parametrize("url", ["s3://ships/nothing-here", "s3://no-such-bucket/folder", "memory://nothing"])
def test_a_folder_that_is_not_there(server: Server, url: str) -> None:
    with pytest.raises(ManifestError, match=f"^{url} does not exist: there is no object below it.$"):
        Manifest.read(Path(url))
    assert [str(path) for path in find_photos([Path(url)])] == [url]  # and gets its row


def test_data_must_be_a_folder_or_a_table(server: Server) -> None:
    path = server.upload("single.txt", b"text")
    with pytest.raises(ManifestError, match="must be a folder of photos, or a manifest"):
        Manifest.read(path)
    server.upload("no-photos/readme.txt", b"text")
    with pytest.raises(ManifestError, match=r"^s3://ships/no-photos holds no photos\.$"):
        Manifest.read(Path("s3://ships/no-photos"))


def test_fingerprints_follow_the_objects_and_not_their_place(server: Server, tmp_path: Path) -> None:
    write_photos(tmp_path, "a/1.png", "a/2.png")
    here, there = (server.upload_folder(tmp_path, name) for name in ("here", "there"))
    before = Manifest.read(here).fingerprint()
    assert before == Manifest.read(there).fingerprint()
    path = find_objects(RemotePath("s3://ships/here/a/1.png"))[0]
    state = state_of(path)
    assert state == state_of(RemotePath(path.url)) == f"{path.size} {path.version}" and path.version.startswith("etag")
    server.upload("here/a/1.png", (tmp_path / "a/2.png").read_bytes())
    assert Manifest.read(here).fingerprint() != before
    assert state_of(RemotePath(path.url)) != state
    assert state_of(RemotePath("s3://ships/here/a/3.png")) == state_of(tmp_path / "3.png") == "missing"
    status = (tmp_path / "a/1.png").stat()
    assert state_of(tmp_path / "a/1.png") == f"{status.st_size} {status.st_mtime_ns}"


def test_without_an_etag_the_place_counts_too() -> None:
    one, other = (RemotePath(f"memory://box/{n}.png", size=3, version="time 2026-01-01") for n in (1, 2))
    assert digest_file(one) != digest_file(other)
    assert digest_file(one) != digest_file(RemotePath(one.url, size=3, version="time 2026-01-02"))


def test_several_photos_are_fetched_at_once_and_each_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from inlier.data.loader import load_batches
    from inlier.data.transforms import Transform

    folder = write_photos(tmp_path, *(f"{n}.png" for n in range(8)))
    root = server.upload_folder(folder, "at-once")
    meeting, fetched = threading.Barrier(2, timeout=60), []
    fetch = remote.RemotePath.read_bytes

    def meet(self: remote.RemotePath, *, max_bytes: int) -> bytes:
        fetched.append(str(self))
        meeting.wait()  # breaks unless another request is under way
        return fetch(self, max_bytes=max_bytes)

    monkeypatch.setattr(remote.RemotePath, "read_bytes", meet)
    photos = [Photo(path, "test") for path in find_photos([root])]
    batches = list(load_batches(photos, Transform(32, (0.5,) * 3, (0.5,) * 3), batch_size=8, workers=2))
    assert [str(photo.path) for photo in batches[0].photos] == [f"s3://ships/at-once/{n}.png" for n in range(8)]
    assert sorted(fetched) == [f"s3://ships/at-once/{n}.png" for n in range(8)]


def scores(folder: Path) -> list[tuple[str, float | None]]:
    table = parquet.read_table(folder / "verdicts.parquet")
    return list(zip([Path(path).name for path in table["path"].to_pylist()], table["score"].to_pylist(), strict=True))


def test_fit_and_inspect_give_the_same_as_over_local_files(
    server: Server, inlier: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []
    fetch = remote.RemotePath.read_bytes

    def note(self: remote.RemotePath, *, max_bytes: int) -> bytes:
        fetched.append(str(self))
        return fetch(self, max_bytes=max_bytes)

    monkeypatch.setattr(remote.RemotePath, "read_bytes", note)
    local = write_photos(tmp_path / "photos", *(f"{n}.png" for n in range(12)))
    root = server.upload_folder(local, "normal")
    for name, data in (("here", local), ("there", root)):
        ran = inlier("fit", data, "--out", tmp_path / name, *QUICK, "--quiet")
        assert (ran.status, ran.err) == (0, "")
        ran = inlier("inspect", tmp_path / name, data, "--out", tmp_path / f"{name}-inspected", "--quiet")
        assert (ran.status, ran.err) == (0, "")
    assert sorted(fetched) == sorted(2 * [f"s3://ships/normal/{n}.png" for n in range(12)])  # once by each
    assert scores(tmp_path / "here-inspected") == scores(tmp_path / "there-inspected")
    again = inlier("inspect", tmp_path / "there", root, "--out", tmp_path / "there-inspected", "--json")
    assert '"num_scored": 0' in again.out
    server.upload("normal/3.png", (local / "4.png").read_bytes())
    changed = inlier("inspect", tmp_path / "there", root, "--out", tmp_path / "there-inspected")
    assert changed.status == 2 and "holds an inspection of other photos" in changed.err


def test_doctor_and_evaluate_take_urls(server: Server, inlier: Callable[..., Any], dataset: Path, model_folder: Path,
                                       tmp_path: Path) -> None:  # fmt: skip
    root = server.upload_folder(dataset, "dataset")
    diagnosed, of_files = (json.loads(inlier("doctor", of, "--no-embedding", "--json").out) for of in (root, dataset))
    assert diagnosed["counts"] == of_files["counts"] and len(diagnosed["findings"]) == len(of_files["findings"])
    evaluated = inlier("evaluate", model_folder, root, "--out", tmp_path / "evaluation", "--json")
    here = inlier("evaluate", model_folder, dataset, "--out", tmp_path / "local", "--json")
    assert evaluated.status == here.status == 0
    assert [line for line in evaluated.out.split(",") if "image_auroc" in line] == [
        line for line in here.out.split(",") if "image_auroc" in line
    ]


def test_a_server_that_goes_away_leaves_photos_unreadable(
    environment: pytest.MonkeyPatch, inlier: Callable[..., Any], model_folder: Path, tmp_path: Path
) -> None:
    folder = write_photos(tmp_path, "1.png", "2.png")
    going = Server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", going.url)
        remote.disconnect()
        root = going.upload_folder(folder, "photos")
        photos = find_photos([root])
        going.stop()
        for path in photos:
            with pytest.raises(ImageReadError, match=r"^cannot be fetched: .*connect"):
                read_image(path)
        ran = inlier("inspect", model_folder, root / "1.png", "--out", tmp_path / "inspected")
        assert ran.status == 1 and "1 unreadable" in ran.out and "Traceback" not in ran.err
        error = parquet.read_table(tmp_path / "inspected" / "verdicts.parquet")["error"].to_pylist()[0]
        assert error.startswith("cannot be fetched: ")
        ran = inlier("fit", root, "--out", tmp_path / "model")
        assert ran.status == 2 and ran.err.count("\n") == 1 and "s3://ships/photos cannot be listed: " in ran.err
    remote.disconnect()


def test_a_reason_holds_no_password() -> None:
    error = OSError(f'Could not connect to the endpoint URL: "http://me:{SECRET}@host/ships".\nTraceback')
    assert remote._reason(error) == 'Could not connect to the endpoint URL: "http://host/ships"'


def test_names_of_one_file(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to("a.png")
    assert remote.real_path(tmp_path / "link.png") == remote.real_path(tmp_path / "a.png")
    assert remote.real_path(RemotePath("s3://ships/a.png")) == "s3://ships/a.png"
