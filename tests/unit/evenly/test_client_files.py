"""Files in both directions, and output as it comes."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from evenly.client import AsyncClient, Chunk, File, NodesUnreachable, Refused, TransferFailed
from evenly.client.files import place_of

from .fake_node import FakeCluster, FakeNode


async def test_a_thousand_jobs_with_the_same_file_upload_it_once(
    client: AsyncClient, node: FakeNode, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.write_bytes(b"x" * 700_000)
    jobs = ({"run": f"true {n}", "file": {"in/data": data}} for n in range(1000))
    tickets = [job.ticket async for job in client.submit_many(jobs)]
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    assert {node.jobs[ticket]["job"]["file"]["in/data"] for ticket in tickets} == {digest}
    assert node.uploads == 1
    assert await client.upload(data) == digest
    async with AsyncClient(node.address) as another:
        assert await another.upload(data) == digest
    assert node.uploads == 1
    data.write_bytes(b"other")
    assert await client.upload(data) != digest
    assert node.uploads == 2


async def test_an_upload_and_its_digest(client: AsyncClient, node: FakeNode, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    digest = await client.upload(tmp_path / "empty")
    job = await client.submit("true", file={"empty": digest})
    assert node.jobs[job.ticket]["job"]["file"] == {"empty": digest}
    # The node has lost it meanwhile.
    node.files.clear()
    await client.submit("true", file={"empty": digest})
    assert node.uploads == 2
    with pytest.raises(Refused, match="not here"):
        await client.submit("true", file={"empty": "0" * 64})
    with pytest.raises(FileNotFoundError):
        await client.submit("true", file={"empty": tmp_path / "nothing"})


async def test_files_go_to_the_node_that_takes_the_job(cluster: FakeCluster, tmp_path: Path) -> None:
    first, second = await cluster.start(2)
    (tmp_path / "data").write_bytes(b"data")
    async with AsyncClient(cluster.addresses, patience=0.2) as client:
        await client.submit("true", file={"data": tmp_path / "data"})
        await first.stop()
        job = await client.submit("true", file={"data": tmp_path / "data"})
        assert (job.node, first.uploads, second.uploads) == (second.address, 1, 1)


async def test_what_a_job_left_is_fetched_whole(client: AsyncClient, node: FakeNode, tmp_path: Path) -> None:
    job = await client.submit("true")
    left = {"out.txt": b"out", "deep/er/a b": os.urandom(1_000_000), "empty": b""}
    node.left[job.ticket] = left
    seen: list[File] = []
    paths = await client.fetch(job, tmp_path / "here", told=seen.append)
    assert [path.relative_to(tmp_path / "here").as_posix() for path in paths] == list(left)
    assert [path.read_bytes() for path in paths] == list(left.values())
    assert [file.path for file in seen] == list(left) == [file.path for file in await client.files(job)]
    assert len(list((tmp_path / "here").rglob("*"))) == 5, "and nothing unfinished is left"


async def test_what_arrives_spoiled_is_not_kept(client: AsyncClient, node: FakeNode, tmp_path: Path) -> None:
    job = await client.submit("true")
    node.left[job.ticket] = {"out": b"abc"}
    node.spoil = True
    with pytest.raises(TransferFailed, match="other bytes"):
        await client.fetch(job, tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    ["../out", "/etc/out", "a/../../out", "a//b", ".", "", "a/./b", "a\0b", "a\nb", "a\udc80", "x" * 5000],
)
def test_names_that_leave_the_directory(name: str, tmp_path: Path) -> None:
    with pytest.raises(TransferFailed):
        place_of(name, tmp_path)


async def test_a_link_that_leads_out_is_not_followed(
    client: AsyncClient, node: FakeNode, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "here/link").symlink_to(tmp_path / "outside")
    job = await client.submit("true")
    node.left[job.ticket] = {"link/out": b"abc"}
    with pytest.raises(TransferFailed):
        await client.fetch(job, tmp_path / "here")
    assert list((tmp_path / "outside").iterdir()) == []


async def test_a_fetch_goes_on_after_a_lost_connection(
    client: AsyncClient, node: FakeNode, tmp_path: Path
) -> None:
    job = await client.submit("true")
    node.left[job.ticket] = {str(n): bytes([n]) * 1000 for n in range(10)}
    seen: list[File] = []

    def told(file: File) -> None:
        seen.append(file)
        if len(seen) == 5:
            node.lose()

    paths = await client.fetch(job, tmp_path, told=told)
    assert [path.name for path in paths] == [str(n) for n in range(10)]


# --- output ------------------------------------------------------------------------------------------------


async def test_output_comes_as_it_is_written(client: AsyncClient, node: FakeNode) -> None:
    job = await client.submit("hold")
    output = node.output[job.ticket] = []
    chunks = client.tail(job)
    output.append((1, "stdout", 0, b"one\n"))
    assert await anext(chunks) == Chunk("stdout", b"one\n", 1, 0)
    output.append((1, "stderr", 0, "é".encode()))
    assert await anext(chunks) == Chunk("stderr", "é".encode(), 1, 0)
    node.finish(job.ticket)
    with pytest.raises(StopAsyncIteration):
        await anext(chunks)


async def test_output_goes_on_after_a_lost_connection(client: AsyncClient, node: FakeNode) -> None:
    job = await client.submit("hold")
    output = node.output[job.ticket] = [(1, "stdout", 0, b"one "), (1, "stderr", 0, b"err")]
    chunks = client.tail(job)
    assert [(await anext(chunks)).data for _ in range(2)] == [b"one ", b"err"]
    node.lose()
    # A piece that was half read before, as one that was cut otherwise would be.
    output.append((1, "stdout", 2, b"e two"))
    assert await anext(chunks) == Chunk("stdout", b"two", 1, 4)
    assert f"tail {job} 1 4 3" in node.lines
    await node.stop()
    output.append((2, "stdout", 0, b"again"))
    await node.start()
    assert await anext(chunks) == Chunk("stdout", b"again", 2, 0)
    await node.stop()
    node.finish(job.ticket)
    await node.start()
    assert [chunk async for chunk in chunks] == []
    assert f"tail {job} 2 5 0" in node.lines


async def test_output_of_a_node_that_stays_away(node: FakeNode) -> None:
    async with AsyncClient(node.address, patience=0.1) as client:
        job = await client.submit("hold")
        node.output[job.ticket] = [(1, "stdout", 0, b"one")]
        chunks = client.tail(job)
        await anext(chunks)
        await node.stop()
        with pytest.raises(NodesUnreachable):
            async with asyncio.timeout(20):
                await anext(chunks)
